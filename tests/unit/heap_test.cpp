#include "shm/heap.hpp"

#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <set>

namespace sluice::test {

namespace {

constexpr std::size_t slots_of_3 = 20480;  // three slots in a unit

void check_sound(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit: " << violation.what);
  for (const auto& line : take_census(segment).contradictions()) FAIL_CHECK("census: " << line);
}

std::uint64_t address(std::span<std::byte> bytes) { return reinterpret_cast<std::uint64_t>(bytes.data()); }

std::vector<Reference> take_all(Heap& heap, std::size_t bytes) {
  std::vector<Reference> taken;
  for (;;) {
    const auto reference = heap.allocate(bytes);
    if (!reference) {
      CHECK(reference.error() == Status::exhausted);
      return taken;
    }
    taken.push_back(*reference);
  }
}

void release_all(Heap& heap, const std::vector<Reference>& taken) {
  for (const auto& reference : taken) CHECK(heap.release(reference) == Status::ok);
}

/// Move a block from one lane to another, the only way there is.
Reference hand_over(Lane& from, Lane& to, Reference reference) {
  const auto queue = must(find_or_create_stream(from, "hand over", 8));
  auto producer = must(StreamProducer::claim(from, queue));
  auto consumer = must(StreamConsumer::claim(to, queue));
  must(producer.push(Message{}, reference));
  must_hold(consumer.peek() != nullptr, "what was pushed is there");
  return must(consumer.pop());
}

}  // namespace

TEST_CASE("heap: blocks of every class and of several units are aligned, large enough and apart", "[shm]") {
  Rig rig(small_options(200), Place::shared_memory, {.cells = 2048});
  std::vector<std::size_t> sizes = {
      1, 63, 65, 4097, unit_bytes - 1, unit_bytes, unit_bytes + 1, 5 * unit_bytes};
  for (const auto bytes : default_class_bytes) sizes.push_back(bytes);
  std::vector<Reference> taken;
  for (int round = 0; round < 7; ++round)
    for (const auto size : sizes) {
      CAPTURE(size);
      const auto reference = must(rig.heap().allocate(size));
      const auto bytes = rig.heap().bytes(reference);
      REQUIRE(bytes.size() >= size);
      REQUIRE(address(bytes) % (size >= page_bytes ? page_bytes : 64) == 0);
      fill_pattern(bytes, taken.size());
      taken.push_back(reference);
    }
  for (std::size_t i = 0; i < taken.size(); ++i) CHECK(has_pattern(rig.heap().bytes(taken[i]), i));
  check_sound(rig.segment());
  CHECK(take_census(rig.segment()).live.size() == taken.size());
  release_all(rig.heap(), taken);
  check_sound(rig.segment());
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("heap: no bytes, and more bytes than the segment can hold, are refused without effect", "[shm]") {
  Rig rig(small_options(8));
  const auto cells = rig.heap().cells_free();
  CHECK(rig.heap().allocate(0).error() == Status::bad_argument);
  CHECK(rig.heap().allocate(8 * unit_bytes + 1).error() == Status::too_large);
  CHECK(rig.heap().allocate(~std::size_t{0}).error() == Status::too_large);
  CHECK(rig.heap().cells_free() == cells);
  CHECK(take_census(rig.segment()).live.empty());
  const auto largest = rig.heap().allocate(rig.segment().block_bytes_max());
  REQUIRE(largest.has_value());
  CHECK(rig.heap().bytes(*largest).size() == 8 * unit_bytes);
}

TEST_CASE("heap: every unit can be used up in every size, again and again", "[shm]") {
  Rig rig(small_options(8), Place::shared_memory, {.cells = 16384});
  for (int round = 0; round < 2; ++round) {
    std::vector<std::size_t> sizes(default_class_bytes.begin(), default_class_bytes.end());
    sizes.insert(sizes.end(), {unit_bytes, 3 * unit_bytes, 8 * unit_bytes});
    for (const auto size : sizes) {
      CAPTURE(round, size);
      CHECK(capacity_for(*rig.lane, size) == capacity_expected(rig.segment(), size));
    }
  }
  CHECK(rig.lane->counters().exhausted > 0);
  check_sound(rig.segment());
}

TEST_CASE("heap: a refusal changes nothing, and one freed block makes room for one", "[shm]") {
  const auto size = GENERATE(std::size_t{64}, slots_of_3, unit_bytes);
  Rig rig(small_options(6), Place::shared_memory, {.cells = 16384});
  auto taken = take_all(rig.heap(), size);
  const auto before = take_census(rig.segment());
  const auto cells = rig.heap().cells_free();
  for (int i = 0; i < 3; ++i) CHECK(rig.heap().allocate(size).error() == Status::exhausted);
  CHECK(rig.heap().cells_free() == cells);
  CHECK(take_census(rig.segment()).live == before.live);
  must(rig.heap().release(taken.back()));
  const auto again = rig.heap().allocate(size);
  REQUIRE(again.has_value());
  CHECK(again->handle != taken.back().handle);
  CHECK(rig.heap().allocate(size).error() == Status::exhausted);
  check_sound(rig.segment());
}

TEST_CASE("heap: a released reference is stale for ever, and releasing it again does nothing", "[shm]") {
  const auto size = GENERATE(std::size_t{64}, std::size_t{4096}, std::size_t{2 * unit_bytes});
  Rig rig;
  const auto reference = must(rig.heap().allocate(size));
  must(rig.heap().release(reference));
  CHECK(rig.heap().release(reference) == Status::stale);
  CHECK(rig.heap().bytes(reference).empty());
  CHECK_FALSE(find_block(rig.segment(), reference.handle).has_value());
  const auto next = must(rig.heap().allocate(size));
  CHECK(rig.heap().release(reference) == Status::stale);  // also where its cell or its slot is used again
  CHECK_FALSE(rig.heap().bytes(next).empty());
  check_sound(rig.segment());
  CHECK(take_census(rig.segment()).live.size() == 1);
}

TEST_CASE("heap: a made-up reference is refused", "[shm]") {
  Rig rig;
  const auto mine = must(rig.heap().allocate(100));
  CHECK(rig.heap().release({}) == Status::stale);
  CHECK(rig.heap().release({mine.handle, mine.cell + 1}) == Status::stale);
  CHECK(rig.heap().release({mine.handle, 0xffffffff}) != Status::ok);
  CHECK(rig.heap().release({Handle{mine.handle.value + 1}, mine.cell}) == Status::stale);
  CHECK(rig.heap().release(mine) == Status::ok);
}

TEST_CASE("heap: a full ledger refuses before anything is touched", "[shm]") {
  Rig rig(small_options(), Place::shared_memory, {.cells = 64});
  const auto usable = rig.heap().cells_free();
  CHECK(usable == 64 - recovery_cells);
  std::vector<Reference> taken;
  for (std::uint32_t i = 0; i < usable; ++i) taken.push_back(must(rig.heap().allocate(64)));
  const auto before = take_census(rig.segment());
  for (const std::size_t size : {std::size_t{64}, std::size_t{32768}, 2 * unit_bytes})
    CHECK(rig.heap().allocate(size).error() == Status::no_cell);
  CHECK(rig.heap().reserve_cell().error() == Status::no_cell);
  CHECK(take_census(rig.segment()).live == before.live);
  must(rig.heap().release(taken.back()));
  CHECK(rig.heap().allocate(64).has_value());
}

TEST_CASE("heap: recovery's cells are never used by the lane", "[shm]") {
  Rig rig(small_options(), Place::shared_memory, {.cells = 64});
  while (const auto reference = rig.heap().allocate(64)) CHECK(reference->cell >= recovery_cells);
}

TEST_CASE("heap: a slot is not used again until all others of its slab were", "[shm]") {
  Rig rig;
  constexpr std::size_t size = 4096;  // 16 slots
  const bool keep_one = GENERATE(false, true);
  if (keep_one) must(rig.heap().allocate(size));
  for (int round = 0; round < 3; ++round) {
    std::set<std::uint64_t> places;
    const auto count = keep_one ? 15U : 16U;
    for (unsigned i = 0; i < count; ++i) {
      const auto reference = must(rig.heap().allocate(size));
      places.insert(address(rig.heap().bytes(reference)));
      must(rig.heap().release(reference));
    }
    CAPTURE(keep_one, round);
    CHECK(places.size() == count);
  }
}

TEST_CASE("heap: a block that another lane frees comes back to the slab's owner", "[shm]") {
  const auto size = GENERATE(std::size_t{64}, slots_of_3, std::size_t{32768});
  Rig rig(small_options(4), Place::shared_memory, {.cells = 8192});
  const auto other = rig.another_lane({.cells = 8192});
  const auto stream = must(create_stream(*rig.lane, "s", 1024));  // one unit; three are left
  auto producer = must(StreamProducer::claim(*rig.lane, stream));
  auto consumer = must(StreamConsumer::claim(*other, stream));
  for (int round = 0; round < 3; ++round) {
    CAPTURE(size, round);
    const auto taken = take_all(rig.heap(), size);
    CHECK(taken.size() == capacity_expected(rig.segment(), size));
    for (const auto& reference : taken) {
      REQUIRE(producer.push(Message{}, reference) == Status::ok);
      REQUIRE(consumer.peek() != nullptr);
      const auto moved = must(consumer.pop());
      CHECK(moved.handle == reference.handle);
      REQUIRE(other->heap().release(moved) == Status::ok);
    }
    other->heap().flush();
    check_sound(rig.segment());
  }
  CHECK(rig.lane->counters().harvested > 0);
  CHECK(other->counters().frees_remote > 0);
}

TEST_CASE("heap: a lane that is out of room is not refused while others' frees wait for it", "[shm]") {
  Rig rig(small_options(3), Place::shared_memory, {.cells = 4096});
  const auto other = rig.another_lane();
  must(find_or_create_stream(*rig.lane, "hand over", 8));
  auto taken = take_all(rig.heap(), slots_of_3);
  REQUIRE(taken.size() == 6);
  must(other->heap().release(hand_over(*rig.lane, *other, taken[2])));
  other->heap().flush();
  const auto again = rig.heap().allocate(slots_of_3);
  REQUIRE(again.has_value());
  CHECK(again->handle != taken[2].handle);
  CHECK(rig.segment().split().unit(again->handle) == rig.segment().split().unit(taken[2].handle));
  check_sound(rig.segment());
}

TEST_CASE("heap: slabs of a released lane are adopted with what is live in them", "[shm]") {
  Rig rig(small_options(3), Place::shared_memory, {.cells = 4096});
  must(find_or_create_stream(*rig.lane, "hand over", 8));
  Reference kept;
  {
    const auto leaver = rig.another_lane();
    std::vector<Reference> taken = take_all(leaver->heap(), slots_of_3);
    REQUIRE(taken.size() == 6);
    fill_pattern(leaver->heap().bytes(taken[4]), 4);
    kept = hand_over(*leaver, *rig.lane, taken[4]);
  }
  check_sound(rig.segment());
  CHECK(take_census(rig.segment()).live.size() == 1);
  const auto taken = take_all(rig.heap(), slots_of_3);
  CHECK(taken.size() == 5);  // all but the one that is kept
  CHECK(rig.lane->counters().slabs_adopted > 0);
  CHECK(has_pattern(rig.heap().bytes(kept), 4));
  release_all(rig.heap(), taken);
  must(rig.heap().release(kept));
  CHECK(capacity_for(*rig.lane, 64) == capacity_expected(rig.segment(), 64));  // also as another class
  check_sound(rig.segment());
}

TEST_CASE("heap: what waits to be harvested is not lost when the owner leaves", "[shm]") {
  Rig rig(small_options(3), Place::shared_memory, {.cells = 4096});
  must(find_or_create_stream(*rig.lane, "hand over", 8));
  {
    const auto leaver = rig.another_lane();
    const auto reference = must(leaver->heap().allocate(slots_of_3));
    must(rig.heap().release(hand_over(*leaver, *rig.lane, reference)));
    if (GENERATE(false, true)) rig.heap().flush();
  }
  rig.heap().flush();
  check_sound(rig.segment());
  CHECK(capacity_for(*rig.lane, slots_of_3) == 6);
  CHECK(capacity_for(*rig.lane, unit_bytes) == 2);
}

TEST_CASE("heap: a run goes back whole, whichever lane frees it", "[shm]") {
  Rig rig(small_options(9));
  const auto other = rig.another_lane();
  must(find_or_create_stream(*rig.lane, "hand over", 8));
  const auto run = must(rig.heap().allocate(8 * unit_bytes));
  fill_pattern(rig.heap().bytes(run), 8);
  CHECK(other->heap().allocate(1).error() == Status::exhausted);
  const auto moved = hand_over(*rig.lane, *other, run);
  CHECK(has_pattern(other->heap().bytes(moved), 8));
  must(other->heap().release(moved));
  other->heap().flush();
  CHECK(capacity_for(*other, unit_bytes) == 8);
  check_sound(rig.segment());
}

TEST_CASE("heap: runs are found between blocks, not over them", "[shm]") {
  Rig rig(small_options(12));
  std::vector<Reference> ones;
  for (int i = 0; i < 12; ++i) ones.push_back(must(rig.heap().allocate(unit_bytes)));
  for (std::size_t i = 0; i < ones.size(); ++i) fill_pattern(rig.heap().bytes(ones[i]), i);
  for (const auto i : {1U, 2U, 5U, 7U, 8U, 9U}) must(rig.heap().release(ones[i]));
  const auto three = rig.heap().allocate(3 * unit_bytes);
  REQUIRE(three.has_value());
  fill_pattern(rig.heap().bytes(*three), 100);
  CHECK(rig.heap().allocate(3 * unit_bytes).error() == Status::exhausted);
  CHECK(rig.heap().allocate(2 * unit_bytes).has_value());
  for (const auto i : {0U, 3U, 4U, 6U, 10U, 11U}) CHECK(has_pattern(rig.heap().bytes(ones[i]), i));
  check_sound(rig.segment());
}

}  // namespace sluice::test
