// Who holds what is in a queue, as shm-dump counts it, also in the middle of a step and after a death there.
#include "ipc/stream.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/unit/limited_rig.hpp"
#include "tools/shm-dump/block_holders.hpp"
#include "tools/shm-dump/holders.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <csignal>
#include <string>
#include <vector>

namespace sluice::test {

namespace {

struct SharedHandle {
  std::atomic<std::uint64_t> handle{0};
};

}  // namespace

TEST_CASE("holders: a work queue's blocks are found, and a lease says whose it is", "[tools]") {
  LimitedRig rig;
  const auto leased = rig.push(1);
  const auto waiting = rig.push(2);
  const auto lease = must(rig.peer.take());
  const auto queues = read_queue_table(rig.segment());
  const auto index = HolderIndex::read(rig.segment(), queues);
  REQUIRE(index.of(leased).size() == 1);
  CHECK(describe_holder(index.of(leased)[0], queues) ==
        "queue w @0 (leased by lane " + std::to_string(rig.other->id()) + ")");
  REQUIRE(index.of(waiting).size() == 1);
  CHECK(describe_holder(index.of(waiting)[0], queues) == "queue w @1");
  auto holders = read_block_holders(rig.segment(), {.handle = leased.value}, false);
  CHECK(holders.agreement == Agreement::exact);
  REQUIRE(holders.references.size() == 1);
  CHECK(holders.references[0].leased_by == rig.other->id());
  CHECK(holders.references[0].deliveries == 0);
  REQUIRE(rig.peer.reject(lease) == Status::ok);
  holders = read_block_holders(rig.segment(), {.handle = leased.value}, false);
  REQUIRE(holders.references.size() == 1);
  CHECK(holders.references[0].leased_by == 0);
  CHECK(holders.references[0].deliveries == 1);
  CHECK(holders.references[0].delivered);
}

TEST_CASE("holders: a cell in the middle of a lease or claim says so, and counts as recovery would decide",
          "[tools]") {
  LimitedRig rig;
  rig.push(1);
  const auto lease = must(rig.queue.take());
  const auto block = must(rig.heap().allocate(64));
  auto& cell = rig.heap().cell(block.cell);
  const auto expect = [&](std::uint64_t kind, ReferenceKind shown, bool counts) {
    cell.aux = cell_aux::make(kind, rig.id.index, rig.id.era, lease.position);
    const auto holders = read_block_holders(rig.segment(), {.handle = block.handle.value}, false);
    REQUIRE(holders.references.size() == 1);
    const auto& reference = holders.references[0];
    CAPTURE(kind);
    CHECK(reference.kind == shown);
    CHECK(reference.counts == counts);
    CHECK(reference.queue == rig.id.index);
    CHECK(reference.position == lease.position);
  };
  expect(cell_aux::claim, ReferenceKind::push, true);
  expect(cell_aux::publish, ReferenceKind::push, false);  // nobody is writing there: it was published
  expect(cell_aux::acknowledge, ReferenceKind::pop, false);
  expect(cell_aux::lease, ReferenceKind::lease, false);
  expect(cell_aux::forward, ReferenceKind::lease, false);
  expect(cell_aux::forwarded, ReferenceKind::lease, false);
  cell.aux = cell_aux::at_rest;
  REQUIRE(rig.queue.acknowledge(lease) == Status::ok);
}

TEST_CASE("holders: at every death in a work queue the references found are the count", "[tools]") {
  auto points = crash_points("work.");
  REQUIRE(points.size() > 10);
  for (const auto point : crash_points("queue.forward.")) points.push_back(point);
  const auto point = GENERATE_COPY(from_range(std::vector<std::string_view>(points.begin(), points.end())));
  CAPTURE(point);
  const TempSegment file;
  SharedWithChildren<SharedHandle> shared;
  Child victim([&](ChildLink& link) {
    auto session = must(Session::open(file.path(), "victim"));
    const auto lane = must(session.claim_lane());
    auto from = must(WorkQueue::open(*lane, must(create_work_queue(*lane, "from", {.capacity = 8}))));
    auto to = must(WorkQueue::open(*lane, must(create_work_queue(*lane, "to", {.capacity = 8}))));
    const auto block = must(lane->heap().allocate(1000));
    const auto second = must(lane->heap().clone(block));
    shared->handle = block.handle.value;
    link.ready();
    kill_self_at(point);
    must(from.push(Message{}, second));
    must(from.reject(must(from.take())));
    must(from.forward(must(from.take()), to, Message{}));
    must(lane->heap().release(must(to.keep(must(to.take())))));
    from.close();
  });
  REQUIRE(victim.wait_ready());
  const auto end = victim.wait();
  REQUIRE(end.signal ==
          (point == "work.push.withdrawn" ? 0 : SIGKILL));  // that one takes a race with a close
  if (end.signal == 0) return;
  const auto segment = must(Segment::attach_read_only(file.path()));
  const auto holders = read_block_holders(segment, {.handle = shared->handle}, false);
  CHECK(holders.facts.count == 2);
  CHECK(holders.counted() == 2);
  CHECK(holders.agreement == Agreement::exact);
  CHECK(std::ranges::none_of(holders.references, [](const BlockReference& reference) {
    return reference.kind == ReferenceKind::invalid;
  }));
}

TEST_CASE("holders: at every death in a forward from a stream the references found are the count",
          "[tools]") {
  auto points = crash_points("queue.forward.");
  REQUIRE(points.size() > 4);
  points.emplace_back("stream.push.published");
  const auto point = GENERATE_COPY(from_range(points));
  CAPTURE(point);
  const TempSegment file;
  SharedWithChildren<SharedHandle> shared;
  Child victim([&](ChildLink& link) {
    auto session = must(Session::open(file.path(), "victim"));
    const auto lane = must(session.claim_lane());
    const auto from = must(create_stream(*lane, "from", 8)), to = must(create_stream(*lane, "to", 8));
    auto source = must(StreamProducer::claim(*lane, from));
    auto target = must(StreamProducer::claim(*lane, to));
    auto consumer = must(StreamConsumer::claim(*lane, from));
    const auto block = must(lane->heap().allocate(1000));
    shared->handle = block.handle.value;
    must(source.push(Message{}, must(lane->heap().clone(block))));
    link.ready();
    kill_self_at(point);
    must(consumer.forward(target, Message{}));
  });
  REQUIRE(victim.wait_ready());
  REQUIRE(victim.wait().signal == SIGKILL);
  const auto segment = must(Segment::attach_read_only(file.path()));
  const auto holders = read_block_holders(segment, {.handle = shared->handle}, false);
  CHECK(holders.facts.count == 2);
  CHECK(holders.counted() == 2);
  CHECK(holders.agreement == Agreement::exact);
}

}  // namespace sluice::test
