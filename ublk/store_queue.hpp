// One queue of a store target: requests cut into parts of one group each, which are done at once, or wait in order for
// room in the stream.
// Thread safety: as TargetQueue.
#pragma once

#include "ipc/extent_store.hpp"
#include "ublk/store_target.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

class StoreQueue final : public TargetQueue {
 public:
  StoreQueue(TargetContext& context, ExtentStore& store, StoreLane& lane, PublishPolicy policy);

  void start(Request& request) noexcept override;
  void complete(std::uint32_t cookie, std::int32_t result, std::uint32_t flags) noexcept override;
  void poll() noexcept override;
  Clock::time_point poll_at() const noexcept override;
  void stop() noexcept override;

 private:
  struct Progress {
    Request* request = nullptr;
    std::uint32_t done = 0;  // bytes
  };
  // How far a request came: finished, or to be continued when there is room, or at once in the next turn.
  enum class Next : std::uint8_t { nothing, when_room, soon };
  // Blocks of one part, and where they go: pages, or one group.
  struct Part {
    std::uint64_t page = 0;
    std::uint32_t pages = 0;
    bool whole = false;

    std::uint32_t blocks() const noexcept { return whole ? 1 : pages; }
  };

  Part part_of(const Progress& progress) const noexcept;
  Next advance(Progress& progress) noexcept;
  Next write(Progress& progress) noexcept;
  Next clear(Progress& progress) noexcept;
  Next synchronize(Progress& progress) noexcept;
  Next failed(Progress& progress, Status status) noexcept;
  Next finish(Progress& progress, int errno_value) noexcept;
  int read(Request& request) noexcept;
  std::uint64_t messages_of(const Request& request) const noexcept;
  Status allocate(Part& part, std::span<Reference> blocks, std::span<iovec> pieces) noexcept;
  void release(std::span<const Reference> blocks) noexcept;

  void wait(std::uint16_t tag) noexcept;
  std::uint16_t next_waiting() noexcept;

  TargetContext& context_;
  ExtentStore& store_;
  StoreLane& lane_;
  PublishPolicy policy_;
  std::vector<Progress> progress_;      // by tag
  std::vector<std::uint16_t> waiting_;  // a ring of tags, in the order of their arrival
  std::size_t waiting_first_ = 0;
  std::size_t waiting_count_ = 0;
  Clock::time_point poll_at_ = Clock::time_point::max();
  Clock::time_point give_up_ = Clock::time_point::max();
};

}  // namespace sluice
