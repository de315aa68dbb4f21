// Messages that go on to another work queue: forwarded, or given up.
#include "tests/unit/work_rig.hpp"

namespace sluice::test {

namespace {

struct TwoQueues : WorkRig {
  explicit TwoQueues(const WorkOptions& second = {.capacity = 4})
      : next_id(must(create_work_queue(*lane, "next", second))),
        next(must(WorkQueue::open(*lane, next_id))) {}

  QueueId next_id;
  WorkQueue next;  // of `lane`
};

}  // namespace

TEST_CASE("work: a forwarded message is in the other queue, with its block", "[ipc][work]") {
  TwoQueues rig;
  must(rig.push_block(rig.peer, *rig.other, 5));
  must(rig.peer.push(work_message(6)));
  const auto [lease, number] = rig.take(rig.queue);
  fill_pattern(rig.queue.bytes(lease), 50);
  must(rig.queue.forward(lease, rig.next, work_message(51, 100)));
  CHECK(rig.queue.acknowledge(lease) == Status::stale);
  must(rig.queue.forward(rig.take(rig.queue).first, rig.next, work_message(61)));
  CHECK_FALSE(rig.queue.has_message());
  rig.check_sound();
  const auto arrived = must(rig.next.take());
  CHECK(rig.number_of(rig.next, arrived) == 51);
  CHECK(has_pattern(rig.next.bytes(arrived), 50));
  must(rig.next.acknowledge(arrived));
  const auto second = must(rig.next.take());
  CHECK(rig.number_of(rig.next, second) == 61);
  CHECK(rig.next.bytes(second).empty());
  must(rig.next.acknowledge(second));
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("work: a forward that is refused leaves the lease as it was", "[ipc][work]") {
  TwoQueues rig;
  must(rig.push_block(rig.queue, *rig.lane, 5));
  const auto lease = rig.take(rig.queue).first;
  auto elsewhere = must(WorkQueue::open(*rig.other, rig.next_id));
  CHECK(rig.queue.forward(lease, rig.queue, work_message(0)) == Status::bad_argument);
  CHECK(rig.queue.forward(lease, elsewhere, work_message(0)) == Status::bad_argument);
  for (std::uint64_t i = 0; i < 4; ++i) must(rig.next.push(work_message(i)));
  CHECK(rig.queue.forward(lease, rig.next, work_message(0)) == Status::full);
  rig.next.close();
  CHECK(rig.queue.forward(lease, rig.next, work_message(0)) == Status::closed);
  CHECK(has_pattern(rig.queue.bytes(lease), 5));
  must(rig.queue.acknowledge(lease));
  CHECK(rig.queue.forward(lease, rig.next, work_message(0)) == Status::stale);
  rig.check_sound();
}

TEST_CASE("work: forwarding into a queue that drops its oldest", "[ipc][work]") {
  TwoQueues rig({.capacity = 2, .policy = QueuePolicy::drop_oldest});
  for (std::uint64_t i = 0; i < 4; ++i) {
    must(rig.push_block(rig.queue, *rig.lane, i));
    must(rig.queue.forward(rig.take(rig.queue).first, rig.next, work_message(i, 100)));
  }
  CHECK(queue_row(rig.segment(), rig.next_id.index).dropped == 2);
  const auto lease = must(rig.next.take());
  CHECK(rig.number_of(rig.next, lease) == 2);
  CHECK(has_pattern(rig.next.bytes(lease), 2));
  must(rig.next.acknowledge(lease));
  rig.check_sound();
}

TEST_CASE("work: a message that was delivered too often goes to the dead letters", "[ipc][work]") {
  Rig outer;
  const auto dead_id = must(create_work_queue(*outer.lane, "dead", {.capacity = 2}));
  const auto id =
      must(create_work_queue(*outer.lane, "w", {.capacity = 8, .deliveries_max = 3, .dead_letter = "dead"}));
  auto queue = must(WorkQueue::open(*outer.lane, id));
  auto dead = must(WorkQueue::open(*outer.lane, dead_id));
  const auto& row = queue_row(outer.segment(), id.index);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto block = must(outer.heap().allocate(100));
    fill_pattern(outer.heap().bytes(block).first(100), i);
    must(queue.push(work_message(i, 100), block));
  }
  const auto reject_until_over = [&](std::uint64_t number) {
    for (std::uint32_t delivery = 0; delivery < 3; ++delivery) {
      const auto lease = must(queue.take());
      REQUIRE(queue.message(lease)->position == number);
      REQUIRE(lease.deliveries == delivery);
      must(queue.reject(lease));
    }
  };
  reject_until_over(0);
  CHECK_FALSE(dead.has_message());  // who looks next sends it away
  reject_until_over(1);
  reject_until_over(2);
  // There is room for two; the third stays, and those behind it are delivered all the same.
  const auto last = must(queue.take());
  CHECK(queue.message(last)->position == 3);
  CHECK(row.dead_lettered == 2);
  CHECK(queue.take().error() == Status::empty);
  CHECK_FALSE(queue.has_message());
  CHECK(audit(outer.segment()).violations.empty());
  must(queue.acknowledge(last));
  for (std::uint64_t i = 0; i < 3; ++i) {
    const auto lease = must(dead.take());
    CHECK(dead.message(lease)->position == i);
    CHECK(has_pattern(dead.bytes(lease), i));
    must(dead.acknowledge(lease));
    CHECK(queue.has_message() == (i == 0));  // room again
    if (i == 0) CHECK(queue.take().error() == Status::empty);
  }
  CHECK(row.dead_lettered == 3);
  CHECK_FALSE(queue.has_message());
  CHECK(take_census(outer.segment()).live.empty());
  for (const auto& line : take_census(outer.segment()).contradictions()) FAIL_CHECK(line);
}

}  // namespace sluice::test
