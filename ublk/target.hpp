// What stands behind a block device: the interface of all targets. One object for the device, and one for each queue,
// which lives on the queue's thread and is called only there.
//
//   UblkQueue                        TargetQueue
//   ---------                        -----------
//   request arrives        ───────>  start(request): finish() it at once, or keep it
//   entry of the target completes >  complete(cookie, …): finish() it now
//   each turn, or poll_at() ──────>  poll(): finish() what became possible
//   the server stops       ───────>  stop(): finish() what would wait for ever
//
// A request that was started must be finished: the kernel waits for it without end. Nothing here may throw, allocate or
// block on the data path.
#pragma once

#include "shm/status.hpp"
#include "ublk/request.hpp"

#include <liburing.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace sluice {

/// What a target is like; constant while the device exists.
struct TargetGeometry {
  std::uint64_t bytes = 0;              // a multiple of the logical block
  std::uint32_t logical_block = 512;    // smallest unit of I/O, a power of two, 512 to 4096
  std::uint32_t physical_block = 4096;  // smallest unit without read-modify-write, at least the logical block
  bool read_only = false;
  bool volatile_cache = false;            // finished writes may be lost until a flush: FLUSH and FUA arrive
  std::uint32_t discard_granularity = 0;  // bytes; 0: neither discard nor write-zeroes arrive
};

/// A move between a request's own pages and a file, in the direction of the request: a READ is filled, a WRITE emptied.
struct Transfer {
  int file = -1;
  std::uint64_t position = 0;  // in the file
  std::uint32_t at = 0;        // byte of the request
  std::uint32_t bytes = 0;
  int rw_flags = 0;  // RWF_…
  std::uint32_t cookie = 0;
};

/// What a TargetQueue may use of the queue that it belongs to.
class TargetContext {
 public:
  TargetContext() = default;
  TargetContext(const TargetContext&) = delete;
  TargetContext& operator=(const TargetContext&) = delete;
  virtual ~TargetContext() = default;

  virtual std::uint16_t queue() const noexcept = 0;
  virtual std::uint16_t depth() const noexcept = 0;

  /// An entry of the queue's io_uring, cleared: fill it with io_uring_prep_…. It is submitted together with all others
  /// of the turn; complete() gets the cookie. With at most one at a time for each tag it is never null.
  virtual io_uring_sqe* prepare(std::uint32_t cookie) noexcept = 0;

  /// The device has zero copy: no request has a buffer(), data moves by transfer().
  virtual bool zero_copy() const noexcept { return false; }
  /// Zero copy: let the kernel move data without a copy; complete() gets the cookie and how much it was, once the
  /// request's pages are its own again. One at a time for each request.
  /// returns  false: no entry is free, or not with this device and request
  virtual bool transfer(Request& /*request*/, const Transfer& /*transfer*/) noexcept { return false; }
};

class TargetQueue {
 public:
  TargetQueue() = default;
  TargetQueue(const TargetQueue&) = delete;
  TargetQueue& operator=(const TargetQueue&) = delete;
  virtual ~TargetQueue() = default;

  using Clock = std::chrono::steady_clock;

  /// A request, already checked: inside the device, not larger than its limit, of an operation that the geometry
  /// allows. It stays valid, at the same address, until it is finished.
  virtual void start(Request& request) noexcept = 0;

  /// An entry of prepare() completed. `result` and `flags` are the kernel's.
  virtual void complete(std::uint32_t cookie, std::int32_t result, std::uint32_t flags) noexcept;

  /// Once in each turn of the queue, after its events.
  virtual void poll() noexcept {}
  /// When poll() must be called next, however quiet it is.
  virtual Clock::time_point poll_at() const noexcept { return Clock::time_point::max(); }

  /// The device is about to stop, once: requests that wait for anything but the kernel are to be finished soon.
  virtual void stop() noexcept {}
};

class Target {
 public:
  Target() = default;
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  virtual ~Target() = default;

  virtual TargetGeometry geometry() const noexcept = 0;
  /// Whether its queues use Request::buffer().
  virtual bool uses_buffers() const noexcept = 0;
  /// Whether its queues do without the bytes of requests: they only let them move (TargetContext::transfer), or use none.
  virtual bool supports_zero_copy() const noexcept { return false; }
  /// One queue's part, called on that queue's thread before its first request. Destroyed on the same thread, before
  /// the target.
  virtual Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) = 0;
  /// Tells one store of data from another: a device is recovered only with the one that it was added with.
  virtual std::uint32_t fingerprint() const noexcept = 0;
  /// "file /var/disk.img", for messages.
  virtual std::string describe() const = 0;
  /// The device has ended in order and is deleted; after the last queue's part was destroyed.
  virtual void device_ended() noexcept {}
};

/// A number of the text, for fingerprint(): FNV-1a, which is the same in every build.
std::uint32_t fingerprint_of(std::string_view text) noexcept;

}  // namespace sluice
