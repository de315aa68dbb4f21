#include "tests/unit/work_rig.hpp"

#include "ipc/stream.hpp"
#include "tests/support/crash.hpp"

#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <set>

namespace sluice::test {

TEST_CASE("work: messages go to one consumer each, in order, many times round the ring", "[ipc][work]") {
  WorkRig rig;
  std::uint64_t pushed = 0, taken = 0;
  while (taken < 100) {
    for (std::uint64_t i = 0; i <= pushed % 8; ++i)
      if (rig.push_block(rig.queue, *rig.lane, pushed) == Status::ok) ++pushed;
    for (auto* by = &rig.queue; taken < pushed; by = by == &rig.queue ? &rig.peer : &rig.queue) {
      const auto [lease, number] = rig.take(*by);
      REQUIRE(number == taken++);
      CHECK(lease.deliveries == 0);
      CHECK(has_pattern(by->bytes(lease), number));
      must(by->acknowledge(lease));
    }
  }
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
  CHECK(rig.row().tail == pushed);
}

TEST_CASE("work: a full ring refuses, an empty one has nothing, and a lease keeps its place", "[ipc][work]") {
  WorkRig rig;
  CHECK(rig.queue.take().error() == Status::empty);
  CHECK_FALSE(rig.queue.has_message());
  for (std::uint64_t i = 0; i < 8; ++i) must(rig.queue.push(work_message(i)));
  CHECK_FALSE(rig.queue.has_room());
  CHECK(rig.queue.push(work_message(8)) == Status::full);
  const auto first = rig.take(rig.peer).first;
  const auto second = rig.take(rig.queue).first;
  // The slot at tail is the first one's: what others free behind it makes no room.
  must(rig.queue.acknowledge(second));
  CHECK(rig.queue.push(work_message(8)) == Status::full);
  must(rig.peer.acknowledge(first));
  CHECK(rig.queue.has_room());
  must(rig.queue.push(work_message(8)));
  must(rig.queue.push(work_message(9)));
  CHECK(rig.queue.push(work_message(10)) == Status::full);
  for (std::uint64_t i = 2; i < 10; ++i) {
    const auto [lease, number] = rig.take(rig.peer);
    CHECK(number == i);
    must(rig.peer.acknowledge(lease));
  }
  CHECK(rig.queue.take().error() == Status::empty);
  CHECK(rig.row().refused == 0);  // with the policy block it is the caller who waits
  rig.check_sound();
}

TEST_CASE("work: what is given back comes again before what was pushed later, with its count",
          "[ipc][work]") {
  WorkRig rig;
  for (std::uint64_t i = 0; i < 6; ++i) must(rig.push_block(rig.queue, *rig.lane, i));
  std::map<std::uint64_t, WorkLease> leases;
  for (std::uint64_t i = 0; i < 4; ++i) leases[i] = rig.take(rig.peer).first;
  // In any order they are given back: the oldest comes first.
  for (const std::uint64_t number : {2U, 0U, 3U}) must(rig.peer.reject(leases[number]));
  CHECK(rig.row().delivered == 3);
  for (const std::uint64_t expected : {0U, 2U, 3U, 4U}) {
    const auto [lease, number] = rig.take(rig.queue);
    CHECK(number == expected);
    CHECK(lease.deliveries == (expected < 4 ? 1 : 0));
    if (number == 2) {
      must(rig.queue.reject(lease));
      const auto again = must(rig.queue.take());
      CHECK(rig.number_of(rig.queue, again) == 2);
      CHECK(again.deliveries == 2);
      CHECK(has_pattern(rig.queue.bytes(again), 2));
      must(rig.queue.acknowledge(again));
    } else {
      must(rig.queue.acknowledge(lease));
    }
  }
  must(rig.peer.acknowledge(leases[1]));
  CHECK(rig.row().redelivered == 4);
  CHECK(rig.number_of(rig.peer, must(rig.peer.take())) == 5);
}

TEST_CASE("work: a lane that goes leaves what it leased, marked as delivered", "[ipc][work]") {
  WorkRig rig;
  for (std::uint64_t i = 0; i < 4; ++i) must(rig.push_block(rig.queue, *rig.lane, i));
  {
    auto gone = rig.another_lane();
    auto end = rig.open(*gone);
    (void)rig.take(end);
    (void)rig.take(end);
  }
  rig.check_sound();
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto [lease, number] = rig.take(rig.peer);
    CHECK(number == i);
    CHECK(lease.deliveries == (i < 2 ? 1 : 0));
    must(rig.peer.acknowledge(lease));
  }
  rig.check_sound();
}

TEST_CASE("work: a lease ends once, and only by its lane", "[ipc][work]") {
  WorkRig rig;
  for (std::uint64_t i = 0; i < 3; ++i) must(rig.push_block(rig.queue, *rig.lane, i));
  const auto lease = rig.take(rig.peer).first;
  const auto before = rig.row();
  CHECK(rig.queue.acknowledge(lease) == Status::stale);
  CHECK(rig.queue.reject(lease) == Status::stale);
  CHECK(rig.queue.keep(lease).error() == Status::stale);
  CHECK(rig.queue.message(lease) == nullptr);
  CHECK(rig.queue.bytes(lease).empty());
  CHECK(rig.peer.acknowledge({lease.position + 1, lease.cell, 0}) == Status::stale);
  CHECK(rig.peer.acknowledge({lease.position, lease.cell + 1, 0}) == Status::stale);
  CHECK(rig.peer.acknowledge({lease.position, ~std::uint32_t{0}, 0}) == Status::stale);
  CHECK(std::memcmp(&before, &rig.row(), sizeof before) == 0);
  must(rig.peer.acknowledge(lease));
  CHECK(rig.peer.acknowledge(lease) == Status::stale);
  CHECK(rig.peer.reject(lease) == Status::stale);
  const auto next = rig.take(rig.peer).first;
  must(rig.peer.reject(next));
  CHECK(rig.peer.acknowledge(next) == Status::stale);
  rig.check_sound();
}

TEST_CASE("work: what is kept is the lane's, to be changed and pushed on", "[ipc][work]") {
  WorkRig rig;
  must(rig.push_block(rig.queue, *rig.lane, 1));
  must(rig.queue.push(work_message(2)));
  const auto block = must(rig.peer.keep(rig.take(rig.peer).first));
  REQUIRE(block);
  const auto bytes = must(rig.other->heap().own(block));
  fill_pattern(bytes.first(100), 77);
  must(rig.peer.push(work_message(3, 100), block));
  CHECK_FALSE(must(rig.peer.keep(rig.take(rig.peer).first)));  // it had none
  const auto [lease, number] = rig.take(rig.queue);
  CHECK(number == 3);
  CHECK(has_pattern(rig.queue.bytes(lease), 77));
  must(rig.queue.acknowledge(lease));
  rig.check_sound();
}

TEST_CASE("work: a block that cannot move is refused, and nothing changes", "[ipc][work]") {
  WorkRig rig;
  const auto block = must(rig.heap().allocate(5000));
  CHECK(rig.peer.push(work_message(0), block) == Status::stale);  // another lane's
  CHECK(rig.queue.push(work_message(0), Reference{}) == Status::stale);
  CHECK(rig.queue.push(work_message(0), Reference{{block.handle.value + 1}, block.cell}) == Status::stale);
  must(rig.heap().begin_io(block));
  CHECK(rig.queue.push(work_message(0), block) == Status::busy);
  must(rig.heap().end_io(block));
  must(rig.heap().release(block));
  CHECK(rig.queue.push(work_message(0), block) == Status::stale);
  CHECK(rig.row().tail == 0);
  rig.check_sound();
}

TEST_CASE("work: drop_oldest makes room by what waits longest, and counts it", "[ipc][work]") {
  WorkRig rig({.capacity = 4, .policy = QueuePolicy::drop_oldest});
  for (std::uint64_t i = 0; i < 4; ++i) must(rig.push_block(rig.queue, *rig.lane, i));
  must(rig.push_block(rig.queue, *rig.lane, 4));
  CHECK(rig.row().dropped == 1);
  const auto held = rig.take(rig.peer).first;  // 1: its slot is the next to be used
  CHECK(rig.number_of(rig.peer, held) == 1);
  // What is worked on cannot be dropped, and dropping others would not free its slot.
  CHECK(rig.push_block(rig.queue, *rig.lane, 5) == Status::full);
  CHECK(rig.row().dropped == 1);
  CHECK(rig.row().refused == 1);
  must(rig.peer.acknowledge(held));
  must(rig.push_block(rig.queue, *rig.lane, 6));
  CHECK(rig.take(rig.peer).second == 2);
}

TEST_CASE("work: fail refuses and counts", "[ipc][work]") {
  WorkRig rig({.capacity = 2, .policy = QueuePolicy::fail});
  must(rig.queue.push(work_message(0)));
  must(rig.queue.push(work_message(1)));
  CHECK(rig.queue.push(work_message(2)) == Status::full);
  CHECK(rig.row().refused == 1);
  CHECK(rig.row().high_water == 2);
}

TEST_CASE("work: after close nothing is pushed, and consumers end when all is done", "[ipc][work]") {
  WorkRig rig;
  must(rig.push_block(rig.queue, *rig.lane, 0));
  must(rig.queue.push(work_message(1)));
  CHECK_FALSE(rig.peer.ended());
  rig.queue.close();
  CHECK(rig.peer.closed());
  CHECK(rig.queue.push(work_message(2)) == Status::closed);
  const auto block = must(rig.heap().allocate(10));
  CHECK(rig.queue.push(work_message(2), block) == Status::closed);
  must(rig.heap().release(block));
  const auto first = rig.take(rig.peer).first;
  must(rig.peer.acknowledge(rig.take(rig.peer).first));
  CHECK_FALSE(rig.queue.has_message());
  CHECK_FALSE(rig.queue.ended());  // the other works on one, and may give it back
  must(rig.peer.reject(first));
  CHECK_FALSE(rig.queue.ended());
  must(rig.queue.acknowledge(rig.take(rig.queue).first));
  CHECK(rig.queue.ended());
  rig.queue.reopen();
  CHECK_FALSE(rig.queue.ended());
  must(rig.queue.push(work_message(3)));
  CHECK(rig.take(rig.peer).second == 3);
}

TEST_CASE("work: a ledger without a free cell is told, and nothing is taken", "[ipc][work]") {
  WorkRig rig;
  auto small = rig.another_lane({.cells = 64});
  auto end = rig.open(*small);
  must(rig.push_block(rig.queue, *rig.lane, 0));
  std::vector<std::uint32_t> cells;
  while (small->heap().cells_free() != 0) cells.push_back(must(small->heap().reserve_cell()));
  CHECK(end.take().error() == Status::no_cell);
  CHECK(end.push(work_message(1)) == Status::no_cell);
  for (const auto cell : cells) small->heap().unreserve_cell(cell);
  CHECK(rig.take(end).second == 0);
}

TEST_CASE("work: who gives back late does not lose the front", "[ipc][work]") {
  WorkRig rig({.capacity = 1});
  const auto late = rig.another_lane();
  auto stopped = rig.open(*late);
  // As a lane leaves it that is stopped before it leases position 0, and killed much later.
  const auto cell = must(late->heap().reserve_cell());
  store(late->heap().cell(cell).aux, cell_aux::make(cell_aux::lease, rig.id.index, rig.id.era, 0), release);
  for (std::uint64_t i = 0; i < 300; ++i) {
    must(rig.queue.push(work_message(i)));
    must(rig.peer.acknowledge(rig.take(rig.peer).first));
  }
  recover_lane(rig.segment(), late->id());
  must(rig.queue.push(work_message(300)));
  CHECK(rig.peer.has_message());
  CHECK(rig.take(rig.peer).second == 300);
}

TEST_CASE("work: what is passed while it is pushed comes before what its producer pushed later",
          "[ipc][work]") {
  if (!has_crash_points) {
    WARN("skipped: this build has no crash points (SLUICE_CRASH_POINTS)");
    return;
  }
  WorkRig rig;
  std::optional<std::uint64_t> first;
  {
    // In the middle of a push of 0: somebody else pushes 1, and whoever takes gets that.
    const Meanwhile meanwhile("work.push.filled", [&] {
      must(rig.peer.push(work_message(1)));
      first = rig.take(rig.peer).second;
    });
    must(rig.queue.push(work_message(0)));
  }
  CHECK(first == 1);
  CHECK(rig.take(rig.peer).second == 0);
}

// ---- Creating --------------------------------------------------------------------------------------------

TEST_CASE("work: a queue that cannot be is refused with a sentence", "[ipc][work]") {
  Rig rig;
  const auto refusal = [&](const WorkOptions& options, std::string_view name = "w") {
    const auto made = create_work_queue(*rig.lane, name, options);
    REQUIRE_FALSE(made);
    return made.error();
  };
  CHECK(refusal({.capacity = 0}).message == "capacity of queue w: found 0, expected 1 to 1048576");
  CHECK(refusal({.capacity = 1U << 21}).status == Status::bad_argument);
  CHECK(refusal({.capacity = 1U << 20}).status == Status::too_large);
  CHECK(refusal({.deliveries_max = 256, .dead_letter = "d"}).message ==
        "queue w: 256 deliveries, expected at most 255");
  CHECK(refusal({.deliveries_max = 3}).message ==
        "queue w: a limit of deliveries and a dead letter queue go together");
  CHECK(refusal({.dead_letter = "d"}).status == Status::bad_argument);
  CHECK(refusal({.deliveries_max = 3, .dead_letter = "d"}).status == Status::not_found);
  must(create_stream(*rig.lane, "s", 4));
  CHECK(refusal({.deliveries_max = 3, .dead_letter = "s"}).message ==
        "queue s: found a stream, expected a work queue");
  CHECK(refusal({}, "s").status == Status::exists);
  CHECK(refusal({}, "").status == Status::bad_argument);
}

TEST_CASE("work: a queue under the same name is that one, if it is alike", "[ipc][work]") {
  WorkRig rig;
  CHECK(must(find_or_create_work_queue(*rig.other, "w", {.capacity = 7})) == rig.id);
  const auto refusal = [&](const WorkOptions& options, std::string_view name = "w") {
    return find_or_create_work_queue(*rig.other, name, options).error().message;
  };
  CHECK(refusal({.capacity = 9}) == "queue w: found capacity 8, expected 16");
  CHECK(refusal({.capacity = 8, .policy = QueuePolicy::fail}) ==
        "queue w: found policy block, expected fail");
  must(create_work_queue(*rig.lane, "d1", {.capacity = 4}));
  must(create_work_queue(*rig.lane, "d2", {.capacity = 4}));
  must(create_work_queue(*rig.lane, "l", {.capacity = 8, .deliveries_max = 2, .dead_letter = "d1"}));
  CHECK(refusal({.capacity = 8, .deliveries_max = 2, .dead_letter = "d2"}, "l") ==
        "queue l: found the dead letter queue d1, expected d2");
  must(find_or_create_work_queue(*rig.other, "l", {.capacity = 8, .deliveries_max = 2, .dead_letter = "d1"}));
  must(create_stream(*rig.lane, "s", 4));
  CHECK(refusal({}, "s") == "queue s: found a stream, expected a work queue");
  CHECK(WorkQueue::open(*rig.lane, must(find_queue(rig.segment(), "s"))).error() == Status::bad_argument);
  CHECK(WorkQueue::open(*rig.lane, {rig.id.index, rig.id.era + 1}).error() == Status::stale);
  CHECK(WorkQueue::open(*rig.lane, {100'000, 0}).error() == Status::bad_argument);
  CHECK(StreamProducer::claim(*rig.lane, rig.id).error() != Status::ok);
  rig.row().capacity = 7;
  CHECK(WorkQueue::open(*rig.lane, rig.id).error() == Status::corrupt);
  rig.row().capacity = 8;
}

// ---- Against a model ---------------------------------------------------------------------------------------

TEST_CASE("work: any order of operations is as in the model", "[ipc][work]") {
  const auto seed = GENERATE(range(1U, 9U));
  WorkRig rig({.capacity = 8});
  std::mt19937 random(seed);
  const auto chance = [&](unsigned of) { return random() % of == 0; };
  std::set<std::uint64_t> waiting;                                   // numbers are given in order
  std::map<std::uint64_t, std::pair<WorkQueue*, WorkLease>> leased;  // by number
  std::map<std::uint64_t, std::uint32_t> deliveries;
  std::uint64_t next = 0, oldest_slot = 0;
  for (int step = 0; step < 4000; ++step) {
    auto& by = chance(2) ? rig.queue : rig.peer;
    auto& lane = &by == &rig.queue ? *rig.lane : *rig.other;
    if (chance(2)) {
      while (oldest_slot < next && !waiting.contains(oldest_slot) && !leased.contains(oldest_slot))
        ++oldest_slot;
      const auto expected = next - oldest_slot >= 8 ? Status::full : Status::ok;
      REQUIRE((chance(4) ? by.push(work_message(next)) : rig.push_block(by, lane, next)) == expected);
      if (expected == Status::ok) waiting.insert(next++);
    } else if (chance(2) || leased.empty()) {
      const auto lease = by.take();
      REQUIRE(lease.has_value() == !waiting.empty());
      if (!lease) continue;
      const auto number = rig.number_of(by, *lease);
      REQUIRE(number == *waiting.begin());
      REQUIRE(lease->deliveries == deliveries[number]);
      waiting.erase(number);
      leased[number] = {&by, *lease};
    } else {
      auto some = leased.begin();
      std::advance(some, random() % leased.size());
      auto [number, held] = *some;
      if (chance(3)) {
        must(held.first->reject(held.second));
        waiting.insert(number);
        ++deliveries[number];
      } else {
        must(held.first->acknowledge(held.second));
      }
      leased.erase(some);
    }
    if (chance(200)) rig.check_quiet();
  }
  for (const auto& [number, held] : leased) must(held.first->acknowledge(held.second));
  while (const auto lease = rig.queue.take()) must(rig.queue.acknowledge(*lease));
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
}

}  // namespace sluice::test
