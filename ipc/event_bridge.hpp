// Queues beside sockets: an eventfd that becomes readable when one of several sources is ready, for epoll, io_uring and
// whatever else waits for descriptors. A thread with a lane of its own waits; it takes no messages.
//
//   user    until empty: take ; arm() ; wait for fd() ; …
//   bridge  armed: wait_any ; not armed any more ; write the eventfd
//
// It fires once for each arm(). What comes while the user takes does not fire; arm() looks itself, and once it has
// armed, the bridge looks after it has announced its sleep: whatever comes between the last take and the sleep is seen.
// Among the consumers of a work queue an armed bridge counts as one: it may be the one that is woken for a message,
// and then its user is expected to take.
// Thread safety: arm() from one thread at a time. The sources may be used meanwhile (but not moved).
#pragma once

#include "ipc/waiting.hpp"

#include <atomic>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace sluice {

class EventBridge {
 public:
  /// Start it, not armed. The sources, each with marks, outlive it.
  /// errors  bad_argument  no sources, or one without marks; exhausted  no lane, no thread, no memory
  ///         io_error      no eventfd
  static Expected<std::unique_ptr<EventBridge>> start(const Segment& segment, const Membership& process,
                                                      std::span<const WaitSource> sources);
  EventBridge(const EventBridge&) = delete;
  EventBridge& operator=(const EventBridge&) = delete;
  ~EventBridge();  // ends the thread

  /// Readable when a source was ready since arm(). It need not be read: arm() does.
  int fd() const noexcept { return fd_; }
  /// Fire at the next time that a source is ready; at once if one is. Again without effect until it has fired.
  void arm() noexcept;
  /// The lane that waits.
  LaneId lane() const noexcept { return lane_->id(); }

 private:
  EventBridge() = default;
  void run() noexcept;
  void fire() const noexcept;

  std::unique_ptr<Lane> lane_;
  std::vector<WaitSource> sources_;  // the last one: told to stop
  int fd_ = -1;
  std::atomic<bool> armed_{false};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace sluice
