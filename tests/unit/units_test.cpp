// The shared pool of units: what is taken, published, recut and given back, and the log that covers it.
#include "shm/units.hpp"

#include "ipc/audit.hpp"
#include "ipc/queues.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

UnitState state_of(const Segment& segment, std::uint64_t unit) {
  return unit_word::state(segment.unit(unit).word);
}

bool log_is_open(const LaneRow& row) { return row.log.sequence == row.sequence; }

std::uint64_t free_units(const Segment& segment) { return audit(segment).counts.units_free; }

}  // namespace

TEST_CASE("units: a slab is its lane's, of its class, with its truth words there", "[shm]") {
  Rig rig;
  const auto& view = rig.lane->view();
  const auto unit = must(take_slab(view, 0));  // 64-byte slots: all bands
  const auto& descriptor = rig.segment().unit(unit);
  CHECK(view.owns(descriptor.word));
  CHECK(unit_word::Class::get(descriptor.word) == 0);
  CHECK(descriptor.bands == band_count);
  CHECK_FALSE(log_is_open(rig.lane->row()));
  CHECK(audit(rig.segment()).violations.empty());
  return_slab(view, unit);
  CHECK(state_of(rig.segment(), unit) == UnitState::free);
}

TEST_CASE("units: an empty slab can be recut, and gets the truth words that its new class needs", "[shm]") {
  Rig rig;
  const auto& view = rig.lane->view();
  const auto coarse = rig.segment().classes().class_of(4096);
  const auto unit = must(take_slab(view, coarse));
  CHECK(rig.segment().unit(unit).bands == 1);
  must(recut_slab(view, unit, 0));
  CHECK(rig.segment().unit(unit).bands == band_count);
  CHECK(unit_word::Class::get(rig.segment().unit(unit).word) == 0);
  must(recut_slab(view, unit, coarse));
  CHECK(rig.segment().unit(unit).bands == band_count);  // it only grows
  CHECK(view.owns(rig.segment().unit(unit).word));
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("units: a run's units are its head's, and all come back", "[shm]") {
  Rig rig;
  const auto& view = rig.lane->view();
  rig.heap().allocate(1).value();  // something beside it
  const auto before = free_units(rig.segment());
  const auto cell = must(rig.heap().reserve_cell());
  const auto handle = must(take_run(view, 5, cell));
  CHECK(rig.heap().cell(cell).handle == handle.value);
  const auto first = rig.segment().split().unit(handle);
  CHECK(state_of(rig.segment(), first) == UnitState::run);
  CHECK(rig.segment().unit(first).run_units == 5);
  for (std::uint32_t i = 1; i < 5; ++i) {
    CHECK(state_of(rig.segment(), first + i) == UnitState::interior);
    CHECK(rig.segment().unit(first + i).run_offset == i);
  }
  CHECK(free_units(rig.segment()) == before - 5);
  CHECK(audit(rig.segment()).violations.empty());
  free_run(view, find_block(rig.segment(), handle).value(), cell);
  CHECK(rig.heap().cell(cell).handle == 0);
  CHECK(free_units(rig.segment()) == before);
  CHECK(audit(rig.segment()).violations.empty());
  rig.heap().unreserve_cell(cell);
}

TEST_CASE("units: more than the segment ever has is too large, more than is free exhausted", "[shm]") {
  Rig rig(small_options(8));
  const auto cell = must(rig.heap().reserve_cell());
  CHECK(take_run(rig.lane->view(), 9, cell).error() == Status::too_large);
  must(rig.heap().allocate(1));
  CHECK(take_run(rig.lane->view(), 8, cell).error() == Status::exhausted);
  CHECK(rig.heap().cell(cell).handle == 0);
  CHECK_FALSE(log_is_open(rig.lane->row()));
  CHECK(audit(rig.segment()).violations.empty());
  CHECK(take_run(rig.lane->view(), 7, cell).has_value());
}

TEST_CASE("units: a refused request leaves every unit as it was", "[shm]") {
  Rig rig(small_options(8));
  std::vector<Reference> ones;
  for (int i = 0; i < 8; ++i) ones.push_back(must(rig.heap().allocate(unit_bytes)));
  for (std::size_t i = 0; i < 8; i += 2) must(rig.heap().release(ones[i]));
  const auto cell = must(rig.heap().reserve_cell());
  for (int i = 0; i < 3; ++i) CHECK(take_run(rig.lane->view(), 2, cell).error() == Status::exhausted);
  CHECK(free_units(rig.segment()) == 4);
  CHECK(audit(rig.segment()).counts.units_reserved == 0);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("units: a unit that somebody else has reserved is not taken", "[shm]") {
  Rig rig(small_options(4));
  const auto& segment = rig.segment();
  must(segment.grow(4));
  // As another lane in the middle of an operation leaves it.
  const auto other = rig.another_lane();
  auto& row = other->row();
  row.log = {.sequence = row.sequence,
             .operation = static_cast<std::uint64_t>(LaneOperation::take_units),
             .first = 1,
             .count = 1,
             .cell = 0,
             .handle = 0,
             .word = 0,
             .reserved = 0};
  segment.unit(1).word = unit_word::make(UnitState::reserved, 0, other->id(), row.sequence);
  CHECK(audit(segment).violations.empty());
  std::vector<Reference> taken;
  while (const auto reference = rig.heap().allocate(unit_bytes)) taken.push_back(*reference);
  CHECK(taken.size() == 3);
  CHECK(state_of(segment, 1) == UnitState::reserved);
  finish_operation(other->view(), &storage_published);
  CHECK(state_of(segment, 1) == UnitState::free_uncommitted);
  CHECK_FALSE(log_is_open(row));
  CHECK(rig.heap().allocate(unit_bytes).has_value());
}

TEST_CASE("units: finishing when nothing is open does nothing", "[shm]") {
  Rig rig;
  must(rig.heap().allocate(2 * unit_bytes));
  const auto sequence = rig.lane->row().sequence;
  finish_operation(rig.lane->view(), &storage_published);
  CHECK(rig.lane->row().sequence == sequence);
  CHECK(audit(rig.segment()).violations.empty());
  CHECK(audit(rig.segment()).counts.runs == 1);
}

TEST_CASE("units: a log with garbage is closed and harms nothing", "[shm]") {
  Rig rig;
  const auto kept = must(rig.heap().allocate(2 * unit_bytes));
  auto& row = rig.lane->row();
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{15}, ~std::uint64_t{0}})
    for (const std::uint64_t count : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}}) {
      row.log.operation = 77;
      row.log.first = first;
      row.log.count = count;
      row.log.cell = ~std::uint64_t{0};
      row.log.sequence = row.sequence;
      finish_operation(rig.lane->view(), &storage_published);
      CHECK_FALSE(log_is_open(row));
      row.log.operation = 0;
      CHECK(audit(rig.segment()).violations.empty());
    }
  CHECK(rig.heap().release(kept) == Status::ok);
}

}  // namespace sluice::test
