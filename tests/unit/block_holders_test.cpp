// Who holds one block, as shm-dump reads it: in use, after a death, at each point where a reference is in between.
#include "tools/shm-dump/block_holders.hpp"

#include "ipc/stream.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/temp_segment.hpp"
#include "tools/shm-dump/lane_table.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <ctime>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace sluice::test {

using namespace sluice::tools;

namespace {

BlockName named(Handle handle) { return {.handle = handle.value}; }

std::vector<ReferenceKind> kinds_of(const BlockHolders& holders) {
  std::vector<ReferenceKind> kinds;
  for (const auto& reference : holders.references) kinds.push_back(reference.kind);
  std::ranges::sort(kinds);
  return kinds;
}

std::uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

struct SharedPlaces {
  std::atomic<std::uint64_t> handle{0};
  std::atomic<std::uint64_t> lane{0};
  std::atomic<std::uint64_t> cell{0};
};

}  // namespace

TEST_CASE(
    "holders: a shared block's three references are found, in two processes and a queue, one of them dead",
    "[tools]") {
  Rig rig;
  const auto queue = must(create_stream(*rig.lane, "waiting", 8));
  const auto mine = must(rig.heap().allocate(1000));
  must(rig.heap().make_findable(mine));
  SharedWithChildren<SharedPlaces> theirs;
  Child other([&](ChildLink& link) {
    auto session = must(Session::open(rig.file.path(), "other"));
    const auto lane = must(session.claim_lane());
    auto producer = must(StreamProducer::claim(*lane, queue));
    Message message{};
    message.receive_ns = monotonic_ns();
    must(producer.push(message, must(lane->heap().look_up(mine.handle))));
    const auto held = must(lane->heap().look_up(mine.handle));
    theirs->lane = lane->id();
    theirs->cell = held.cell;
    link.ready();
    link.wait_go();
  });
  REQUIRE(other.wait_ready());
  const auto check = [&](const Segment& segment, bool live, Presence their_presence) {
    const auto holders = read_block_holders(segment, named(mine.handle), live);
    CHECK(holders.facts.standing == Standing::live);
    CHECK(holders.facts.count == 3);
    CHECK(flag_names(holders.facts.flags) == "shared, findable");
    CHECK(holders.facts.bytes == 1024);
    CHECK(holders.facts.tag_lane == theirs->lane);
    CHECK(holders.agreement == Agreement::exact);
    CHECK(holders.counted() == 3);
    REQUIRE(holders.references.size() == 3);
    const auto& own = holders.references[0];
    CHECK((own.kind == ReferenceKind::cell && own.lane == rig.lane->id() && own.cell == mine.cell));
    const auto& dead = holders.references[1];
    CHECK((dead.kind == ReferenceKind::cell && dead.lane == theirs->lane && dead.cell == theirs->cell));
    const auto& message = holders.references[2];
    CHECK((message.kind == ReferenceKind::message && message.queue == queue.index && message.position == 0));
    CHECK_FALSE(message.delivered);
    REQUIRE(received_ago(segment, message.receive_ns).has_value());
    CHECK(*received_ago(segment, message.receive_ns) < std::chrono::minutes(2));
    const auto lanes = read_lane_table(segment);
    const auto processes = read_process_table(segment);
    CHECK(processes[lanes[theirs->lane - 1].process].presence == their_presence);
  };
  const auto attached = must(Segment::attach_read_only(rig.file.path()));
  check(attached, true, Presence::alive);
  other.kill_and_wait();
  check(attached, true, Presence::dead);
  const auto copy = rig.file.directory().file("copy");
  copy_sparse(rig.file.path(), copy);
  check(must(Segment::attach_read_only(copy)), false, Presence::dead);
  // Recovered: the dead one's reference is gone, the queue's stays.
  CHECK(rig.session.recover_dead().references == 1);
  const auto after = read_block_holders(attached, named(mine.handle), true);
  CHECK(after.agreement == Agreement::exact);
  CHECK(kinds_of(after) == std::vector{ReferenceKind::cell, ReferenceKind::message});
  // A consumer that was shown the message has it delivered.
  auto consumer = must(StreamConsumer::claim(*rig.lane, queue));
  REQUIRE(consumer.peek() != nullptr);
  CHECK(read_block_holders(attached, named(mine.handle), true).references.back().delivered);
}

TEST_CASE("holders: at every death in a clone, drop, push or pop the references found are the count",
          "[tools]") {
  std::vector<std::string_view> points;
  for (const auto prefix : {"block.clone.", "block.drop.", "stream.push.", "stream.pop."})
    std::ranges::copy(crash_points(prefix), std::back_inserter(points));
  const auto point = GENERATE_COPY(from_range(points));
  CAPTURE(point);
  const TempSegment file;
  SharedWithChildren<SharedPlaces> theirs;
  Child victim([&](ChildLink& link) {
    auto session = must(Session::open(file.path(), "victim"));
    const auto lane = must(session.claim_lane());
    const auto queue = must(create_stream(*lane, "moves", 8));
    auto producer = must(StreamProducer::claim(*lane, queue));
    auto consumer = must(StreamConsumer::claim(*lane, queue));
    const auto block = must(lane->heap().allocate(1000));
    const auto second = must(lane->heap().clone(block));
    theirs->handle = block.handle.value;
    link.ready();
    kill_self_at(point);
    const auto third = must(lane->heap().clone(block));
    must(producer.push(Message{}, second));
    must_hold(consumer.peek() != nullptr, "the message is there");
    const auto back = must(consumer.pop());
    must(lane->heap().release(back));
    must(lane->heap().release(third));
    must(lane->heap().release(block));
  });
  REQUIRE(victim.wait_ready());
  CHECK(victim.wait().signal == SIGKILL);
  const auto segment = must(Segment::attach_read_only(file.path()));
  const auto holders = read_block_holders(segment, {.handle = theirs->handle}, false);
  CHECK(holders.facts.standing == Standing::live);
  CHECK(holders.facts.count >= 2);
  CHECK(holders.counted() == holders.facts.count);
  CHECK(holders.agreement == Agreement::exact);
  if (point == "block.clone.counted") CHECK(std::ranges::count(kinds_of(holders), ReferenceKind::clone) == 1);
  if (point == "block.drop.dropped") CHECK(std::ranges::count(kinds_of(holders), ReferenceKind::drop) == 1);
  if (point == "stream.push.published") {
    CHECK(kinds_of(holders) ==
          std::vector{ReferenceKind::cell, ReferenceKind::cell, ReferenceKind::push, ReferenceKind::message});
  }
}

TEST_CASE("holders: a block that the kernel may write to says so", "[tools]") {
  Rig rig;
  const auto block = must(rig.heap().allocate(64));
  rig.heap().cell(block.cell).aux = cell_aux::make(cell_aux::kernel, 0, 0, 0);
  const auto holders = read_block_holders(rig.segment(), named(block.handle), false);
  CHECK(kinds_of(holders) == std::vector{ReferenceKind::kernel});
  CHECK(holders.agreement == Agreement::exact);
  rig.heap().cell(block.cell).aux = cell_aux::at_rest;
}

TEST_CASE("holders: a handle whose generation is over says so, and what is there now", "[tools]") {
  Rig rig;
  const auto first = must(rig.heap().allocate(20'000));
  must(rig.heap().release(first));
  auto facts = read_block(rig.segment(), named(first.handle));
  CHECK(facts.standing == Standing::over);
  CHECK(facts.generation_now == facts.generation + 1);
  CHECK(facts.state == BlockState::free);
  auto next = must(rig.heap().allocate(20'000));
  while (rig.segment().split().slot(next.handle) != rig.segment().split().slot(first.handle) ||
         rig.segment().split().unit(next.handle) != rig.segment().split().unit(first.handle))
    next = must(rig.heap().allocate(20'000));
  const auto holders = read_block_holders(rig.segment(), named(first.handle), false);
  CHECK(holders.facts.standing == Standing::over);
  CHECK(holders.facts.handle_now == next.handle);
  CHECK(holders.references.empty());
  CHECK(holders.agreement == Agreement::exact);
  // By place the block is found whose turn it is; by place and generation, exactly that one.
  const BlockName place{.unit = holders.facts.unit, .slot = holders.facts.slot};
  CHECK(resolve(rig.segment(), place) == next.handle);
  const auto by_generation = read_block(
      rig.segment(), {.unit = place.unit, .slot = place.slot, .generation = holders.facts.generation});
  CHECK(by_generation.handle == first.handle);
  CHECK(by_generation.standing == Standing::over);
  CHECK(read_block(rig.segment(), {.unit = place.unit, .slot = place.slot, .generation = 1000}).standing ==
        Standing::not_begun);
}

TEST_CASE("holders: where no block can be is said in words, with no reference found", "[tools]") {
  Rig rig;
  const auto run = must(rig.heap().allocate(2 * unit_bytes));
  const auto slot = must(rig.heap().allocate(20'000));
  const auto& split = rig.segment().split();
  const std::uint64_t unit = split.unit(run.handle);
  const auto expect = [&](const BlockName& name, std::string_view words) {
    const auto holders = read_block_holders(rig.segment(), name, false);
    CAPTURE(words, holders.facts.why);
    CHECK(holders.facts.standing == Standing::no_block);
    CHECK(holders.facts.why.find(words) != std::string::npos);
    CHECK(holders.references.empty());
  };
  expect({.unit = 1U << 20, .slot = 0}, "does not exist");
  expect({.unit = 0, .slot = 5000}, "");
  expect({.unit = unit, .slot = 1}, "is one block now");
  expect({.unit = unit + 1, .slot = 0}, "holds no blocks now: it is interior");
  expect({.unit = split.unit(slot.handle), .slot = 900}, "has slots 0 to 2 now");
  expect({.handle = ~std::uint64_t{0}}, "holds no blocks now");
  CHECK(read_block_holders(rig.segment(), named(run.handle), false).agreement == Agreement::exact);
  CHECK(read_block(rig.segment(), named(run.handle)).is_run);
}

TEST_CASE("holders: a count that is not the number of references is a violation, or moving while it changes",
          "[tools]") {
  Rig rig;
  const auto block = must(rig.heap().allocate(100));
  auto& word = rig.segment().truth_word(rig.segment().split().unit(block.handle),
                                        rig.segment().split().slot(block.handle));
  const auto low = word.low;
  word.low = truth::Count::set(low, 2);
  const auto still =
      read_block_holders(rig.segment(), named(block.handle), true, 3, std::chrono::milliseconds(1));
  CHECK(still.agreement == Agreement::violation);
  CHECK(still.counted() == 1);
  CHECK(read_block_holders(rig.segment(), named(block.handle), false).agreement == Agreement::violation);
  CHECK(read_block_holders(rig.segment(), named(block.handle), true, 1).agreement == Agreement::violation);
  std::atomic<bool> stop{false};
  std::thread mover([&] {
    for (std::uint64_t sequence = 1; !stop; ++sequence)
      store(word.tag, truth_tag::make(1, sequence), relaxed);
  });
  // The mover may be off the CPU for as long as three looks take.
  auto seen = Agreement::exact;
  for (int i = 0; i < 1000 && seen != Agreement::moving; ++i)
    seen = read_block_holders(rig.segment(), named(block.handle), true, 3, std::chrono::milliseconds(1))
               .agreement;
  stop = true;
  mover.join();
  CHECK(seen == Agreement::moving);
  word.tag = 0;
  word.low = low;
}

TEST_CASE("holders: a message's time counts only for the boot that it can only be of", "[tools]") {
  Rig rig;
  const auto now = monotonic_ns();
  CHECK(received_ago(rig.segment(), now).has_value());
  CHECK_FALSE(received_ago(rig.segment(), 0).has_value());
  CHECK_FALSE(received_ago(rig.segment(), now + 3'600'000'000'000).has_value());
  rig.segment().identity().boot_id[0] ^= 1;
  CHECK_FALSE(received_ago(rig.segment(), now).has_value());
  rig.segment().identity().boot_id[0] ^= 1;
}

TEST_CASE("holders: blocks are named by handle as it is printed, or by place", "[tools]") {
  CHECK(must(parse_block_name("0x0000010000000c05")).handle == 0x0000010000000c05);
  CHECK(must(parse_block_name("0XC05")).handle == 0xc05);
  const auto place = must(parse_block_name("3:5"));
  CHECK((place.handle == 0 && place.unit == 3 && place.slot == 5 && place.generation == 0));
  CHECK(must(parse_block_name("3:5:7")).generation == 7);
  for (const auto* text : {"", "0x", "12", "c05", "0x0", "0x12345678901234567", "0x12g", "3:", ":5",
                           "3:5:", "3:5:0", "3:5:7:9", "-3:5", "0x1 ", "99999999999999999999:1"}) {
    const auto parsed = parse_block_name(text);
    CAPTURE(text);
    REQUIRE_FALSE(parsed.has_value());
    CHECK(parsed.error().message.starts_with("'" + std::string(text) + "' is "));
  }
}

}  // namespace sluice::test
