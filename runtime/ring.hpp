// An io_uring, owned. Queue entries are prepared by whoever uses it; this is opening, waiting and reaping.
//
// Thread safety: the thread that opened it, for its whole life (IORING_SETUP_SINGLE_ISSUER).
#pragma once

#include "runtime/uring_abi.hpp"
#include "shm/status.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

namespace sluice {

class Ring {
 public:
  /// Completions that the kernel can hold: `completions`, rounded up to a power of two, at most 65536.
  ///
  /// setup_flags  IORING_SETUP_… beyond those that every ring of ours has, e.g. SQE128
  /// errors       io_error, permission, exhausted  "io_uring_setup: …"
  static Expected<std::unique_ptr<Ring>> open(unsigned submissions, unsigned completions,
                                              unsigned setup_flags = 0);
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring();

  /// An empty queue entry with that user data, or null when the kernel takes no more now: try again after
  /// the next wait().
  io_uring_sqe* next(std::uint64_t user_data) noexcept;

  /// Make sure that the next so many entries are submitted together: what is linked must be.
  /// returns  false: the kernel takes no more now
  bool reserve(unsigned entries) noexcept;

  /// Submit what was prepared, then wait until a completion is there.
  /// returns  ok; timeout; interrupted  a signal came; io_error  see errno_value()
  Status wait(std::chrono::nanoseconds timeout) noexcept;
  int errno_value() const noexcept { return errno_value_; }
  /// System calls that next() and wait() made.
  std::uint64_t enters() const noexcept { return enters_; }

  /// Completions that are there, oldest first, at most a batch. They stay until advance().
  std::span<io_uring_cqe* const> completions() noexcept {
    return {batch_, io_uring_peek_batch_cqe(&ring_, batch_, batch_max)};
  }
  void advance(std::size_t count) noexcept { io_uring_cq_advance(&ring_, static_cast<unsigned>(count)); }

  bool supports(std::uint8_t op) const noexcept { return op < 64 && (operations_ >> op & 1) != 0; }
  bool has_feature(std::uint32_t feature) const noexcept { return (ring_.features & feature) != 0; }
  unsigned completions_max() const noexcept { return ring_.cq.ring_entries; }
  io_uring* raw() noexcept { return &ring_; }

 private:
  static constexpr unsigned batch_max = 256;

  Ring() = default;
  void probe() noexcept;

  io_uring ring_{};
  bool open_ = false;
  int errno_value_ = 0;
  std::uint64_t operations_ = 0;
  std::uint64_t enters_ = 0;
  io_uring_cqe* batch_[batch_max] = {};
};

}  // namespace sluice
