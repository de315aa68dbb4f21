// The listening socket, and accepting from it.
//
// Accept is multishot while there are plenty of free connection slots, one at a time while they are scarce,
// and paused when there are none: then clients wait in the kernel's backlog. What the kernel had accepted by
// then is parked here. For want of descriptors or memory accept backs off for a while.
// Thread safety: the ring's thread.
#pragma once

#include "io/user_data.hpp"
#include "runtime/ring.hpp"
#include "shm/status.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

class Listener {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds backoff{100};

  /// Listen on a numeric address.
  ///
  /// parked_max  sockets that can be parked at once
  /// errors      bad_argument  not a numeric address; io_error, permission  "listen on HOST:PORT: …"
  static Expected<std::unique_ptr<Listener>> open(Ring& ring, const std::string& host, std::uint16_t port,
                                                  std::uint32_t parked_max);
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  std::uint16_t port() const noexcept { return port_; }

  /// A completion of RingOp::accept.
  void complete(UserData data, int result, std::uint32_t flags, Clock::time_point now) noexcept;

  /// A completion of RingOp::cancel_accept: the accept was not found. It has ended, or was just at work; then
  /// steer() and stop() try again.
  void cancel_failed() noexcept { cancelling_ = false; }

  /// The next accepted socket, the caller's from now on; -1 if there is none.
  int next() noexcept;
  /// Close the next accepted socket instead. False if there is none.
  bool refuse_next() noexcept;
  std::uint32_t waiting() const noexcept { return static_cast<std::uint32_t>(tail_ - head_); }

  /// Accept, or pause, as `free_slots` (of `slots`) asks for, counting the sockets that wait for next().
  void steer(std::uint32_t free_slots, std::uint32_t slots, Clock::time_point now) noexcept;
  /// When steer() should be called again without a completion; max() if that is never.
  Clock::time_point retry_at() const noexcept { return retry_at_; }

  /// Accept no more. What the backlog holds is accepted once more, then the socket is closed.
  void stop() noexcept;
  bool stopped() const noexcept { return fd_ < 0; }

  std::uint64_t pauses() const noexcept { return pauses_; }
  std::uint64_t backoffs() const noexcept { return backoffs_; }
  std::uint64_t stale() const noexcept { return stale_; }
  /// The errno with which accept failed for good, or 0.
  int failure() const noexcept { return failure_; }

 private:
  Listener(Ring& ring, std::uint32_t parked_max) : ring_(ring), sockets_(parked_max) {}
  Expected<void> listen(const std::string& host, std::uint16_t port);
  void arm(bool multishot) noexcept;
  void cancel() noexcept;
  void park(int fd) noexcept;
  void close_after_backlog() noexcept;

  Ring& ring_;
  int fd_ = -1;
  std::uint16_t port_ = 0;
  std::uint32_t generation_ = 0;  // of the armed accept
  bool armed_ = false;
  bool multishot_ = false;
  bool cancelling_ = false;
  bool paused_ = false;
  bool stopping_ = false;
  int failure_ = 0;
  Clock::time_point retry_at_ = Clock::time_point::max();
  std::vector<int> sockets_;  // ring of accepted ones
  std::uint64_t head_ = 0, tail_ = 0;
  std::uint64_t pauses_ = 0, backoffs_ = 0, stale_ = 0;
};

/// Raise the soft limit of descriptors to the hard one. Returns the limit.
std::uint64_t raise_descriptor_limit() noexcept;

}  // namespace sluice
