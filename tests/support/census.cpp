#include "tests/support/census.hpp"

#include "ipc/queues.hpp"
#include "ipc/work_layout.hpp"
#include "tests/support/must.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::test {

namespace {

class Walk {
 public:
  explicit Walk(const Segment& segment) : segment_(segment) {}

  Census run() {
    for (std::uint64_t unit = 0; unit < segment_.units_committed();) unit += visit_unit(unit);
    for (std::uint64_t lane = 1; lane < segment_.header().lane_count; ++lane) visit_lane(lane);
    for (std::uint64_t queue = 0; queue < segment_.header().queue_count; ++queue) visit_queue(queue);
    return std::move(census_);
  }

 private:
  // Returns how many units the thing that begins there has.
  std::uint64_t visit_unit(std::uint64_t unit) {
    const auto& descriptor = segment_.unit(unit);
    switch (unit_word::state(descriptor.word)) {
      case UnitState::free_uncommitted:
      case UnitState::free: visit_words(unit, 0); return 1;
      case UnitState::slab: {
        const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(descriptor.word));
        visit_words(unit, size_class < segment_.classes().count() ? segment_.classes().slots(size_class) : 0);
        return 1;
      }
      case UnitState::run: visit_words(unit, 1); return skip_interior(unit, descriptor.run_units);
      case UnitState::storage:
        census_.storage_units += descriptor.run_units;
        visit_words(unit, 0);
        return skip_interior(unit, descriptor.run_units);
      default:
        census_.faults.push_back(
            fmt::format("unit {}: state {} at rest", unit, unit_word::State::get(descriptor.word)));
        return 1;
    }
  }

  std::uint64_t skip_interior(std::uint64_t head, std::uint64_t units) {
    for (std::uint64_t i = 1; i < units; ++i) {
      const auto& descriptor = segment_.unit(head + i);
      if (unit_word::state(descriptor.word) != UnitState::interior || descriptor.run_offset != i)
        census_.faults.push_back(fmt::format("unit {}: not interior {} of {}", head + i, i, head));
      visit_words(head + i, 0);
    }
    return units == 0 ? 1 : units;
  }

  // Blocks may be in the first `slots` slots only.
  void visit_words(std::uint64_t unit, std::uint32_t slots) {
    // Other bands are holes of the file. Reading them is harmless but where there is no room: a tmpfs backs
    // what is read.
    const auto words = std::max(segment_.unit(unit).bands, 1U) * slots_per_band;
    for (std::uint32_t slot = 0; slot < words; ++slot) {
      const auto low = segment_.truth_word(unit, slot).low;
      if (truth::state(low) == BlockState::retired) ++census_.retired;
      const bool busy = truth::state(low) == BlockState::live || truth::state(low) == BlockState::freeing;
      if (!busy) {
        if (truth::Count::get(low) != 0) fault(unit, slot, "not live but counted");
        continue;
      }
      if (slot >= slots) fault(unit, slot, "busy where no block can be");
      if (truth::state(low) == BlockState::freeing)
        ++census_.freeing;
      else
        census_.live[segment_.split().make(truth::Generation::get(low), unit, slot).value] =
            truth::Count::get(low);
    }
  }

  void visit_lane(std::uint64_t lane) {
    const auto& row = segment_.lane_row(lane);
    const bool active = lane_word::Active::get(row.word) != 0;
    for (std::uint64_t i = 0; i < row.cell_count; ++i) {
      const auto& cell = segment_.ledger(lane)[i];
      if (cell.handle == 0 && cell.aux == 0) continue;
      if (!active) census_.faults.push_back(fmt::format("lane {}: released, but cell {} is used", lane, i));
      if (cell.aux != cell_aux::at_rest)
        census_.faults.push_back(fmt::format("lane {}: cell {} moves: aux {:#x}", lane, i, cell.aux));
      ++census_.references[cell.handle];
    }
  }

  void visit_queue(std::uint64_t index) {
    const auto& row = queue_row(segment_, index);
    const auto state = queue_word::state(row.word);
    if (state != QueueState::ready) {
      if (state != QueueState::free) census_.faults.push_back(fmt::format("queue {}: half made", index));
      return;
    }
    if (row.kind == static_cast<std::uint32_t>(QueueKind::extents)) {
      const auto* slots = reinterpret_cast<const std::uint64_t*>(segment_.unit_address(row.first_unit));
      for (std::uint64_t i = 0; i < row.capacity + row.capacity / 16; ++i)
        if (slots[i] > 1) ++census_.references[slots[i]];
      return;
    }
    if (row.kind == static_cast<std::uint32_t>(QueueKind::work)) {
      for (std::uint64_t i = 0; i < row.capacity; ++i)
        visit_work_slot(index, i, message_slot(segment_, row, i));
      return;
    }
    const auto tail = pushed_messages(segment_, row);
    for (auto position = row.head; position < tail; ++position) {
      const auto& message = message_slot(segment_, row, position);
      if (message.handle != 0) ++census_.references[message.handle];
    }
  }

  void visit_work_slot(std::uint64_t queue, std::uint64_t slot, const Message& message) {
    const auto state = work_word::state(message.stamp);
    if (state == WorkState::empty) return;
    if (state == WorkState::full && message.handle != 0) ++census_.references[message.handle];
    if (state != WorkState::full)
      census_.faults.push_back(fmt::format("queue {}: slot {} is claimed", queue, slot));
  }

  void fault(std::uint64_t unit, std::uint32_t slot, const char* what) {
    census_.faults.push_back(fmt::format("block {}/{}: {}", unit, slot, what));
  }

  const Segment& segment_;
  Census census_;
};

}  // namespace

std::vector<std::string> Census::contradictions() const {
  auto lines = faults;
  for (const auto& [handle, count] : live) {
    const auto named = references.contains(handle) ? references.at(handle) : 0;
    if (named != count) lines.push_back(fmt::format("{:#x}: count {}, but {} name it", handle, count, named));
  }
  for (const auto& [handle, named] : references)
    if (!live.contains(handle)) lines.push_back(fmt::format("{:#x}: dead, but {} name it", handle, named));
  return lines;
}

Census take_census(const Segment& segment) { return Walk(segment).run(); }

std::uint64_t capacity_for(Lane& lane, std::size_t bytes) {
  std::vector<Reference> taken;
  for (;;) {
    const auto reference = lane.heap().allocate(bytes);
    if (!reference) {
      if (reference.error() != Status::exhausted) must(reference.error());
      break;
    }
    taken.push_back(*reference);
  }
  for (const auto& reference : taken) must(lane.heap().release(reference));
  lane.heap().flush();
  return taken.size();
}

namespace {

// Slots of a slab that are set aside; the rest of the slab stays usable, for its class.
std::uint64_t quarantined_in(const Segment& segment, std::uint64_t unit) {
  const auto word = segment.unit(unit).word;
  if (unit >= segment.units_committed() || unit_word::state(word) != UnitState::slab) return 0;
  std::uint64_t count = 0;
  for (std::uint32_t slot = 0;
       slot < segment.classes().slots(static_cast<std::uint32_t>(unit_word::Class::get(word))); ++slot)
    if (truth::state(segment.truth_word(unit, slot).low) == BlockState::quarantined) ++count;
  return count;
}

}  // namespace

std::uint64_t capacity_expected(const Segment& segment, std::size_t bytes) {
  auto units = segment.geometry().units_max - take_census(segment).storage_units;
  const bool is_run = bytes > slab_block_bytes_max;
  std::uint64_t beside = 0;  // slots beside those that are set aside
  for (std::uint64_t unit = 0; unit < segment.units_committed(); ++unit) {
    const auto quarantined = quarantined_in(segment, unit);
    if (quarantined == 0) continue;
    --units;
    const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(segment.unit(unit).word));
    if (!is_run && size_class == segment.classes().class_of(bytes))
      beside += segment.classes().slots(size_class) - quarantined;
  }
  if (is_run) return units / ((bytes + unit_bytes - 1) / unit_bytes);
  return units * segment.classes().slots(segment.classes().class_of(bytes)) + beside;
}

std::uint64_t longest_stretch(const Segment& segment) {
  std::uint64_t longest = 0;
  std::uint64_t stretch = 0;
  for (std::uint64_t unit = 0; unit < segment.geometry().units_max; ++unit) {
    const bool committed = unit < segment.units_committed();
    const bool usable = !committed || unit_word::state(segment.unit(unit).word) != UnitState::storage;
    if (usable && quarantined_in(segment, unit) == 0) {
      longest = std::max(longest, ++stretch);
      continue;
    }
    stretch = 0;
    if (!usable) unit += segment.unit(unit).run_units - 1;
  }
  return longest;
}

}  // namespace sluice::test
