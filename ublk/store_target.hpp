// A device whose content lives in blocks of a segment: it outlives its servers, and workers get what is written in the
// very blocks that the device keeps.
//
//   WRITE          new blocks, the data copied into them once, then put into the device's extent map; the old ones go
//   READ           from the blocks of the map; zeroes where there is none
//   DISCARD        takes blocks out of the map; WRITE_ZEROES too: the next write needs a new block anyway
//   FLUSH, FUA     fdatasync of the segment's file
//   with a stream  every write, range of zeroes and flush is a message: ipc/extent_store.hpp
//
// The block of such a device is 4 KiB. A write is not atomic: a server that is killed in it leaves some of its blocks
// new and some old, each of them whole.
#pragma once

#include "ipc/extent_store.hpp"
#include "runtime/session.hpp"
#include "ublk/target.hpp"

#include <chrono>
#include <memory>
#include <mutex>
#include <string>

namespace sluice {

/// What a write does while its stream is full.
enum class PublishPolicy : std::uint8_t {
  block,  // waits for the consumer
  fail,   // EIO at once
};

struct StoreTargetOptions {
  std::string segment;      // path of one that exists
  std::string name;         // of the device's extent map, created if there is none
  std::uint64_t bytes = 0;  // the device's size; 0: as the map has it
  bool thin = false;        // may be larger than what the segment can hold
  std::string publish;      // the stream that is told of changes, created if there is none; empty: none
  PublishPolicy policy = PublishPolicy::block;
  std::uint32_t stream_capacity = 4096;    // messages, of a stream that is created
  std::chrono::milliseconds role_wait{0};  // for a dead server to be gone
};

/// The lane that all queues of a device allocate and release through, one at a time: what one of them frees the others
/// can have, which of lanes of their own is not so. It is held for the moments in which blocks change hands, never while
/// data is copied.
struct StoreLane {
  std::mutex mutex;  // before the locks of ExtentStore
  std::unique_ptr<Lane> lane;
};

class StoreTarget final : public Target {
 public:
  /// errors  bad_argument  size 0, not a multiple of 64 KiB, not the map's, above the segment's; what it is
  ///         busy          another process serves it: "device disk0: served by process 4711"
  ///         exhausted     the segment has no room for the map
  ///         those of Session::open and ExtentStore::open
  static Expected<std::unique_ptr<Target>> open(const StoreTargetOptions& options);
  TargetGeometry geometry() const noexcept override;
  bool uses_buffers() const noexcept override { return false; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override;
  std::uint32_t fingerprint() const noexcept override { return fingerprint_; }
  std::string describe() const override;
  void device_ended() noexcept override { store_->close(); }

 private:
  StoreTarget(StoreTargetOptions options, Session session) noexcept;
  Expected<QueueId> find_map(Lane& lane);
  Expected<void> check_size() const;

  StoreTargetOptions options_;
  std::uint32_t fingerprint_ = 0;
  Session session_;
  std::unique_ptr<ExtentStore> store_;
  StoreLane lane_;
};

}  // namespace sluice
