#include "shm/units.hpp"

#include "shm/crash_point.hpp"
#include "shm/operation_log.hpp"
#include "shm/shared.hpp"

#include <algorithm>

#include <sched.h>

namespace sluice {

namespace {

bool available(std::uint64_t word) noexcept {
  const auto state = unit_word::state(word);
  return state == UnitState::free || state == UnitState::free_uncommitted;
}

constexpr std::uint64_t word_of(UnitState state) noexcept { return unit_word::make(state, 0, 0, 0); }

// What was asked for, and the states that units pass through under this lane's open operation.
struct Taking {
  LaneOperation operation;
  std::uint64_t count;
  std::uint32_t bands;  // truth words to commit, per unit: all for a slab, band 0 for the rest
  std::uint64_t cell = 0;
  std::uint64_t queue = 0;
  bool needs_generation = false;  // the first unit's slot 0 becomes a block
};

// Give reserved units back. `committed` tells whether their pages are known to be there.
void unreserve(const LaneView& lane, std::uint64_t first, std::uint64_t count, bool committed) noexcept {
  for (auto unit = first; unit < first + count; ++unit)
    store(lane.segment->unit(unit).word, word_of(committed ? UnitState::free : UnitState::free_uncommitted),
          release);
}

enum class Reserve : std::uint8_t { done, contended, unusable, no_space };

// Reserve exactly [first, first + count) and back it with pages, or leave it as it was.
Reserve reserve_at(const LaneView& lane, const Taking& taking, std::uint64_t first) noexcept {
  const auto& segment = *lane.segment;
  const auto sequence = open_log(lane, taking.operation,
                                 {.first = first, .count = taking.count, .word = taking.queue}, taking.cell);
  if (taking.operation == LaneOperation::take_units)
    crash_point("slab.cut.logged");
  else
    crash_point("run.take.logged");
  const auto reserved = unit_word::make(UnitState::reserved, 0, lane.id, sequence);
  bool all_committed = true;
  for (std::uint64_t i = 0; i < taking.count; ++i) {
    auto& word = segment.unit(first + i).word;
    auto found = load(word, relaxed);
    if (!available(found) || !cas(word, found, reserved, acq_rel)) {
      unreserve(lane, first, i, false);
      close_log(lane);
      return Reserve::contended;
    }
    all_committed = all_committed && unit_word::state(found) == UnitState::free;
    if (taking.operation == LaneOperation::take_units)
      crash_point("slab.cut.reserved");
    else
      crash_point("run.take.reserved_one");
  }
  auto outcome = Reserve::done;
  if (!all_committed && segment.commit_payload(first, taking.count) != Status::ok)
    outcome = Reserve::no_space;
  if (outcome == Reserve::done) {
    for (auto unit = first; unit < first + taking.count && outcome == Reserve::done; ++unit) {
      auto& bands = segment.unit(unit).bands;
      if (load(bands, relaxed) >= taking.bands) continue;
      if (segment.commit_bands(unit, taking.bands) == Status::ok)
        store(bands, taking.bands, relaxed);
      else
        outcome = Reserve::no_space;
    }
    all_committed = true;
  }
  if (outcome == Reserve::done && taking.needs_generation &&
      truth::state(load(segment.truth_word(first, 0).low, relaxed)) != BlockState::free)
    outcome = Reserve::unusable;  // slot 0 is retired: this unit can be anything but the head of a run
  if (outcome != Reserve::done) {
    unreserve(lane, first, taking.count, all_committed);
    close_log(lane);
    return outcome;
  }
  if (taking.operation == LaneOperation::take_units)
    crash_point("slab.cut.committed");
  else
    crash_point("run.take.committed");
  return Reserve::done;
}

struct Search {
  std::uint64_t first = 0;
  bool found = false;
  bool contended = false;  // saw units that somebody is reserving
  bool no_space = false;   // the file system has none
};

// One pass over the committed units from `from`: reserve the first stretch that is long enough.
Search reserve_from(const LaneView& lane, const Taking& taking, std::uint64_t from) noexcept {
  const auto& segment = *lane.segment;
  const auto committed = segment.units_committed();
  Search search;
  std::uint64_t length = 0;
  for (auto unit = from; unit < committed; ++unit) {
    const auto word = load(segment.unit(unit).word, relaxed);
    if (!available(word)) {
      search.contended |= unit_word::state(word) == UnitState::reserved;
      length = 0;
      continue;
    }
    if (++length < taking.count) continue;
    const auto first = unit + 1 - taking.count;
    switch (reserve_at(lane, taking, first)) {
      case Reserve::done:
        search.first = first;
        search.found = true;
        return search;
      case Reserve::contended: search.contended = true; break;
      case Reserve::no_space: search.no_space = true; break;
      case Reserve::unusable: unit = first; break;
    }
    length = 0;
  }
  return search;
}

// Reserve units, growing the file when there are none. The lane's log is open afterwards, if it succeeded.
std::expected<std::uint64_t, Status> reserve(const LaneView& lane, const Taking& taking) noexcept {
  const auto& segment = *lane.segment;
  auto& hint = segment.control().free_unit_hint;
  if (taking.count > segment.geometry().units_max) return std::unexpected(Status::too_large);
  const auto attempt = [&] {
    const auto from = load(hint, relaxed);
    auto search = reserve_from(lane, taking, from);
    if (search.found && search.first == from) store(hint, from + taking.count, relaxed);
    // By what is left if that is less: free units at the end may complete the run.
    const auto growth = [&] {
      return segment.grow(std::min(taking.count, segment.geometry().units_max - segment.units_committed()));
    };
    while (!search.found && growth() == Status::ok) search = reserve_from(lane, taking, from);
    if (!search.found && from != 0) search = reserve_from(lane, taking, 0);  // the hint may have missed some
    return search;
  };
  auto search = attempt();
  if (search.found) return search.first;
  if (!search.contended) return std::unexpected(Status::exhausted);

  // Two allocators may have undone each other. One at a time tries again before it says that there is no room;
  // the wait is bounded, because the claimer may be dead.
  auto& claimer = segment.control().run_claimer;
  const auto self = lane_claim::make(lane.id, lane.incarnation);
  bool claimed = false;
  for (int tries = 0; tries < 1000 && !search.found; ++tries) {
    if (!claimed) {
      std::uint64_t nobody = 0;
      claimed = cas(claimer, nobody, self, acq_rel);
    }
    if (claimed || tries > 900) search = attempt();
    if (!search.contended) break;
    if (!search.found) sched_yield();
  }
  if (claimed) store(claimer, 0, release);
  if (search.found) return search.first;
  return std::unexpected(Status::exhausted);
}

// A free unit lies below the hint now. A lost update only makes a later search start higher.
void lower_hint(const Segment& segment, std::uint64_t unit) noexcept {
  auto& hint = segment.control().free_unit_hint;
  if (unit < load(hint, relaxed)) store(hint, unit, relaxed);
}

// Undo what an open operation reserved: exactly the words that carry its tag.
void roll_back(const LaneView& lane, std::uint64_t first, std::uint64_t count,
               std::uint64_t sequence) noexcept {
  const auto& segment = *lane.segment;
  for (auto unit = first; unit < first + count; ++unit) {
    auto& word = segment.unit(unit).word;
    for (const auto state : {UnitState::reserved, UnitState::interior, UnitState::run, UnitState::storage}) {
      auto expected = unit_word::make(state, 0, lane.id, sequence);
      if (cas(word, expected, word_of(UnitState::free_uncommitted), acq_rel)) break;
    }
  }
  lower_hint(segment, first);
}

// Shape, interior, head: the head's word is published last.
void publish_run(const LaneView& lane, std::uint64_t first, std::uint64_t count, UnitState head) noexcept {
  const auto& segment = *lane.segment;
  const auto sequence = load(lane.row->sequence, relaxed);
  for (std::uint64_t i = 1; i < count; ++i) {
    auto& unit = segment.unit(first + i);
    store(unit.run_offset, static_cast<std::uint32_t>(i), relaxed);
    store(unit.word, unit_word::make(UnitState::interior, 0, lane.id, sequence), release);  // U2 -> U1
  }
  crash_point("run.take.interior");
  auto& unit = segment.unit(first);
  store(unit.run_units, static_cast<std::uint32_t>(count), relaxed);
  store(unit.word, unit_word::make(head, 0, lane.id, sequence), release);  // U2 -> U1 (locate)
  crash_point("run.take.published");
}

// Free the units of a run whose truth word says FREEING; the same for the first time and for the redo.
void finish_free_run(const LaneView& lane, std::uint64_t first, std::uint64_t count, std::uint64_t head_word,
                     std::uint64_t generation, std::uint32_t cell) noexcept {
  const auto& segment = *lane.segment;
  const auto tag = unit_word::Tag::get(head_word);
  const auto taker = unit_word::Lane::get(head_word);
  for (std::uint64_t i = 1; i < count; ++i) {
    auto expected = unit_word::make(UnitState::interior, 0, taker, tag);
    cas(segment.unit(first + i).word, expected, word_of(UnitState::free), acq_rel);
    crash_point("run.free.interior_one");
  }
  // The head's tag is this run's until its word changes, so the truth word is still this block's.
  if (load(segment.unit(first).word, acquire) == head_word) {
    auto& low = segment.truth_word(first, 0).low;
    if (load(low, relaxed) == truth::make(generation, 0, BlockState::freeing))
      store(low, freed_word(generation, segment.split()), release);
    crash_point("run.free.freed");
    auto expected = head_word;
    cas(segment.unit(first).word, expected, word_of(UnitState::free), acq_rel);
  }
  crash_point("run.free.head");
  lower_hint(segment, first);
  if (cell < lane.cell_count) clear_cell(lane.cells[cell]);
  crash_point("run.free.cleared");
  close_log(lane);
  crash_point("run.free.closed");
}

void finish_take_run(const LaneView& lane, std::uint64_t first, std::uint64_t count, std::uint32_t cell,
                     std::uint64_t sequence) noexcept {
  const auto& segment = *lane.segment;
  const auto head = load(segment.unit(first).word, acquire);
  const bool ours = head == unit_word::make(UnitState::run, 0, lane.id, sequence);
  if (ours && truth::state(load(segment.truth_word(first, 0).low, acquire)) == BlockState::live) return;
  // The cell goes first: once the units are free somebody may make the same generation live.
  if (cell < lane.cell_count && load(lane.cells[cell].handle, relaxed) != 0 &&
      segment.split().unit({load(lane.cells[cell].handle, relaxed)}) == first)
    clear_cell(lane.cells[cell]);
  roll_back(lane, first, count, sequence);
}

}  // namespace

namespace detail {

std::expected<std::uint32_t, Status> begin_storage(const LaneView& lane, std::uint64_t count,
                                                   std::uint64_t queue) noexcept {
  const auto first =
      reserve(lane, {.operation = LaneOperation::take_storage, .count = count, .bands = 1, .queue = queue});
  if (!first) return std::unexpected(first.error());
  publish_run(lane, *first, count, UnitState::storage);
  return static_cast<std::uint32_t>(*first);
}

}  // namespace detail

std::expected<std::uint32_t, Status> take_slab(const LaneView& lane, std::uint32_t size_class) noexcept {
  const auto& segment = *lane.segment;
  const auto bands = bands_for(segment.classes().bytes(size_class));
  const auto unit = reserve(lane, {.operation = LaneOperation::take_units, .count = 1, .bands = bands});
  if (!unit) return std::unexpected(unit.error());
  store(segment.unit(*unit).word, lane.slab_word(size_class), release);  // U2 -> U1 (locate)
  crash_point("slab.cut.published");
  close_log(lane);
  crash_point("slab.cut.closed");
  return static_cast<std::uint32_t>(*unit);
}

std::expected<Handle, Status> take_run(const LaneView& lane, std::uint64_t count,
                                       std::uint32_t cell) noexcept {
  const auto& segment = *lane.segment;
  const auto first = reserve(lane, {.operation = LaneOperation::take_run,
                                    .count = count,
                                    .bands = 1,
                                    .cell = cell,
                                    .needs_generation = true});
  if (!first) return std::unexpected(first.error());
  publish_run(lane, *first, count, UnitState::run);
  auto& low = segment.truth_word(*first, 0).low;
  const auto generation = truth::next_generation(load(low, relaxed));
  const auto handle = segment.split().make(generation, *first, 0);
  store(lane.cells[cell].handle, handle.value, release);
  crash_point("run.take.announced");
  store(low, truth::make(generation, 1, BlockState::live), release);
  crash_point("run.take.live");
  close_log(lane);
  crash_point("run.take.closed");
  return handle;
}

void free_run(const LaneView& lane, const BlockView& block, std::uint32_t cell) noexcept {
  const auto& segment = *lane.segment;
  const auto generation = truth::Generation::get(block.low);
  const auto count = block.bytes / unit_bytes;
  open_log(lane, LaneOperation::free_run, {.first = block.unit, .count = count, .word = block.unit_word},
           cell, segment.split().make(generation, block.unit, 0));
  crash_point("run.free.logged");
  store(block.word->low, truth::make(generation, 0, BlockState::freeing), release);
  crash_point("run.free.freeing");
  finish_free_run(lane, block.unit, count, block.unit_word, generation, cell);
}

void return_slab(const LaneView& lane, std::uint32_t unit) noexcept {
  store(lane.segment->unit(unit).word, word_of(UnitState::free), release);
  crash_point("slab.return.published");
  lower_hint(*lane.segment, unit);
}

Status recut_slab(const LaneView& lane, std::uint32_t unit, std::uint32_t size_class) noexcept {
  const auto& segment = *lane.segment;
  const auto bands = bands_for(segment.classes().bytes(size_class));
  auto& descriptor = segment.unit(unit);
  if (load(descriptor.bands, relaxed) < bands) {
    if (segment.commit_bands(unit, bands) != Status::ok) return Status::exhausted;
    store(descriptor.bands, bands, relaxed);
  }
  store(descriptor.word, lane.slab_word(size_class), release);  // U2 -> U1 (locate)
  crash_point("slab.recut.published");
  return Status::ok;
}

void finish_operation(const LaneView& lane, StoragePublished storage_published) noexcept {
  const auto& segment = *lane.segment;
  const auto& log = lane.row->log;
  const auto sequence = open_sequence(*lane.row);
  if (sequence == 0) return;
  finish_shared(lane);
  const auto first = load(log.first, relaxed);
  const auto count = load(log.count, relaxed);
  const auto cell = static_cast<std::uint32_t>(load(log.cell, relaxed));
  const auto units = segment.units_committed();
  if (is_of_units(load(log.operation, relaxed)) && first < units && count != 0 && count <= units - first) {
    switch (static_cast<LaneOperation>(load(log.operation, relaxed))) {
      case LaneOperation::take_units: roll_back(lane, first, count, sequence); break;
      case LaneOperation::take_run: finish_take_run(lane, first, count, cell, sequence); break;
      case LaneOperation::take_storage:
        if (!storage_published(segment, load(log.word, relaxed), static_cast<std::uint32_t>(first)))
          roll_back(lane, first, count, sequence);
        break;
      case LaneOperation::free_run: {
        const auto generation = segment.split().generation({load(log.handle, relaxed)});
        const auto head = load(log.word, relaxed);
        // Begun or not, the free is to happen: nobody but this lane's cell held the block.
        if (load(segment.unit(first).word, acquire) == head &&
            load(segment.truth_word(first, 0).low, relaxed) == truth::make(generation, 1, BlockState::live))
          store(segment.truth_word(first, 0).low, truth::make(generation, 0, BlockState::freeing), release);
        finish_free_run(lane, first, count, head, generation, cell);
        return;  // it has closed the log
      }
      case LaneOperation::none:
      case LaneOperation::clone:
      case LaneOperation::drop: break;  // finish_shared() has
    }
  }
  close_log(lane);
}

}  // namespace sluice
