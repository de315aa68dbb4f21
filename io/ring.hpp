// An io_uring, owned. Queue entries are prepared by whoever uses it; this is opening, waiting and reaping.
//
// Thread safety: the thread that opened it, for its whole life (IORING_SETUP_SINGLE_ISSUER).
#pragma once

#include "io/uring_abi.hpp"
#include "shm/status.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

namespace sluice {

/// What a completion belongs to. The generation tells a slot's present holder from earlier ones.
enum class RingOp : std::uint8_t {
  none = 0,
  accept = 1,
  receive = 2,
  cancel = 3,  // of a receive; only failures complete
  cancel_accept = 4,
  doorbell = 5,
};

/// The 64 bits that travel with an operation: op:8 | slot:24 | generation:32.
struct UserData {
  RingOp op = RingOp::none;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;

  constexpr std::uint64_t encode() const noexcept {
    return static_cast<std::uint64_t>(op) << 56 | static_cast<std::uint64_t>(slot & 0xffffff) << 32 |
           generation;
  }
  static constexpr UserData decode(std::uint64_t word) noexcept {
    return {static_cast<RingOp>(word >> 56), static_cast<std::uint32_t>(word >> 32) & 0xffffff,
            static_cast<std::uint32_t>(word)};
  }
  bool operator==(const UserData&) const noexcept = default;
};

class Ring {
 public:
  /// Completions that the kernel can hold: `completions`, rounded up to a power of two, at most 65536.
  /// errors  io_error, permission, exhausted  "io_uring_setup: …"
  static Expected<std::unique_ptr<Ring>> open(unsigned submissions, unsigned completions);
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring();

  /// An empty queue entry with that user data, or null when the kernel takes no more now: try again after
  /// the next wait().
  io_uring_sqe* next(UserData data) noexcept;

  /// Submit what was prepared, then wait until a completion is there.
  /// returns  ok; timeout; interrupted  a signal came; io_error  see errno_value()
  Status wait(std::chrono::nanoseconds timeout) noexcept;
  int errno_value() const noexcept { return errno_value_; }

  /// Completions that are there, oldest first, at most a batch. They stay until advance().
  std::span<io_uring_cqe* const> completions() noexcept {
    return {batch_, io_uring_peek_batch_cqe(&ring_, batch_, batch_max)};
  }
  void advance(std::size_t count) noexcept { io_uring_cq_advance(&ring_, static_cast<unsigned>(count)); }

  bool supports(std::uint8_t op) const noexcept { return op < 64 && (operations_ >> op & 1) != 0; }
  /// One receive may fill several buffers, which saves a quarter of the CPU time per byte at 16 connections. Not used
  /// before kernel 6.17: from 6.10 on a retried bundle could put bytes out of order or leave a gap, and no
  /// feature bit tells that this is repaired.  source: axboe/liburing issue 1409
  bool receives_bundles() const noexcept { return bundles_; }
  void forgo_bundles() noexcept { bundles_ = false; }
  bool has_feature(std::uint32_t feature) const noexcept { return (ring_.features & feature) != 0; }
  unsigned completions_max() const noexcept { return ring_.cq.ring_entries; }
  io_uring* raw() noexcept { return &ring_; }

 private:
  static constexpr unsigned batch_max = 256;

  Ring() = default;
  void probe() noexcept;

  io_uring ring_{};
  bool open_ = false;
  bool bundles_ = false;
  int errno_value_ = 0;
  std::uint64_t operations_ = 0;
  io_uring_cqe* batch_[batch_max] = {};
};

}  // namespace sluice
