// Waiting for queues that have many at one end. Who sleeps for a queue leaves a mark in the queue's row; who changes
// the queue rings a lane that has left one.
//
//   sleeper  mark |= bit(me) ; as in doorbell.hpp: waiting = this sleep ; membarrier ; look ; sleep     ; mark &= ~bit(me)
//   waker    change the queue ; (compiler barrier) ; load mark ; ring the first marked lane that sleeps
//
// A mark is a bit, lane modulo 64. Where several lanes have the same, who takes it away rings the others, and they set
// it again. A mark of a dead lane costs a wake-up that nobody hears; recovery takes it away and rings all.
// Thread safety: any; a lane waits in its own thread.
#pragma once

#include "ipc/doorbell.hpp"
#include "ipc/lane.hpp"

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

/// Wait until a source is ready: spin briefly, then sleep. Others that are ready by then are left to other sleepers.
///
/// timeout  from now
/// returns  the first source that is ready
/// errors   timeout; interrupted  a signal arrived
std::expected<std::size_t, Status> wait_any(Lane& lane, std::span<const WaitSource> sources,
                                            std::chrono::nanoseconds timeout) noexcept;

/// Take a lane's marks away from all queues, and ring the lanes that share its bit: recovery step 4.
void forget_marks(const Segment& segment, LaneId lane) noexcept;

}  // namespace sluice
