#include "shm/shared.hpp"

#include "shm/crash_point.hpp"
#include "shm/operation_log.hpp"

namespace sluice {

namespace {

struct Wide {
  std::uint64_t low;
  std::uint64_t tag;
};

// The halves are loaded one by one: a pair that never was fails the compare-and-swap.
Wide load_wide(const TruthWord& word) noexcept { return {load(word.low, acquire), load(word.tag, acquire)}; }

// Remember whose tag this lane is about to remove.
void note_seen(const LaneView& lane, std::uint64_t tag) noexcept {
  const auto other = truth_tag::Lane::get(tag);
  if (other == 0 || other == lane.id || other >= lane.segment->header().lane_count) return;
  auto& seen = lane.segment->seen_row(lane.id)[other];
  const auto sequence = truth_tag::Sequence::get(tag);
  if (load(seen, relaxed) >= sequence) return;
  store(seen, sequence, release);  // T1 -> T2 (happened): precedes the CAS that removes the tag
  crash_point("block.tag.seen");
}

bool is_live_in(std::uint64_t low, std::uint64_t generation) noexcept {
  return truth::state(low) == BlockState::live && truth::Generation::get(low) == generation &&
         truth::Count::get(low) != 0;
}

// Whether the lane's operation `sequence` has changed this word. `low` receives the word's low half, and
// `carries` whether the tag is still there.
bool happened(const LaneView& lane, const TruthWord& word, std::uint64_t sequence, bool& carries) noexcept {
  // The word first: who removes the tag has stored its seen before.
  carries = load(word.tag, acquire) == truth_tag::make(lane.id, sequence);  // T2 <- T1 (note_seen)
  if (carries) return true;
  const auto& segment = *lane.segment;
  for (LaneId other = 1; other < segment.lane_count(); ++other) {
    if (load(segment.lane_row(other).cell_count, acquire) == 0)
      continue;  // never claimed: its row has no page
    if (load(segment.seen_row(other)[lane.id], acquire) >= sequence) return true;
  }
  return false;
}

// What an open clone or drop has come to.
struct Decision {
  bool has_happened = false;
  bool is_clone = false;
  bool last_dropped = false;  // this drop made the block FREEING, and it still is
  std::uint32_t cell = 0;
  Handle handle;
};

Decision decide(const LaneView& lane) noexcept {
  Decision decision;
  const auto sequence = open_sequence(*lane.row);
  if (sequence == 0) return decision;
  const auto& log = lane.row->log;
  const auto operation = static_cast<LaneOperation>(load(log.operation, relaxed));
  if (operation != LaneOperation::clone && operation != LaneOperation::drop) return decision;
  const auto cell = load(log.cell, relaxed);
  const Handle handle{load(log.handle, relaxed)};
  const auto view = locate(*lane.segment, handle);
  if (view.word == nullptr || cell >= lane.cell_count) return decision;
  bool carries = false;
  decision.has_happened = happened(lane, *view.word, sequence, carries);
  decision.is_clone = operation == LaneOperation::clone;
  decision.cell = static_cast<std::uint32_t>(cell);
  decision.handle = handle;
  const auto low = load(view.word->low, acquire);
  decision.last_dropped = carries && truth::state(low) == BlockState::freeing &&
                          truth::Generation::get(low) == lane.segment->split().generation(handle);
  return decision;
}

}  // namespace

Status clone_reference(const LaneView& lane, TruthWord& word, Handle handle, std::uint32_t cell,
                       bool needs_findable) noexcept {
  const auto generation = lane.segment->split().generation(handle);
  const auto sequence = open_log(lane, LaneOperation::clone, cell, handle);
  crash_point("block.clone.logged");
  auto outcome = Status::ok;
  for (auto found = load_wide(word);;) {
    const auto count = truth::Count::get(found.low);
    const bool allowed = !needs_findable || (truth::Flags::get(found.low) & truth::flag_findable) != 0;
    if (!is_live_in(found.low, generation) || !allowed) outcome = Status::stale;
    if (outcome == Status::ok && count == count_max) outcome = Status::overflow;
    if (outcome != Status::ok) break;
    note_seen(lane, found.tag);
    const auto low = truth::Count::set(found.low, count + 1) | truth::Flags::make(truth::flag_shared);
    if (cas_wide(word.low, word.tag, found.low, found.tag, low, truth_tag::make(lane.id, sequence))) break;
  }
  if (outcome == Status::ok) {
    crash_point("block.clone.counted");  // recovery: the tag or a seen tells, the cell is filled
    store(lane.cells[cell].handle, handle.value, release);
    crash_point("block.clone.announced");
  }
  close_log(lane);
  crash_point("block.clone.closed");
  return outcome;
}

Dropped drop_shared(const LaneView& lane, TruthWord& word, Handle handle, std::uint32_t cell,
                    bool own_slab) noexcept {
  const auto generation = lane.segment->split().generation(handle);
  const auto sequence = open_log(lane, LaneOperation::drop, cell, handle);
  crash_point("block.drop.logged");
  auto outcome = Dropped::others;
  for (auto found = load_wide(word);;) {
    if (!is_live_in(found.low, generation)) {
      outcome = Dropped::stale;
      break;
    }
    const auto count = truth::Count::get(found.low);
    auto low = truth::Count::set(found.low, count - 1);
    outcome = Dropped::others;
    if (count == 1) [[unlikely]] {
      const auto io = truth::Flags::get(found.low) & truth::flag_io;
      const bool frees = own_slab && io == 0;
      low = frees ? freed_word(generation, lane.segment->split())
                  : truth::make(generation, 0, BlockState::freeing, io);
      outcome = frees ? Dropped::freed : (io != 0 ? Dropped::freeing_io : Dropped::freeing);
    }
    note_seen(lane, found.tag);
    if (cas_wide(word.low, word.tag, found.low, found.tag, low, truth_tag::make(lane.id, sequence))) break;
  }
  if (outcome != Dropped::stale)
    crash_point("block.drop.dropped");  // recovery: as for a clone, the cell is void
  if (outcome == Dropped::others || outcome == Dropped::freed) {
    store(lane.cells[cell].handle, 0, release);
    crash_point("block.drop.cleared");
  }
  close_log(lane);
  crash_point("block.drop.closed");
  return outcome;
}

void finish_shared(const LaneView& lane) noexcept {
  const auto decision = decide(lane);
  if (!decision.has_happened) return;
  auto& cell = lane.cells[decision.cell];
  if (decision.is_clone)
    store(cell.handle, decision.handle.value, release);
  else if (!decision.last_dropped)  // else step 3 finds the FREEING block by the cell, and finishes the free
    store(cell.handle, 0, release);
  crash_point("recover.lane.shared");
}

OpenCell open_cell(const LaneView& lane) noexcept {
  const auto decision = decide(lane);
  if (!decision.has_happened || (!decision.is_clone && decision.last_dropped)) return {};
  return {true, decision.cell, decision.is_clone ? decision.handle : Handle{}};
}

}  // namespace sluice
