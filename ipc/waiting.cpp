#include "ipc/waiting.hpp"

#include "ipc/queues.hpp"

#include <bit>

namespace sluice {

namespace {

constexpr std::uint32_t mark_bits = 64;

constexpr std::uint64_t mark_of(LaneId lane) noexcept { return std::uint64_t{1} << (lane % mark_bits); }

// Whose sleep the mark stands for as well looks again, and sets it again.
void unmark(const Segment& segment, LaneId lane, std::uint64_t& marks) noexcept {
  if ((load(marks, relaxed) & mark_of(lane)) == 0) return;
  fetch_and(marks, ~mark_of(lane), relaxed);
  for (auto other = static_cast<std::uint32_t>(lane % mark_bits); other < segment.lane_count();
       other += mark_bits)
    if (other != lane && other != 0) ring(segment.lane_row(other).doorbell);
}

std::size_t first_ready(std::span<const WaitSource> sources) noexcept {
  std::size_t found = 0;
  while (found < sources.size() && !sources[found].ready(sources[found].of)) ++found;
  return found;
}

}  // namespace

// Behind the one that this thread woke last: else who sleeps again soonest would be woken always, and others never.
void detail::ring_marked(const Segment& segment, std::uint64_t marks, std::uint32_t lanes_max) noexcept {
  static thread_local std::uint32_t last = mark_bits - 1;
  const auto first = (last + 1) % mark_bits;
  for (auto turned = std::rotr(marks, static_cast<int>(first)); turned != 0; turned &= turned - 1) {
    const auto bit = (first + static_cast<std::uint32_t>(std::countr_zero(turned))) % mark_bits;
    for (auto lane = bit; lane < segment.lane_count(); lane += mark_bits) {
      if (lane == 0) continue;
      auto& bell = segment.lane_row(lane).doorbell;
      if (load(bell.waiting, relaxed) == 0) continue;  // rung by another, or not asleep yet: it will look
      last = bit;
      ring_slow(bell);
      if (--lanes_max == 0) return;
    }
  }
}

std::expected<std::size_t, Status> wait_any(Lane& lane, std::span<const WaitSource> sources,
                                            std::chrono::nanoseconds timeout) noexcept {
  for (int i = 0; i < wait_spins; ++i) {
    if (const auto found = first_ready(sources); found < sources.size()) return found;
    cpu_relax();
  }
  lane.heap().flush();  // nobody waits for blocks that a sleeper has freed
  auto found = sources.size();
  const auto waited = sleep_until(
      lane.row().doorbell, timeout,
      [&] {
        for (const auto& source : sources)
          if (source.marks != nullptr) fetch_or(*source.marks, mark_of(lane.id()), seq_cst);
      },
      [&] { return (found = first_ready(sources)) < sources.size(); });
  count_up(lane.counters().sleeps);
  for (const auto& source : sources)
    if (source.marks != nullptr) unmark(lane.segment(), lane.id(), *source.marks);
  // Who was rung for a source and does not take from it lets another one know.
  if (waited != Status::ok) found = first_ready(sources);
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (i != found && sources[i].marks != nullptr && sources[i].ready(sources[i].of))
      wake_one(lane.segment(), *sources[i].marks);
  if (found < sources.size()) return found;
  return std::unexpected(waited);
}

void forget_marks(const Segment& segment, LaneId lane) noexcept {
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    auto& row = queue_row(segment, index);
    if (queue_word::state(load(row.word, acquire)) != QueueState::ready) continue;
    unmark(segment, lane, row.consumers_waiting);
    unmark(segment, lane, row.producers_waiting);
  }
}

}  // namespace sluice
