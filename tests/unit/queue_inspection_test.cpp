// Queues as shm-dump reads them: what is in a work queue and whose it is, counters, rates, sizing, hostile rows.
#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/subscription.hpp"
#include "tests/unit/limited_rig.hpp"
#include "tools/shm-dump/block_holders.hpp"
#include "tools/shm-dump/queue_ends.hpp"
#include "tools/shm-dump/queue_json.hpp"
#include "tools/shm-dump/queue_rates.hpp"
#include "tools/shm-dump/queue_sizing.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::test {

using namespace sluice::tools;

namespace {

std::vector<std::uint64_t> positions_of(const std::vector<WorkSlot>& slots) {
  std::vector<std::uint64_t> positions;
  for (const auto& slot : slots) positions.push_back(slot.position);
  return positions;
}

QueueEntry counted(QueueKind kind, std::uint32_t capacity, std::uint64_t in, std::uint64_t high_water) {
  QueueEntry queue;
  queue.state = QueueState::ready;
  queue.kind = static_cast<std::uint32_t>(kind);
  queue.capacity = capacity;
  queue.tail = queue.head = queue.counters.messages_in = in;
  queue.counters.high_water = high_water;
  return queue;
}

}  // namespace

TEST_CASE("queues: of a work queue it is told what waits, what is leased by whom, what was delivered before",
          "[tools]") {
  LimitedRig rig;
  for (std::uint64_t i = 0; i < 6; ++i) rig.push(i);
  const auto first = must(rig.queue.take());
  const auto second = must(rig.peer.take());
  const auto third = must(rig.peer.take());
  REQUIRE(rig.queue.acknowledge(first) == Status::ok);
  REQUIRE(rig.peer.reject(second) == Status::ok);

  const auto queue = rig.entry();
  CHECK(queue.broken.empty());
  CHECK(queue.depth() == 5);
  CHECK(queue.work.waiting == 4);
  CHECK(queue.work.leased == 1);
  CHECK(queue.work.writing == 0);
  CHECK(queue.work.parked == 0);
  CHECK(queue.work.unreadable == 0);
  CHECK(queue.work.span == 5);
  CHECK(queue.work.oldest_waiting.position == 1);
  REQUIRE(queue.work.leases.size() == 1);
  CHECK(queue.work.leases[0].lane == rig.other->id());
  CHECK(queue.work.leases[0].oldest.position == third.position);
  CHECK(positions_of(queue.work.redelivered) == std::vector<std::uint64_t>{1});
  CHECK(queue.work.redelivered[0].deliveries == 1);

  const auto document = rig.json();
  CHECK(document["kind"] == "work");
  CHECK(document["policy"] == "block");
  CHECK(document["work"]["dead_letter"]["name"] == "dead");
  CHECK(document["work"]["deliveries_max"] == 2);
  CHECK(document["work"]["leases"][0]["holder"].get<std::string>().find("pid ") != std::string::npos);
  const auto view = QueueView::read(rig.segment());
  CHECK(view.consumer_of(*view.queue(rig.id.index)).starts_with("1 leased by "));
  REQUIRE(rig.peer.acknowledge(third) == Status::ok);
}

TEST_CASE(
    "queues: a message over its limit is parked while the dead letter queue is full, and moves there after",
    "[tools]") {
  LimitedRig rig;
  auto dead = must(WorkQueue::open(*rig.lane, rig.dead));
  for (std::uint64_t i = 0; i < 2; ++i) REQUIRE(dead.push(work_message(i)) == Status::ok);
  rig.push(7);
  for (int i = 0; i < 2; ++i) REQUIRE(rig.queue.reject(must(rig.queue.take())) == Status::ok);
  CHECK(rig.queue.take().error() == Status::empty);
  CHECK(rig.entry().work.parked == 1);
  CHECK(rig.entry().work.waiting == 1);
  CHECK(rig.entry().counters.dead_lettered == 0);
  CHECK(rig.entry().counters.redelivered == 1);
  REQUIRE(dead.acknowledge(must(dead.take())) == Status::ok);
  CHECK(rig.queue.take().error() == Status::empty);
  CHECK(rig.entry().depth() == 0);
  CHECK(rig.entry().counters.dead_lettered == 1);
  CHECK(rig.entry(rig.dead).depth() == 2);
}

TEST_CASE("queues: a work queue that is full for one lease says which", "[tools]") {
  LimitedRig rig;
  for (std::uint64_t i = 0; i < 2; ++i) rig.push(i);
  const auto kept = must(rig.peer.take());
  for (std::uint64_t i = 2; i < 8; ++i) {
    REQUIRE(rig.queue.acknowledge(must(rig.queue.take())) == Status::ok);
    CHECK_FALSE(rig.entry().is_full());
    CHECK(rig.json()["work"]["held_up_by"].is_null());
    rig.push(i);
  }
  REQUIRE(rig.queue.push(work_message(8)) == Status::full);
  CHECK(rig.entry().depth() == 2);
  CHECK(rig.entry().is_full());
  const auto document = rig.json();
  CHECK(document["full"] == true);
  CHECK(document["work"]["held_up_by"].get<std::string>().starts_with(
      "@0 is leased by lane " + std::to_string(rig.other->id()) + " (pid "));
  CHECK(document["sizing"]["capacity"].is_null());
  REQUIRE(rig.peer.acknowledge(kept) == Status::ok);
  CHECK_FALSE(rig.entry().is_full());
  REQUIRE(rig.queue.push(work_message(8)) == Status::ok);
}

TEST_CASE("queues: a work queue that has gone round tells positions, also beyond the 40 bits of a stamp",
          "[tools]") {
  LimitedRig rig;
  const auto start = GENERATE(std::uint64_t{13}, (std::uint64_t{1} << 40) - 3, (std::uint64_t{5} << 40) + 2);
  auto& row = queue_row(rig.segment(), rig.id.index);
  auto* ring = sound_ring(rig.segment(), row, QueueKind::work)->slots;
  for (std::uint64_t position = start; position < start + 8; ++position)
    ring[position % 8].stamp = work_word::make(WorkState::empty, (position & ~7ULL) & work_word::Base::max);
  row.head = row.tail = start;
  rig.queue = must(WorkQueue::open(*rig.lane, rig.id));
  for (std::uint64_t i = 0; i < 5; ++i) rig.push(i);
  const auto lease = must(rig.queue.take());
  std::vector<std::uint64_t> found;
  CHECK(visit_work_slots(rig.segment(), rig.entry(),
                         [&](const WorkSlot& slot) { found.push_back(slot.position); }) == 0);
  CHECK(found == std::vector{start, start + 1, start + 2, start + 3, start + 4});
  REQUIRE(rig.queue.acknowledge(lease) == Status::ok);
}

TEST_CASE("queues: of a broadcast it is told how far each subscriber is behind", "[tools]") {
  Rig rig;
  const auto reader = rig.another_lane();
  const auto late = rig.another_lane();
  const auto id = must(create_broadcast(*rig.lane, "news", {.capacity = 4, .subscribers_max = 4}));
  auto publisher = must(Publisher::claim(*rig.lane, id));
  auto holding = must(Subscriber::join(*reader, id, {.policy = SubscriberPolicy::block, .start = {}}));
  auto losing = must(Subscriber::join(*late, id, {.policy = SubscriberPolicy::lose_oldest, .start = {}}));
  const auto entry = [&] { return read_queue_table(rig.segment()).at(0); };
  for (std::uint64_t i = 0; i < 3; ++i) must(publisher.push(work_message(i, 10)));
  REQUIRE(entry().subscribers.size() == 2);
  CHECK(entry().slowest()->lag == 3);
  CHECK(entry().counters.messages_in == 3);
  CHECK(entry().counters.bytes_in == 30);
  CHECK_FALSE(entry().is_full());
  must(publisher.push(work_message(3)));
  CHECK(entry().is_full());
  CHECK(publisher.push(work_message(4)) == Status::full);
  CHECK(entry().counters.refused == 1);
  const auto view = QueueView::read(rig.segment());
  CHECK(view.consumer_of(view.queues[0]) == "2 of 4 subscribers, up to 4 behind");
  CHECK(queue_json(view.queues[0], view)["subscribers"][0]["lag"] == 4);
}

TEST_CASE("queues: a parked subscription is told by its name, and when it holds the publisher up",
          "[tools]") {
  Rig rig;
  const auto id = must(create_broadcast(*rig.lane, "news", {.capacity = 4, .subscribers_max = 4}));
  auto publisher = must(Publisher::claim(*rig.lane, id));
  must(ensure_subscription(*rig.lane, id, {SubscriberPolicy::block, {}, "audit"}));
  const auto reader = rig.another_lane();
  auto named = must(Subscriber::join(*reader, id, {SubscriberPolicy::block, {}, "index"}));
  for (std::uint64_t i = 0; i < 3; ++i) must(publisher.push(work_message(i)));
  auto view = QueueView::read(rig.segment());
  CHECK(view.consumer_of(view.queues[0]) == "2 of 4 subscribers, 1 parked, up to 3 behind");
  CHECK(view.holdup_of(view.queues[0]).empty());
  CHECK(view.queues[0].parked_holder().empty());
  auto json = queue_json(view.queues[0], view);
  CHECK(json["held_up_by"].is_null());
  CHECK(json["subscribers"][0]["name"] == "audit");
  CHECK(json["subscribers"][0]["parked"] == true);
  CHECK(json["subscribers"][0]["lane"].is_null());
  CHECK(json["subscribers"][0]["lag"] == 3);
  CHECK(json["subscribers"][0]["policy"] == "block");
  CHECK(json["subscribers"][1]["name"] == "index");
  CHECK(json["subscribers"][1]["parked"] == false);
  CHECK(json["subscribers"][1]["lane"] == reader->id());
  must(publisher.push(work_message(3)));
  view = QueueView::read(rig.segment());
  CHECK(view.queues[0].is_full());
  CHECK(view.queues[0].parked_holder() == "audit");
  CHECK(view.holdup_of(view.queues[0]) == "audit: parked");
  CHECK(queue_json(view.queues[0], view)["held_up_by"] == "audit: parked");
  must(unsubscribe(*rig.lane, id, "audit"));
  view = QueueView::read(rig.segment());
  CHECK(view.queues[0].parked_holder().empty());
  CHECK(view.holdup_of(view.queues[0]).starts_with("index: lane "));
}

TEST_CASE("queues: counters are what was done", "[tools]") {
  Rig rig;
  const auto work = must(create_work_queue(*rig.lane, "work", {.capacity = 4, .policy = QueuePolicy::fail}));
  const auto drop =
      must(create_work_queue(*rig.lane, "drop", {.capacity = 4, .policy = QueuePolicy::drop_oldest}));
  const auto stream = must(create_stream(*rig.lane, "stream", 8));
  auto queue = must(WorkQueue::open(*rig.lane, work));
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(queue.push(work_message(i, 10)) == Status::ok);
  CHECK(queue.push(work_message(9)) == Status::full);
  CHECK(queue.push(work_message(9)) == Status::full);
  REQUIRE(queue.reject(must(queue.take())) == Status::ok);
  for (int i = 0; i < 3; ++i) REQUIRE(queue.acknowledge(must(queue.take())) == Status::ok);
  auto dropping = must(WorkQueue::open(*rig.lane, drop));
  for (std::uint64_t i = 0; i < 7; ++i) REQUIRE(dropping.push(work_message(i)) == Status::ok);
  auto producer = must(StreamProducer::claim(*rig.lane, stream));
  auto consumer = must(StreamConsumer::claim(*rig.lane, stream));
  for (std::uint64_t i = 0; i < 5; ++i) must(producer.push(work_message(i, 20)));
  for (int i = 0; i < 2; ++i) must(consumer.acknowledge());

  const auto queues = read_queue_table(rig.segment());
  REQUIRE(queues.size() == 3);
  const auto& counters = queues[0].counters;
  CHECK(counters.messages_in == 4);
  CHECK(counters.messages_out == 3);
  CHECK(counters.bytes_in == 40);
  CHECK(counters.refused == 2);
  CHECK(counters.redelivered == 1);
  CHECK(queues[0].high_water() == 4);
  CHECK(queues[1].counters.dropped == 3);
  CHECK(queues[1].counters.messages_in == 7);
  CHECK(queues[1].counters.messages_out == 3);
  CHECK(queues[1].depth() == 4);
  CHECK(queues[2].counters.messages_in == 5);
  CHECK(queues[2].counters.messages_out == 2);
  CHECK(queues[2].counters.bytes_in == 100);
  CHECK(queues[2].high_water() >= 3);
  // A consumer tells the bytes once it finds nothing more.
  REQUIRE(queue.acknowledge(must(queue.take())) == Status::ok);
  CHECK(queue.take().error() == Status::empty);
  CHECK(read_queue_table(rig.segment())[0].counters.bytes_out == 40);
}

TEST_CASE("queues: rates are what became of the counters, and never below nothing", "[tools]") {
  auto before = counted(QueueKind::stream, 64, 1000, 8);
  auto after = counted(QueueKind::stream, 64, 1500, 9);
  before.counters.bytes_in = 5000;
  after.counters.bytes_in = 105'000;
  before.counters.push_waits = 4;
  after.counters.push_waits = 3;  // as only a damaged counter does
  auto changes = compare_looks({before}, {after}, 0.5);
  REQUIRE(changes.size() == 1);
  CHECK(changes[0].per_second(&QueueCounters::messages_in) == Approx(1000));
  CHECK(changes[0].per_second(&QueueCounters::bytes_in) == Approx(200'000));
  CHECK(changes[0].grown.push_waits == 0);
  CHECK(changes[0].grown.high_water == 9);
  after.era = 1;  // another queue in the same row
  CHECK(compare_looks({before}, {after}, 1)[0].grown.messages_in == 1500);
  CHECK(compare_looks({}, {after}, 1)[0].grown.messages_in == 1500);
  CHECK(compare_looks({before}, {after}, 0)[0].per_second(&QueueCounters::messages_in) == 0);
}

TEST_CASE("queues: advice for the capacity follows from the high water, and only from enough messages",
          "[tools]") {
  const auto expect = [](const QueueEntry& queue, std::uint64_t capacity, std::string_view words) {
    const auto sizing = sizing_of(queue);
    CAPTURE(sizing.advice, words);
    CHECK(sizing.capacity == capacity);
    CHECK(sizing.advice.find(words) != std::string::npos);
  };
  expect(counted(QueueKind::stream, 1024, 16384, 3), 16, "high water 3 of 1024: capacity could be 16");
  expect(counted(QueueKind::stream, 1024, 16384, 100), 256, "could be 256");
  expect(counted(QueueKind::stream, 1024, 16384, 400), 0, "it fits");
  expect(counted(QueueKind::stream, 1024, 16383, 3), 0, "too few to say");
  expect(counted(QueueKind::stream, 1024, 16384, 0), 0, "nobody counted");
  expect(counted(QueueKind::stream, 16, 5000, 3), 0, "it fits");
  // Between two looks at the depth 63 more may have come.
  expect(counted(QueueKind::work, 1024, 16384, 3), 256, "could be 256");
  auto held = counted(QueueKind::work, 1024, 16384, 3);
  held.work.span = 600;  // somebody keeps an old message
  expect(held, 0, "it fits");
  auto full = counted(QueueKind::work, 64, 5000, 64);
  full.counters.push_waits = 12;
  full.counters.refused = 5;
  expect(full, 128, "was full 17 times (12 waits, 5 refused, 0 dropped): larger, 128 or more");
  expect(counted(QueueKind::stream, 64, 5000, 64), 128, "was full: larger");
  expect(counted(QueueKind::stream, queue_capacity_max, 1U << 22, queue_capacity_max), 0, "no larger");
  expect(counted(QueueKind::stream, 64, 5000, 65), 0, "cannot be");
  CHECK(sizing_of(counted(QueueKind::broadcast, 64, 5000, 0)).advice.empty());
  auto slow = counted(QueueKind::broadcast, 64, 5000, 0);
  slow.counters.dropped = 9;
  expect(slow, 128, "was full 9 times (0 waits, 0 refused, 9 dropped)");
  CHECK(sizing_of(counted(QueueKind::extents, 64, 5000, 3)).advice.empty());
}

TEST_CASE("queues: a work queue's row and stamps that cannot be are told, and nothing is read by them",
          "[tools]") {
  LimitedRig rig;
  const auto handle = rig.push(1);
  for (std::uint64_t i = 2; i < 8; ++i) rig.push(i);
  auto& row = queue_row(rig.segment(), rig.id.index);
  const auto sound = row;
  const auto expect_broken = [&](std::string_view words) {
    const auto queue = rig.entry();
    CAPTURE(words, queue.broken);
    CHECK(queue.broken.find(words) != std::string::npos);
    CHECK(queue.work.in_use() == 0);
    CHECK(read_block_holders(rig.segment(), {.handle = handle.value}, false).references.empty());
    CHECK_FALSE(rig.json().dump().empty());
    row = sound;
  };
  row.capacity = 7;
  expect_broken("capacity 7 is not a power of two");
  row.capacity = 1U << 20;
  expect_broken("do not fit");
  row.first_unit = 0xfffffff0;
  expect_broken("its storage ends at unit");
  row.message_bytes = 8;
  expect_broken("messages of 8 bytes");
  row.kind = 99;
  expect_broken("kind 99 is unknown");

  auto* ring = sound_ring(rig.segment(), row, QueueKind::work)->slots;
  const auto stamp = ring[0].stamp;
  const auto expect_unreadable = [&](std::uint64_t word) {
    ring[0].stamp = word;
    CHECK(rig.entry().work.unreadable == 1);
    CHECK(rig.entry().work.waiting == 6);
    CHECK(read_block_holders(rig.segment(), {.handle = handle.value}, false).references.empty());
    ring[0].stamp = stamp;
  };
  expect_unreadable(~std::uint64_t{0});
  expect_unreadable(work_word::State::set(stamp, 5));
  expect_unreadable(work_word::make(WorkState::full, 3));
  expect_unreadable(work_word::make(WorkState::full, 4096));
  // A lease of a lane that is none, and positions that lead nowhere.
  ring[0].stamp = work_word::make(WorkState::leased, 0, 4095);
  CHECK(rig.entry().work.leases.at(0).lane == 4095);
  CHECK(rig.json()["work"]["leases"][0]["holder"] == "lane 4095 (no such lane)");
  ring[0].stamp = stamp;
  row.tail = 0;
  row.head = ~std::uint64_t{0};
  CHECK(rig.entry().counters.messages_out == 0);
  row = sound;
  row.dead_letter = 1000;
  CHECK(rig.json()["work"]["dead_letter"]["name"] == "queue 999 (no such queue)");
  row = sound;
  CHECK(rig.entry().work.waiting == 7);
}

}  // namespace sluice::test
