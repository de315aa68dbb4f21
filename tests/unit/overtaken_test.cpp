// What others may do between two steps of who gives memory back, or of its recoverer: after the last drop of a shared
// block, the slot and its unit may be somebody else's at once; so may the units of a run that is undone.
#include "ipc/audit.hpp"
#include "ipc/lane.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/must.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <csignal>

#include <unistd.h>

namespace sluice::test {

namespace {

bool points_are_there() {
  if (!has_crash_points) WARN("skipped: this build has no crash points (SLUICE_CRASH_POINTS)");
  return has_crash_points;
}

bool same_place(const Rig& rig, Handle a, Handle b) {
  const auto& split = rig.segment().split();
  return split.unit(a) == split.unit(b) && split.slot(a) == split.slot(b);
}

// Allocate until the block lies where `handle` did; the others go back.
Reference allocate_at(Rig& rig, Lane& lane, Handle handle, std::size_t bytes) {
  std::vector<Reference> others;
  Reference found;
  while (!found) {
    const auto next = must(lane.heap().allocate(bytes));
    (same_place(rig, next.handle, handle) ? found : others.emplace_back()) = next;
  }
  for (const auto& other : others) must(lane.heap().release(other));
  fill_pattern(lane.heap().bytes(found), 42);
  return found;
}

// The last reference to a block of a slab whose owner is gone: the slab can be adopted at any time.
Reference last_of_orphan(Rig& rig, Lane& holder, std::size_t bytes, bool in_second_slot = false) {
  const auto owner = rig.another_lane();
  if (in_second_slot) must(owner->heap().allocate(bytes));
  const auto block = must(owner->heap().allocate(bytes));
  must(owner->heap().make_findable(block));
  return must(holder.heap().look_up(block.handle));
}

void check_intact(Rig& rig, Lane& lane, Reference block) {
  REQUIRE_FALSE(lane.heap().bytes(block).empty());
  CHECK(has_pattern(lane.heap().bytes(block), 42));
  for (const auto& violation : audit(rig.segment()).violations) FAIL_CHECK(violation.what);
  std::vector<Reference> all;
  while (const auto next = lane.heap().allocate(64)) {
    CHECK(next->handle != block.handle);
    all.push_back(*next);
  }
  CHECK(has_pattern(lane.heap().bytes(block), 42));
}

}  // namespace

TEST_CASE("last drop: a recoverer that an adopter overtakes leaves the slot's next holder alone", "[shm]") {
  if (!points_are_there()) return;
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  auto dead = rig.another_lane();
  const auto block = last_of_orphan(rig, *dead, 64);
  Reference next;
  const Meanwhile meanwhile("block.drop.closed",
                            [&] { next = allocate_at(rig, *rig.lane, block.handle, 64); });
  dead.reset();  // by the steps of recovery
  REQUIRE(meanwhile.happened());
  check_intact(rig, *rig.lane, next);
}

TEST_CASE("last drop: a recoverer that the slab's owner overtakes leaves the slot's next holder alone",
          "[shm]") {
  if (!points_are_there()) return;
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  auto dead = rig.another_lane();
  const auto block = must(rig.heap().allocate(64));
  must(rig.heap().make_findable(block));
  must(dead->heap().look_up(block.handle));
  must(rig.heap().release(block));
  const auto& split = rig.segment().split();
  Reference next;
  const Meanwhile meanwhile("block.drop.closed", [&] {
    const auto slot = split.slot(block.handle);  // a stray bit, such as a repeated flag leaves
    flag_remote_free(rig.segment(), static_cast<std::uint32_t>(split.unit(block.handle)), slot / 64,
                     std::uint64_t{1} << (slot % 64));
    next = allocate_at(rig, *rig.lane, block.handle, 64);
  });
  dead.reset();
  REQUIRE(meanwhile.happened());
  check_intact(rig, *rig.lane, next);
}

TEST_CASE("last drop: a living holder that is overtaken leaves a run in the unit alone", "[shm]") {
  if (!points_are_there()) return;
  const bool in_second_slot = GENERATE(false, true);
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  const auto holder = rig.another_lane();
  must(holder->heap().allocate(128));  // it owns a slab itself
  const auto block = last_of_orphan(rig, *holder, 64, in_second_slot);
  Reference next;
  const Meanwhile meanwhile("block.drop.closed", [&] {
    next = must(rig.heap().allocate(unit_bytes));
    fill_pattern(rig.heap().bytes(next), 42);
  });
  must(holder->heap().release(block));
  holder->heap().flush();
  REQUIRE(meanwhile.happened());
  REQUIRE(rig.segment().split().unit(next.handle) == rig.segment().split().unit(block.handle));
  check_intact(rig, *rig.lane, next);
}

TEST_CASE("last drop: a living holder that is overtaken leaves the pages of a device's block alone",
          "[shm]") {
  if (!points_are_there()) return;
  Rig rig(small_options(1), Place::shared_memory, {.cells = 4096});
  const auto holder = rig.another_lane();
  const auto block = last_of_orphan(rig, *holder, 8192);
  Reference next;
  const Meanwhile meanwhile("block.drop.closed", [&] {
    next = allocate_at(rig, *rig.lane, block.handle, 8192);
    must(rig.heap().begin_io(next));
  });
  must(holder->heap().release(block));
  holder->heap().flush();
  REQUIRE(meanwhile.happened());
  CHECK(has_pattern(rig.heap().bytes(next), 42));
  must(rig.heap().end_io(next));
  check_intact(rig, *rig.lane, next);
}

TEST_CASE("last drop: who adopts a slab leaves a block alone that has to be isolated first", "[shm][io]") {
  if (!points_are_there()) return;
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  auto owner = rig.another_lane();
  const auto block = must(owner->heap().allocate(8192));
  must(owner->heap().make_findable(block));
  Child dead([&](ChildLink& link) {
    auto session = must(Session::open(rig.file.path(), "victim"));
    auto lane = must(session.claim_lane());
    must(lane->heap().begin_io(must(lane->heap().look_up(block.handle))));
    link.ready();
    link.wait_go();
    kill_self_at("block.drop.closed");
    lane.reset();
  });
  REQUIRE(dead.wait_ready());
  must(owner->heap().release(block));
  owner.reset();  // the slab is an orphan
  dead.go();
  REQUIRE(dead.wait().signal == SIGKILL);
  while (const auto next = rig.heap().allocate(8192))
    CHECK_FALSE(same_place(rig, next->handle, block.handle));
  CHECK(rig.session.recover_dead().processes == 1);
  CHECK(same_place(rig, must(rig.heap().allocate(8192)).handle, block.handle));
  for (const auto& violation : audit(rig.segment()).violations) FAIL_CHECK(violation.what);
}

TEST_CASE("quarantine: a dead cell that names the block's last generation does not free it when it is lifted",
          "[shm]") {
  if (!points_are_there()) return;
  const auto bytes = GENERATE(std::size_t{8192}, 2 * unit_bytes);
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  const auto taker = rig.another_lane();
  const SharedWithChildren<Handle> handle;
  const auto ended = run_child([&] {
    auto session = must(Session::open(rig.file.path(), "victim"));
    auto lane = must(session.claim_lane());
    const auto block = must(lane->heap().allocate(bytes));
    *handle = block.handle;
    must(lane->heap().begin_io(block));
    ::close(session.segment().fd());  // so that its pages cannot be replaced
    kill_self_at("block.quarantine.marked");
    lane.reset();
  });
  REQUIRE(ended.signal == SIGKILL);
  const auto& segment = rig.segment();
  const auto& split = segment.split();
  auto& low = segment.truth_word(split.unit(*handle), split.slot(*handle)).low;
  REQUIRE(truth::state(low) == BlockState::quarantined);
  Reference next;
  const Meanwhile meanwhile("block.quarantine.lifted", [&] {
    CHECK(rig.session.recover_dead().processes == 1);
    CHECK(truth::state(low) == BlockState::freeing);
    if (bytes > unit_bytes) CHECK_FALSE(taker->heap().allocate(bytes));  // of a slab it could adopt the rest
  });
  next = must(rig.heap().allocate(2 * unit_bytes));  // there is no room but what is lifted
  fill_pattern(rig.heap().bytes(next), 42);
  REQUIRE(meanwhile.happened());
  check_intact(rig, *rig.lane, next);
}

TEST_CASE("quarantine: one lane lifts at a time, and its death gives the next one its turn", "[shm]") {
  if (!points_are_there()) return;
  Rig rig(small_options(2), Place::shared_memory, {.cells = 4096});
  const auto block = must(rig.heap().allocate(2 * unit_bytes));
  const auto& segment = rig.segment();
  const auto& split = segment.split();
  auto& low = segment.truth_word(split.unit(block.handle), 0).low;
  store(low, truth::make(split.generation(block.handle) + 1, 0, BlockState::quarantined), release);
  store(rig.heap().cell(block.cell).handle, 0, release);
  fetch_add(segment.control().quarantined, 1, relaxed);
  const auto point = GENERATE(as<std::string>{}, "block.quarantine.claimed", "block.quarantine.held",
                              "block.quarantine.lifted");
  const auto ended = run_child([&] {
    auto session = must(Session::open(rig.file.path(), "victim"));
    auto lane = must(session.claim_lane());
    kill_self_at(point);
    (void)lane->heap().allocate(unit_bytes);
  });
  REQUIRE(ended.signal == SIGKILL);
  CHECK_FALSE(rig.heap().allocate(2 * unit_bytes));
  CHECK(rig.session.recover_dead().processes == 1);
  CHECK(rig.heap().allocate(2 * unit_bytes));
  for (const auto& violation : audit(segment).violations) FAIL_CHECK(violation.what);
}

TEST_CASE("run: undone, its units may be another's before the dead one's ledger is dropped", "[shm]") {
  if (!points_are_there()) return;
  Rig rig(small_options(4), Place::shared_memory, {.cells = 4096});
  const auto ended = run_child([&] {
    auto session = must(Session::open(rig.file.path(), "victim"));
    auto lane = must(session.claim_lane());
    kill_self_at("run.take.announced");
    (void)lane->heap().allocate(3 * unit_bytes);
  });
  REQUIRE(ended.signal == SIGKILL);
  Reference next;  // in the generation that the dead one's cell would name
  const Meanwhile meanwhile("recover.lane.operation", [&] {
    next = must(rig.heap().allocate(3 * unit_bytes));
    fill_pattern(rig.heap().bytes(next), 42);
  });
  CHECK(rig.session.recover_dead().processes == 1);
  REQUIRE(meanwhile.happened());
  check_intact(rig, *rig.lane, next);
}

}  // namespace sluice::test
