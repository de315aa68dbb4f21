#include "shm/block.hpp"

#include "shm/crash_point.hpp"
#include "shm/isolation.hpp"
#include "shm/shared.hpp"
#include "shm/units.hpp"

namespace sluice {

namespace {

// Fills `view` where it is to stay. A view that is copied cannot be read before its last field, the truth word,
// has come from another core; so the block's bytes would be fetched after it instead of beside it.
inline void locate_into(BlockView& view, const Segment& segment, Handle handle) noexcept {
  const auto& split = segment.split();
  const auto unit = split.unit(handle);
  const auto slot = split.slot(handle);
  const auto committed = segment.units_committed();
  if (!handle || unit >= committed) return;
  const auto& descriptor = segment.unit(unit);
  const auto word = load(descriptor.word, acquire);  // U1 <- U2 (units.cpp): shape precedes the word
  switch (unit_word::state(word)) {
    case UnitState::slab: {
      const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
      if (size_class >= segment.classes().count() || slot >= segment.classes().slots(size_class)) return;
      view.bytes = segment.classes().bytes(size_class);
      view.data = segment.unit_address(unit) + std::uint64_t{slot} * view.bytes;
      break;
    }
    case UnitState::run: {
      const auto units = load(descriptor.run_units, relaxed);
      if (slot != 0 || units == 0 || units > committed - unit) return;
      view.bytes = units * unit_bytes;
      view.data = segment.unit_address(unit);
      view.is_run = true;
      break;
    }
    default: return;
  }
  view.unit = unit;
  view.slot = slot;
  view.unit_word = word;
  view.word = &segment.truth_word(unit, slot);
  view.low = load(view.word->low, acquire);  // B1 <- B2: contents precede LIVE in a hand-over
}

}  // namespace

BlockView locate(const Segment& segment, Handle handle) noexcept {
  BlockView view;
  locate_into(view, segment, handle);
  return view;
}

std::expected<BlockView, Status> find_block(const Segment& segment, Handle handle) noexcept {
  std::expected<BlockView, Status> found(std::in_place);
  locate_into(*found, segment, handle);
  if (found->word == nullptr || truth::state(found->low) != BlockState::live ||
      truth::Generation::get(found->low) != segment.split().generation(handle)) [[unlikely]]
    found = std::unexpected(Status::stale);
  return found;
}

LaneView lane_view(const Segment& segment, LaneId lane) noexcept {
  LaneView view;
  view.segment = &segment;
  view.id = lane;
  view.row = &segment.lane_row(lane);
  view.incarnation = lane_word::Incarnation::get(load(view.row->word, acquire));
  view.cells = segment.ledger(lane);
  const auto cells = load(view.row->cell_count, relaxed);
  const auto most = segment.header().cells_per_lane;
  view.cell_count = static_cast<std::uint32_t>(cells < most ? cells : most);
  return view;
}

LaneRow& flag_remote_free(const Segment& segment, std::uint32_t unit, std::uint32_t word,
                          std::uint64_t bits) noexcept {
  // F1 -> F2 (harvest): FREEING precedes the bit. seq_cst orders the bit before the look at the hint, as the
  // owner clears the hint before it looks at bits: one of the two sees the other.
  fetch_or(segment.remote_bits(unit).words[word], bits, seq_cst);
  const auto unit_word_now = load(segment.unit(unit).word, seq_cst);
  auto& owner = segment.lane_row(unit_word::Lane::get(unit_word_now) % segment.header().lane_count);
  const auto size_class = std::uint64_t{1} << unit_word::Class::get(unit_word_now);
  if ((load(owner.remote_classes, seq_cst) & size_class) == 0)
    fetch_or(owner.remote_classes, size_class, seq_cst);
  return owner;
}

void drop_reference(const LaneView& lane, std::uint32_t index) noexcept {
  auto& cell = lane.cells[index];
  const auto& segment = *lane.segment;
  const Handle handle{load(cell.handle, acquire)};
  auto view = locate(segment, handle);
  const auto generation = segment.split().generation(handle);
  if (view.word == nullptr || truth::Generation::get(view.low) != generation) {
    clear_cell(cell);  // void: an allocation that did not happen, or a free that did
    return;
  }
  const bool own_slab = !view.is_run && lane.owns(view.unit_word);
  if (truth::state(view.low) == BlockState::live) {
    const auto flags = truth::Flags::get(view.low);
    if ((flags & truth::flag_shared) != 0) {
      const auto dropped = drop_shared(lane, *view.word, handle, index, own_slab);
      if (dropped != Dropped::freeing && dropped != Dropped::freeing_io) {
        clear_cell(cell);
        return;
      }
      // What drop_shared() has stored. Not what the word holds by now: it may be another lane's again.
      view.low = truth::make(generation, 0, BlockState::freeing,
                             dropped == Dropped::freeing_io ? truth::flag_io : 0);
    } else if ((flags & truth::flag_io) != 0) {
      view.low = truth::make(generation, 0, BlockState::freeing, truth::flag_io);
      store(view.word->low, view.low, release);
      crash_point("block.isolate.begun");
    }
  }
  const auto state = truth::state(view.low);
  if (state != BlockState::live && state != BlockState::freeing) {
    clear_cell(cell);
    return;
  }
  if (state == BlockState::freeing && (truth::Flags::get(view.low) & truth::flag_io) != 0 &&
      !isolate_or_quarantine(lane, view, index))
    return;
  if (view.is_run) {
    free_run(lane, view, index);
    return;
  }
  if (own_slab) {
    store(view.word->low, freed_word(generation, segment.split()), release);
    crash_point("block.free_local.freed");
  } else {
    // LIVE and not shared is this cell's alone to change. FREEING is not: the owner or an adopter may be handing the
    // slot out again by now, so it is only flagged; a bit too many is stray.
    if (state == BlockState::live)
      store(view.word->low, truth::make(generation, 0, BlockState::freeing), release);
    crash_point("block.free_remote.freeing");
    flag_remote_free(segment, view.unit, view.slot / 64, std::uint64_t{1} << (view.slot % 64));
    crash_point("block.free_remote.flagged");
  }
  clear_cell(cell);
}

}  // namespace sluice
