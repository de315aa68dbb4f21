// Waiting. A lane sleeps on the futex in its row; whoever changes something the lane may wait for (a message,
// a free slot in a stream, a freed block) rings it.
//
// Ringing costs the waker one load when nobody sleeps: no fence. The sleeper pays instead, with membarrier:
//   sleeper  waiting = ASLEEP(this sleep) ; membarrier ; check the condition ; sleep ; waiting = 0
//   waker    make the condition true ; (compiler barrier) ; load waiting ; if it is ASLEEP: CLAIMED ; wake ; 0
// The barrier runs on every CPU between the two halves of each waker, so either the sleeper sees the condition
// or the waker sees `waiting`. A sleep is claimed by one waker: two that each have something for one of many
// sleepers wake two (waiting.hpp).  source: membarrier(2); Dekker 1965
#pragma once

#include "ipc/spin.hpp"
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
/// Wake whoever sleeps there, also if another has begun to: it may have died.
void ring_slow(Doorbell& doorbell) noexcept;
/// The same; true: a thread was woken, and for this caller alone.
bool ring_for_one(Doorbell& doorbell) noexcept;
void barrier_all() noexcept;
/// Sleep while the futex word is `seen`. ok: rung or spurious; timeout; interrupted: a signal came.
Status futex_sleep(Doorbell& doorbell, std::uint32_t seen, std::chrono::nanoseconds timeout) noexcept;

/// A sleep looks around so often, should its waker have died before it rang. Tests of lost wake-ups want it long.
inline std::atomic<std::chrono::nanoseconds> longest_sleep{std::chrono::milliseconds(100)};
}  // namespace detail

/// Wake the doorbell's lane if it sleeps. After the change that it may wait for.
inline void ring(Doorbell& doorbell) noexcept {
  std::atomic_signal_fence(seq_cst);  // D1 -> D2: the compiler keeps the order, membarrier the rest
  if (load(doorbell.waiting, relaxed) != 0) [[unlikely]]
    detail::ring_slow(doorbell);
}

/// Announce that this lane is about to sleep; after it, a condition found false can be slept upon. `mark()` says
/// so elsewhere too: whoever sees that, or takes it away, finds the announcement.
/// Returns the futex word to sleep against.
template <std::invocable Mark>
std::uint32_t prepare_wait(Doorbell& doorbell, Mark&& mark) noexcept {
  const auto seen = load(doorbell.sequence, acquire);
  store(doorbell.waiting, doorbell_word::asleep(seen), seq_cst);
  mark();
  detail::barrier_all();  // D2 <- D1 (ring)
  return seen;
}
inline std::uint32_t prepare_wait(Doorbell& doorbell) noexcept {
  return prepare_wait(doorbell, [] {});
}
/// The sleep is over, or did not begin. Who claimed it made its change before: what is looked at from here on has it.
inline void cancel_wait(Doorbell& doorbell) noexcept {
  exchange(doorbell.waiting, 0, acq_rel);  // D4 <- D3 (ring_for_one)
}

/// How a wait ended: ok, timeout, or interrupted by a signal; and whether the thread slept at all.
struct Waited {
  Status status = Status::ok;
  bool slept = false;
};

/// Sleep until `ready()` is true. `mark()` runs before each sleep, before anything is looked at.
///
/// timeout   from now, a year at most; the longest sleep is 100 ms at a time, whatever is asked
template <std::invocable Mark, std::predicate Ready>
Waited sleep_until(Doorbell& doorbell, std::chrono::nanoseconds timeout, Mark&& mark,
                   Ready&& ready) noexcept {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::min<std::chrono::nanoseconds>(timeout, std::chrono::years(1));
  for (bool slept = false;; slept = true) {
    const auto seen = prepare_wait(doorbell, mark);
    const bool is_ready = ready();
    const auto left = deadline - Clock::now();
    if (is_ready || left <= std::chrono::nanoseconds::zero()) {
      cancel_wait(doorbell);
      return {is_ready ? Status::ok : Status::timeout, slept};
    }
    const auto ended =
        detail::futex_sleep(doorbell, seen, std::min<std::chrono::nanoseconds>(left, detail::longest_sleep));
    cancel_wait(doorbell);
    if (ready()) return {Status::ok, true};
    if (ended == Status::interrupted) return {Status::interrupted, true};
  }
}

/// Wait until `ready()` is true: look for a while, then sleep. As sleep_until().
template <std::predicate Ready>
Status wait_until(Spin& spin, Doorbell& doorbell, std::chrono::nanoseconds timeout, Ready&& ready) noexcept {
  if (spin.until(timeout, ready)) return Status::ok;
  if (timeout <= std::chrono::nanoseconds::zero()) return Status::timeout;
  return sleep_until(doorbell, timeout, [] {}, ready).status;
}

}  // namespace sluice
