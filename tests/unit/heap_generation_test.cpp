// Generations: every handle is good for one life of a block, and a slot whose generations are used up rests.
#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <map>
#include <random>
#include <set>

namespace sluice::test {

namespace {

constexpr std::size_t slots_of_16 = 4096;

void check_no_violation(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit: " << violation.what);
}

/// Make a free slot one whose next generation is the last.
void age(const Segment& segment, std::uint32_t unit, std::uint32_t slot) {
  auto& word = segment.truth_word(unit, slot);
  must_hold(truth::state(word.low) == BlockState::free, "the slot is free");
  word.low = truth::make(segment.split().generation_max(), 0, BlockState::free);
}

bool is_retired(const Segment& segment, std::uint32_t unit, std::uint32_t slot) {
  return truth::state(segment.truth_word(unit, slot).low) == BlockState::retired;
}

/// Every place that the lane can get; nothing stays allocated.
std::set<std::pair<std::uint32_t, std::uint32_t>> places(Lane& lane, std::size_t bytes) {
  std::set<std::pair<std::uint32_t, std::uint32_t>> found;
  std::vector<Reference> taken;
  while (const auto reference = lane.heap().allocate(bytes)) {
    taken.push_back(*reference);
    found.emplace(lane.segment().split().unit(reference->handle),
                  lane.segment().split().slot(reference->handle));
  }
  for (const auto& reference : taken) must(lane.heap().release(reference));
  return found;
}

}  // namespace

TEST_CASE("generation: it begins at one and moves on with every free", "[shm]") {
  Rig rig(small_options(1));
  const auto& split = rig.segment().split();
  const auto size = GENERATE(std::size_t{32768}, unit_bytes);  // two slots, or one run
  std::map<std::uint32_t, std::uint64_t> last;
  for (int i = 0; i < 10; ++i) {
    const auto reference = must(rig.heap().allocate(size));
    const auto slot = split.slot(reference.handle);
    CHECK(split.generation(reference.handle) == last[slot] + 1);
    last[slot] = split.generation(reference.handle);
    must(rig.heap().release(reference));
  }
}

TEST_CASE("generation: a slot at its maximum is retired when it is freed, and never handed out again",
          "[shm]") {
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  const auto& segment = rig.segment();
  const auto first = must(rig.heap().allocate(slots_of_16));
  const auto unit = segment.split().unit(first.handle);
  const auto slot = segment.split().slot(first.handle) + 3;
  age(segment, unit, slot);
  CHECK(places(*rig.lane, slots_of_16).contains({unit, slot}));
  CHECK(is_retired(segment, unit, slot));
  check_no_violation(segment);
  CHECK(audit(segment).counts.blocks_retired == 1);

  SECTION("by its owner") {}
  SECTION("by the lane that adopts the slab") {
    rig.lane.reset();
    rig.lane = rig.another_lane({.cells = 4096});
  }
  SECTION("as a slot of another class") {
    must(rig.heap().release(first));
    const auto others = places(*rig.lane, 2048);  // half as large: the same slot number is another place
    CHECK_FALSE(others.contains({unit, slot}));
    CHECK(others.size() == 2 * 32 - 1);
  }
  const auto found = places(*rig.lane, slots_of_16);
  CHECK(found.size() >= 2 * 16 - 2);
  CHECK_FALSE(found.contains({unit, slot}));
  CHECK(is_retired(segment, unit, slot));
}

TEST_CASE("generation: a slot at its maximum that another lane frees is retired by the harvest", "[shm]") {
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  const auto& segment = rig.segment();
  const auto first = must(rig.heap().allocate(slots_of_16));
  const auto unit = segment.split().unit(first.handle);
  const auto slot = segment.split().slot(first.handle) + 1;
  age(segment, unit, slot);
  auto last = must(rig.heap().allocate(slots_of_16));
  while (segment.split().slot(last.handle) != slot) last = must(rig.heap().allocate(slots_of_16));
  auto& word = segment.truth_word(unit, slot);
  // As the other lane leaves it: given up, and its bit set.
  word.low = truth::make(segment.split().generation_max(), 0, BlockState::freeing);
  clear_cell(rig.heap().cell(last.cell));
  flag_remote_free(segment, unit, slot / 64, std::uint64_t{1} << (slot % 64));
  CHECK_FALSE(places(*rig.lane, slots_of_16).contains({unit, slot}));
  CHECK(is_retired(segment, unit, slot));
  check_no_violation(segment);
}

TEST_CASE("generation: a unit whose first slot is retired is never again the head of a run", "[shm]") {
  Rig rig(small_options(4), Place::shared_memory, {.cells = 4096});
  const auto& segment = rig.segment();
  const auto warm = must(rig.heap().allocate(4 * unit_bytes));
  must(rig.heap().release(warm));
  age(segment, 2, 0);
  auto found = places(*rig.lane, unit_bytes);
  CHECK(found.size() == 4);
  CHECK(is_retired(segment, 2, 0));
  found = places(*rig.lane, unit_bytes);
  CHECK(found.size() == 3);
  CHECK_FALSE(found.contains({2, 0}));
  CHECK_FALSE(places(*rig.lane, slots_of_16).contains({2, 0}));
  CHECK(is_retired(segment, 2, 0));
  check_no_violation(segment);
  const auto all = rig.heap().allocate(4 * unit_bytes);  // as an interior unit it serves
  CHECK(all.has_value());
  check_no_violation(segment);
}

TEST_CASE("generation: an old handle stays dead whatever its unit becomes", "[shm]") {
  Rig rig(small_options(3), Place::shared_memory, {.cells = 8192});
  const auto& segment = rig.segment();
  std::set<std::uint64_t> dead;
  const std::size_t sizes[] = {unit_bytes, 64, 32768, 1024, 2 * unit_bytes, 4096, 320, 3 * unit_bytes, 128};
  for (int round = 0; round < 4; ++round)
    for (const auto size : sizes) {
      std::vector<Reference> taken;
      while (const auto reference = rig.heap().allocate(size)) {
        taken.push_back(*reference);
        CHECK_FALSE(dead.contains(reference->handle.value));
      }
      for (const auto handle : dead)
        if (find_block(segment, Handle{handle})) FAIL("a dead handle came alive");
      for (const auto& reference : taken) {
        must(rig.heap().release(reference));
        if (dead.size() < 2000 || reference.handle.value % 16 == 0) dead.insert(reference.handle.value);
      }
    }
  check_no_violation(segment);
}

TEST_CASE("handle look-up: only a live block of that generation is found, whatever the bits", "[shm]") {
  Rig rig(small_options(8));
  const auto& segment = rig.segment();
  const auto& split = segment.split();
  std::map<std::uint64_t, std::uint64_t> live;  // handle -> capacity
  for (const std::size_t size : {std::size_t{64}, std::size_t{1024}, std::size_t{20480}, 3 * unit_bytes}) {
    const auto reference = must(rig.heap().allocate(size));
    live[reference.handle.value] = rig.heap().bytes(reference).size();
  }
  for (const auto& [value, bytes] : live) {
    const auto found = find_block(segment, Handle{value});
    REQUIRE(found.has_value());
    CHECK(found->bytes == bytes);
    CHECK(found->unit == split.unit(Handle{value}));
    CHECK(found->slot == split.slot(Handle{value}));
    CHECK(found->is_run == (bytes > slab_block_bytes_max));
  }
  const auto stale = [&](Handle handle) { return find_block(segment, handle).error() == Status::stale; };
  CHECK(stale(Handle{}));
  CHECK(stale(Handle{~std::uint64_t{0}}));
  CHECK(stale(split.make(1, 0, 1023)));
  std::mt19937_64 random(7);
  for (int i = 0; i < 200'000; ++i) {
    const Handle handle = i % 2 == 0
                              ? Handle{random()}
                              : split.make(1 + random() % 3, random() % 10, random() % slots_per_unit_max);
    if (find_block(segment, handle).has_value() != live.contains(handle.value))
      FAIL("handle " << handle.value);
  }
}

TEST_CASE("handle look-up: the inside of a run and the slots behind its head are no blocks", "[shm]") {
  Rig rig(small_options(8));
  const auto& split = rig.segment().split();
  const auto run = must(rig.heap().allocate(4 * unit_bytes));
  const auto unit = split.unit(run.handle);
  const auto generation = split.generation(run.handle);
  for (std::uint32_t i = 0; i < 4; ++i)
    for (const auto slot : {0U, 1U, 64U}) {
      auto& word = rig.segment().truth_word(unit + i, slot);
      const auto kept = word.low;
      word.low = truth::make(generation, 1, BlockState::live);  // even where the word says that it lives
      CHECK(find_block(rig.segment(), split.make(generation, unit + i, slot)).has_value() ==
            (i == 0 && slot == 0));
      word.low = kept;
    }
}

}  // namespace sluice::test
