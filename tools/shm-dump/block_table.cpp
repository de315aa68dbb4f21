#include "tools/shm-dump/block_table.hpp"

namespace sluice::tools {

namespace {

class Walk {
 public:
  Walk(const Segment& segment, const std::function<void(const BlockEntry&)>& visit)
      : segment_(segment), visit_(visit) {
    totals_.units_committed = segment.units_committed();
    totals_.classes.resize(segment.classes().count());
    for (std::uint32_t i = 0; i < segment.classes().count(); ++i)
      totals_.classes[i].bytes = segment.classes().bytes(i);
  }

  HeapTotals run() {
    for (std::uint64_t unit = 0; unit < totals_.units_committed; ++unit) {
      const auto word = load(segment_.unit(unit).word, acquire);
      if (const auto state = unit_word::State::get(word); state <= unit_state_max) {
        ++totals_.units_by_state[state];
        if (unit_word::state(word) == UnitState::slab) visit_slab(unit, word);
        if (unit_word::state(word) == UnitState::run) visit_run(unit, word);
      } else {
        ++totals_.units_unreadable;
      }
    }
    return std::move(totals_);
  }

 private:
  void visit_slab(std::uint64_t unit, std::uint64_t word) {
    const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
    const auto lane = unit_word::Lane::get(word);
    if (size_class >= totals_.classes.size() || lane == 0 || lane >= segment_.header().lane_count ||
        load(segment_.unit(unit).bands, relaxed) < bands_for(segment_.classes().bytes(size_class))) {
      ++totals_.units_unreadable;
      return;
    }
    auto& totals = totals_.classes[size_class];
    ++totals.slabs;
    BlockEntry block;
    block.unit = static_cast<std::uint32_t>(unit);
    block.bytes = totals.bytes;
    block.lane = lane;
    const auto owner = load(segment_.lane_row(lane).word, acquire);
    block.orphaned =
        lane_word::Active::get(owner) == 0 || lane_word::Incarnation::get(owner) != unit_word::Tag::get(word);
    if (block.orphaned) ++totals.orphaned;
    for (std::uint32_t slot = 0; slot < segment_.classes().slots(size_class); ++slot) {
      block.slot = slot;
      visit_block(block, totals);
    }
  }

  void visit_run(std::uint64_t unit, std::uint64_t word) {
    const std::uint64_t units = load(segment_.unit(unit).run_units, relaxed);
    if (units == 0 || units > totals_.units_committed - unit) {
      ++totals_.units_unreadable;
      return;
    }
    BlockEntry block;
    block.unit = static_cast<std::uint32_t>(unit);
    block.bytes = units * unit_bytes;
    block.is_run = true;
    block.lane = unit_word::Lane::get(word);
    visit_block(block, totals_.runs);
  }

  void visit_block(BlockEntry& block, ClassTotals& totals) {
    const auto low = load(segment_.truth_word(block.unit, block.slot).low, acquire);
    ++totals.slots;
    block.state = truth::state(low);
    switch (block.state) {
      case BlockState::live:
        ++totals.live;
        totals.live_bytes += block.bytes;
        break;
      case BlockState::freeing: ++totals.freeing; break;
      case BlockState::retired: ++totals.retired; break;
      case BlockState::quarantined: ++totals.quarantined; break;
      default: return;
    }
    if (!visit_) return;
    block.generation = truth::Generation::get(low);
    block.references = truth::Count::get(low);
    block.shared = (truth::Flags::get(low) & truth::flag_shared) != 0;
    block.handle = segment_.split().make(block.generation, block.unit, block.slot);
    visit_(block);
  }

  const Segment& segment_;
  const std::function<void(const BlockEntry&)>& visit_;
  HeapTotals totals_;
};

}  // namespace

std::uint64_t HeapTotals::blocks_live() const noexcept {
  auto count = runs.live;
  for (const auto& totals : classes) count += totals.live;
  return count;
}

std::uint64_t HeapTotals::bytes_live() const noexcept {
  auto bytes = runs.live_bytes;
  for (const auto& totals : classes) bytes += totals.live_bytes;
  return bytes;
}

HeapTotals walk_blocks(const Segment& segment, const std::function<void(const BlockEntry&)>& visit) {
  return Walk(segment, visit).run();
}

bool unchanged(const Segment& segment, const BlockEntry& block) noexcept {
  const auto low = load(segment.truth_word(block.unit, block.slot).low, acquire);
  return truth::state(low) == block.state && truth::Generation::get(low) == block.generation;
}

std::string_view to_string(UnitState state) noexcept {
  switch (state) {
    case UnitState::free_uncommitted: return "free_uncommitted";
    case UnitState::free: return "free";
    case UnitState::reserved: return "reserved";
    case UnitState::slab: return "slab";
    case UnitState::run: return "run";
    case UnitState::interior: return "interior";
    case UnitState::storage: return "storage";
    case UnitState::punching: return "punching";
  }
  return "invalid";
}

std::string_view to_string(BlockState state) noexcept {
  switch (state) {
    case BlockState::free: return "free";
    case BlockState::live: return "live";
    case BlockState::freeing: return "freeing";
    case BlockState::retired: return "retired";
    case BlockState::quarantined: return "quarantined";
  }
  return "invalid";
}

}  // namespace sluice::tools
