// One queue of a block device: brings requests from the driver to the target, and their results back.
//
// A turn: wait (one system call, which also submits everything that the last turn prepared) → every event: a request
// is checked and started, a completion goes to the target → the target polls. All results of a turn are commits of one
// submission.
//
// Invariants
//   1. A tag is the driver's or the target's. It is committed exactly once for each request, by finish().
//   2. In copy mode a tag's buffer is the same for its whole life, and nothing else is ever the address of a fetch or
//      commit. A commit's address is stored before its request completes: the data of a READ is taken from there, and
//      the data of the tag's next WRITE lands there. So it must hold this READ's data and must not be memory that the
//      next WRITE may not overwrite.
//   3. With zero copy a tag is not committed while its pages are lent to the ring (register_data): one that the target
//      finishes meanwhile is committed when they are back.
//   4. READ and WRITE are committed with their full byte count, everything else with 0, errors with -errno.
//
// Thread safety: one thread; stop(), counters() and statistics() from any.
#pragma once

#include "ublk/driver_queue.hpp"
#include "ublk/request.hpp"
#include "ublk/statistics.hpp"
#include "ublk/target.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice {

/// How the data of requests travels.
enum class DataPath : std::uint8_t {
  user_copy,  // Request::take_data() and give_data() are system calls, straight between request and memory
  copy,       // the driver copies to and from the tag's buffer, which costs a second copy to anywhere else
  zero_copy,  // the kernel moves it between the request's pages and a file; what else a target does is user copy
};

struct UblkQueueOptions {
  std::uint16_t index = 0;
  std::uint16_t depth = 1;
  std::uint32_t io_bytes_max = 0;  // of one request
  DataPath data_path = DataPath::user_copy;
  std::span<std::byte> buffers;  // depth * io_bytes_max, page-aligned; empty: none
};

class UblkQueue final : private TargetContext {
 public:
  /// driver  outlives this
  /// errors  those of Target::open_queue
  static Expected<std::unique_ptr<UblkQueue>> open(DriverQueue& driver, Target& target,
                                                   const UblkQueueOptions& options);
  ~UblkQueue() override;

  /// Hand every tag to the driver for the first time.
  /// errors  io_error, busy  the driver refused a tag: "fetch tag 3 of queue 0: …"
  Expected<void> fetch_all();

  /// One turn.
  /// errors  io_error  the ring failed, or the driver refused a commit
  Expected<void> turn(std::chrono::nanoseconds wait_max);

  /// Every tag came back from a device that stops: there will be no more requests.
  bool ended() const noexcept { return gone_ == depth(); }

  /// Tell the target that the device is about to stop; the queue goes on until it ended().
  void stop() noexcept;

  UblkCounters counters() const noexcept;
  UblkStatistics statistics() const noexcept;

 private:
  friend class Request;

  UblkQueue(DriverQueue& driver, const UblkQueueOptions& options, const TargetGeometry& geometry);

  std::uint16_t queue() const noexcept override { return options_.index; }
  std::uint16_t depth() const noexcept override { return options_.depth; }
  io_uring_sqe* prepare(std::uint32_t cookie) noexcept override { return driver_.prepare(cookie); }
  bool zero_copy() const noexcept override { return options_.data_path == DataPath::zero_copy; }
  bool transfer(Request& request, const Transfer& transfer) noexcept override;

  std::uint64_t address_of(const Request& request) const noexcept;
  void on_tag(const DriverEvent& event) noexcept;
  void on_transfer(const DriverEvent& event) noexcept;
  int accept(Request& request) noexcept;
  void finished(Request& request, int errno_value) noexcept;
  int move_data(const Request& request, std::uint32_t at, std::size_t count,
                Request::Operation wanted) const noexcept;
  void count(const Request& request, int errno_value) noexcept;
  void time_commits() noexcept;
  UblkUnderWay under_way() const noexcept;

  DriverQueue& driver_;
  UblkQueueOptions options_;
  TargetGeometry geometry_;
  std::vector<Request> requests_;  // by tag
  std::unique_ptr<TargetQueue> target_;
  std::atomic<bool> stopping_{false};
  bool target_stopped_ = false;
  std::uint32_t gone_ = 0;                // tags that came back for good
  std::vector<std::uint16_t> committed_;  // tags, since the last wait; never more than the depth
  int refused_errno_ = 0;                 // the driver refused a fetch or commit of
  std::uint16_t refused_tag_ = 0;
  // Written by the thread, read by any:
  UblkCounters counters_;
  UblkLatencies latencies_;
  std::vector<std::uint64_t> arrivals_ns_;  // by tag; 0: not with the target
  std::uint64_t turned_ns_ = 0;             // when the last wait ended
};

}  // namespace sluice
