#include "ipc/waiting.hpp"

#include "ipc/queues.hpp"

#include <bit>

namespace sluice {

namespace {

constexpr std::uint32_t mark_bits = 64;

constexpr std::uint64_t mark_of(LaneId lane) noexcept { return std::uint64_t{1} << (lane % mark_bits); }

// Whose sleep the mark stands for as well looks again, and sets it again: it had announced its sleep before it set
// the mark that is taken here, and is seen now.
void unmark(const Segment& segment, LaneId lane, std::uint64_t& marks) noexcept {
  if ((load(marks, relaxed) & mark_of(lane)) == 0) return;
  fetch_and(marks, ~mark_of(lane), seq_cst);  // M2 <- M1 (wait_any)
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
    // Where several lanes have the bit the mark does not say whose it is: all are rung, and none of them counts.
    std::uint32_t lanes = 0;
    bool has_rung = false;
    for (auto lane = bit; lane < segment.lane_count(); lane += mark_bits) {
      if (lane == 0 || lane_word::Active::get(load(segment.lane_row(lane).word, relaxed)) == 0) continue;
      ++lanes;
      has_rung = ring_for_one(segment.lane_row(lane).doorbell) || has_rung;
    }
    if (!has_rung) continue;
    last = bit;
    if (lanes == 1 && --lanes_max == 0) return;
  }
}

std::expected<std::size_t, Status> wait_any(Lane& lane, std::span<const WaitSource> sources,
                                            std::chrono::nanoseconds timeout) noexcept {
  auto found = sources.size();
  const auto ready = [&] { return (found = first_ready(sources)) < sources.size(); };
  if (lane.spin().until(timeout, ready)) return found;
  if (timeout <= std::chrono::nanoseconds::zero()) return std::unexpected(Status::timeout);
  lane.heap().flush();  // nobody waits for blocks that a sleeper has freed
  const auto mark = [&] {
    for (const auto& source : sources)
      if (source.marks != nullptr) fetch_or(*source.marks, mark_of(lane.id()), seq_cst);  // M1 -> M2 (unmark)
  };
  const auto waited = sleep_until(lane.row().doorbell, timeout, mark, ready);
  for (const auto& source : sources) {
    if (source.marks != nullptr) unmark(lane.segment(), lane.id(), *source.marks);
    if (source.waits != nullptr && waited.slept) fetch_add(*source.waits, 1, relaxed);
  }
  if (waited.slept) count_up(lane.counters().sleeps);
  // Who was rung for a source and does not take from it lets another one know.
  if (waited.status != Status::ok) found = first_ready(sources);
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (i != found && sources[i].marks != nullptr && sources[i].ready(sources[i].of))
      wake_one(lane.segment(), *sources[i].marks);
  if (found < sources.size()) return found;
  return std::unexpected(waited.status);
}

std::uint32_t begin_sleep(Lane& lane, std::span<std::uint64_t* const> marks) noexcept {
  return prepare_wait(lane.row().doorbell, [&] {
    for (auto* mark : marks) fetch_or(*mark, mark_of(lane.id()), seq_cst);  // M1 -> M2 (unmark)
  });
}

void end_sleep(Lane& lane, std::span<std::uint64_t* const> marks) noexcept {
  cancel_wait(lane.row().doorbell);
  for (auto* mark : marks) unmark(lane.segment(), lane.id(), *mark);
}

Status interrupt(const Segment& segment, LaneId lane, std::uint64_t incarnation) noexcept {
  if (lane == 0 || lane >= segment.lane_count()) return Status::stale;
  auto& row = segment.lane_row(lane);
  const auto word = load(row.word, acquire);
  if (lane_word::Active::get(word) == 0 || lane_word::Incarnation::get(word) != incarnation)
    return Status::stale;
  store(row.doorbell.interrupt, 1, sluice::release);  // I1 -> I2 (take_interrupt): what the request is about
  ring(row.doorbell);
  return Status::ok;
}

WaitSource interrupts(Lane& lane) noexcept {
  return {&lane.row().doorbell, [](const void* of) noexcept {
            return load(static_cast<const Doorbell*>(of)->interrupt, relaxed) != 0;
          }};
}

bool take_interrupt(Lane& lane) noexcept {
  auto& asked = lane.row().doorbell.interrupt;
  return load(asked, relaxed) != 0 && exchange(asked, 0, acq_rel) != 0;  // I2 <- I1 (interrupt)
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
