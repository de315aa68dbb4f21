// Waiting. A lane sleeps on the futex in its row; whoever changes something the lane may wait for (a message,
// a free slot in a stream, a freed block) rings it.
//
// Ringing costs the waker one load when nobody sleeps: no fence. The sleeper pays instead, with membarrier:
//   sleeper  waiting = this sleep ; membarrier ; check the condition ; sleep
//   waker    make the condition true ; (compiler barrier) ; load waiting ; ring if set
// The barrier runs on every CPU between the two halves of each waker, so either the sleeper sees the condition
// or the waker sees `waiting`.  source: membarrier(2); Dekker 1965
#pragma once

#include "shm/atomic.hpp"
#include "shm/lane_layout.hpp"
#include "shm/status.hpp"

#include <chrono>
#include <concepts>

namespace sluice {

/// Register this process for the barrier. Every process that wakes or sleeps must, before it does.
/// errors  io_error  the kernel has no membarrier(GLOBAL_EXPEDITED)
Expected<void> register_waiter();

namespace detail {
void ring_slow(Doorbell& doorbell) noexcept;
void barrier_all() noexcept;
/// Sleep while the futex word is `seen`. ok: rung or spurious; timeout; interrupted: a signal came.
Status futex_sleep(Doorbell& doorbell, std::uint32_t seen, std::chrono::nanoseconds timeout) noexcept;
}  // namespace detail

/// Wake the doorbell's lane if it sleeps. After the change that it may wait for.
inline void ring(Doorbell& doorbell) noexcept {
  std::atomic_signal_fence(seq_cst);  // D1 -> D2: the compiler keeps the order, membarrier the rest
  if (load(doorbell.waiting, relaxed) != 0) [[unlikely]]
    detail::ring_slow(doorbell);
}

/// Announce that this lane is about to sleep; after it, a condition found false can be slept upon.
/// Returns the futex word to sleep against.
inline std::uint32_t prepare_wait(Doorbell& doorbell) noexcept {
  const auto seen = load(doorbell.sequence, acquire);
  store(doorbell.waiting, (seen << 1) | 1, seq_cst);  // another value for each sleep: see ring_slow
  detail::barrier_all();                              // D2 <- D1 (ring)
  return seen;
}
inline void cancel_wait(Doorbell& doorbell) noexcept { store(doorbell.waiting, 0, relaxed); }

inline constexpr int wait_spins = 200;  // some microseconds; chosen, not measured

/// Sleep until `ready()` is true. `mark()` runs before each sleep, before anything is looked at.
///
/// timeout   from now; the longest sleep is 100 ms at a time, whatever is asked
/// returns   ok, timeout, or interrupted when a signal arrived
template <std::invocable Mark, std::predicate Ready>
Status sleep_until(Doorbell& doorbell, std::chrono::nanoseconds timeout, Mark&& mark,
                   Ready&& ready) noexcept {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    mark();
    const auto seen = prepare_wait(doorbell);
    if (ready()) {
      cancel_wait(doorbell);
      return Status::ok;
    }
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds::zero()) {
      cancel_wait(doorbell);
      return Status::timeout;
    }
    const auto slept = detail::futex_sleep(
        doorbell, seen, std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(100)));
    cancel_wait(doorbell);
    if (ready()) return Status::ok;
    if (slept == Status::interrupted) return Status::interrupted;
  }
}

/// Wait until `ready()` is true: spin briefly, then sleep. As sleep_until().
template <std::predicate Ready>
Status wait_until(Doorbell& doorbell, std::chrono::nanoseconds timeout, Ready&& ready) noexcept {
  for (int i = 0; i < wait_spins; ++i) {
    if (ready()) return Status::ok;
    cpu_relax();
  }
  return sleep_until(doorbell, timeout, [] {}, ready);
}

}  // namespace sluice
