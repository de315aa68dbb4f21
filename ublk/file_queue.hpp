// One queue's part of a file target: each request as one or more entries of the queue's ring, one at a time.
//
// Thread safety: the queue's thread.
#pragma once

#include "ublk/target.hpp"

#include <cstdint>
#include <vector>

namespace sluice {

class FileQueue final : public TargetQueue {
 public:
  /// file  open for direct I/O, outlives this
  FileQueue(TargetContext& context, int file);

  void start(Request& request) noexcept override;
  void complete(std::uint32_t cookie, std::int32_t result, std::uint32_t flags) noexcept override;

 private:
  struct Slot {  // by tag, which is the cookie
    Request* request = nullptr;
    std::uint32_t done = 0;  // bytes that earlier entries moved
    bool syncing = false;    // what is under way is the sync behind it
  };

  void submit(Slot& slot) noexcept;
  void finish(Slot& slot, int error) noexcept;

  TargetContext& context_;
  int file_;
  std::vector<Slot> slots_;
};

}  // namespace sluice
