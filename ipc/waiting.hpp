// Waiting for queues that have many at one end, and for several things at once. Who sleeps for a queue leaves a mark in
// the queue's row; who changes the queue rings a lane that has left one.
//
//   sleeper  waiting = ASLEEP ; mark |= bit(me) ; membarrier ; look ; sleep ; waiting = 0     ; mark &= ~bit(me)
//   waker    change the queue ; (compiler barrier) ; load mark ; claim and wake the first marked lane that sleeps
//
// Invariants
//   1. A wake-up is one waker's: of two that wake one each, the second finds the first's sleeper claimed, and goes on.
//      One that meets nobody asleep (about to sleep, stopped, or dead) counts for nothing, and the search goes on.
//   2. A lane that was woken for one source and takes from another lets another lane know. A claim is made before the
//      sleep is over, or fails.
//   3. A mark is a bit, lane modulo 64. Who takes it away rings the others that have the same, and they set it again:
//      the announcement precedes the mark, so they are seen.
// A dead lane's mark stays until recovery takes it away, which rings all; until then it costs wakers a look.
// Thread safety: any; a lane waits in its own thread.
#pragma once

#include "ipc/doorbell.hpp"
#include "ipc/lane.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace sluice {

namespace detail {
void ring_marked(const Segment& segment, std::uint64_t marks, std::uint32_t lanes_max) noexcept;
}  // namespace detail

/// Wake a lane, or all lanes, that sleep for the queue whose marks these are. After the change that they wait for.
/// Costs a load when nobody sleeps.
inline void wake_one(const Segment& segment, const std::uint64_t& marks) noexcept {
  std::atomic_signal_fence(seq_cst);  // D1 -> D2, as ring()
  if (const auto now = load(marks, relaxed); now != 0) [[unlikely]]
    detail::ring_marked(segment, now, 1);
}
inline void wake_all(const Segment& segment, const std::uint64_t& marks) noexcept {
  std::atomic_signal_fence(seq_cst);  // D1 -> D2
  if (const auto now = load(marks, relaxed); now != 0) [[unlikely]]
    detail::ring_marked(segment, now, ~std::uint32_t{0});
}

/// Something that a lane can wait for: an end of a queue, or anything whose changer rings the lane.
struct WaitSource {
  const void* of = nullptr;
  bool (*ready)(const void* of) noexcept = nullptr;
  std::uint64_t* marks = nullptr;  // null: who changes it knows the lane and rings it
  std::uint64_t* waits = nullptr;  // counts the waits for it that slept
};

inline constexpr auto forever = std::chrono::nanoseconds::max();

using WaitClock = std::chrono::steady_clock;
/// When a wait that begins now is over; forever does not overflow.
inline WaitClock::time_point deadline_after(std::chrono::nanoseconds timeout) noexcept {
  const auto now = WaitClock::now();
  return timeout >= WaitClock::time_point::max() - now ? WaitClock::time_point::max() : now + timeout;
}
/// What one sleep may take of it: an hour at most.
inline std::chrono::nanoseconds left_until(WaitClock::time_point deadline) noexcept {
  return std::min<std::chrono::nanoseconds>(deadline - WaitClock::now(), std::chrono::hours(1));
}

/// Wait until a source is ready: look for a while, then sleep.
///
/// timeout  from now; 0 looks once
/// returns  the first source that is ready: the caller takes from it. Others that are ready by then are left to other
///          sleepers
/// errors   timeout; interrupted  a signal arrived
std::expected<std::size_t, Status> wait_any(Lane& lane, std::span<const WaitSource> sources,
                                            std::chrono::nanoseconds timeout) noexcept;

/// For who sleeps by other means than wait_any(), such as io_uring's futex: leave marks and announce the sleep. What is
/// looked at afterwards and found false can be slept upon. Returns the word of the doorbell to sleep against.
std::uint32_t begin_sleep(Lane& lane, std::span<std::uint64_t* const> marks) noexcept;
/// The sleep is over, or did not begin. Who was rung for a queue and does not change it lets another one know.
void end_sleep(Lane& lane, std::span<std::uint64_t* const> marks) noexcept;

/// Ask a lane to stop waiting, from any thread or process: it holds until the lane takes it. A lane that was claimed a
/// moment ago may find one that was meant for its predecessor.
/// errors  stale  the lane is not that one any more
Status interrupt(const Segment& segment, LaneId lane, std::uint64_t incarnation) noexcept;
/// That, as something to wait for. By the lane itself.
WaitSource interrupts(Lane& lane) noexcept;
/// false: nobody asked.
bool take_interrupt(Lane& lane) noexcept;

/// Take a lane's marks away from all queues, and ring the lanes that share its bit: recovery step 4.
void forget_marks(const Segment& segment, LaneId lane) noexcept;

}  // namespace sluice
