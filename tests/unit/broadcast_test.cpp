#include "tests/unit/broadcast_rig.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <chrono>

namespace sluice::test {

namespace {

using enum SubscriberPolicy;
using namespace std::chrono_literals;

}  // namespace

TEST_CASE("broadcast: every subscriber reads every message, in order, many times round the ring", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto first = rig.subscriber(), second = rig.subscriber(lose_oldest), third = rig.subscriber(disconnect);
  std::uint64_t read = 0;
  for (std::uint64_t round = 0; round < 30; ++round) {
    rig.publish(publisher, 1 + round % broadcast_capacity);
    for (; read < publisher.tail(); ++read)
      for (auto* subscriber : {&first, &second, &third}) {
        CHECK(subscriber->position() == read);
        REQUIRE(rig.takes(*subscriber, read));
      }
    for (auto* subscriber : {&first, &second, &third}) {
      CHECK(subscriber->take().error() == Status::empty);
      CHECK(subscriber->lag() == 0);
      CHECK(subscriber->lost() == 0);
    }
    rig.check_sound();
  }
  CHECK(publisher.tail() - publisher.floor() == broadcast_capacity);
  CHECK(rig.subscriber_row(0).received == read);
  CHECK(rig.row().bytes_in == rig.subscriber_row(1).bytes);
}

TEST_CASE("broadcast: a block lives as long as the ring or a subscriber has it", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber();
  const auto cells = rig.heap().cells_free();
  rig.publish(publisher, 2);  // the second has a block
  CHECK(rig.heap().cells_free() == cells);
  CHECK(rig.takes(subscriber, 0));
  const auto kept = subscriber.take().value();
  REQUIRE(is_delivery(rig.other->heap(), kept, 1));
  CHECK(rig.other->heap().own(kept.reference).error() == Status::shared);
  must(publisher.trim(0));
  CHECK(publisher.floor() == 2);
  rig.check_sound();
  CHECK(is_delivery(rig.other->heap(), kept, 1));
  CHECK(take_census(rig.segment()).live.size() == 1);
  must(rig.other->heap().release(kept.reference));
  rig.other->heap().flush();
  rig.heap().flush();
  CHECK(rig.heap().cells_free() == cells);
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("broadcast: who blocks is not passed, and reads in place", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto slow = rig.subscriber(), fast = rig.subscriber();
  rig.publish(publisher, 1);
  CHECK(rig.takes(slow, 0));
  CHECK(rig.takes(fast, 0));
  rig.publish(publisher, broadcast_capacity);
  for (std::uint64_t i = 1; i < publisher.tail(); ++i) REQUIRE(rig.takes(fast, i));
  const auto* message = slow.peek();
  REQUIRE(message != nullptr);
  CHECK(publisher.room() == 0);
  CHECK(publish(*rig.lane, publisher) == Status::full);
  CHECK(publisher.trim(0) == Status::full);
  CHECK(rig.row().refused == 1);
  CHECK(message->position == 1);
  CHECK(has_pattern(slow.bytes(*message), 1));
  rig.check_sound();
  must(slow.advance());
  CHECK(publisher.room() == 1);
  rig.publish(publisher, 1);
  CHECK(publish(*rig.lane, publisher) == Status::full);
  for (std::uint64_t i = 2; i < publisher.tail(); ++i) REQUIRE(rig.takes(slow, i));
  slow.leave();
  fast.leave();
  rig.publish(publisher, 3 * broadcast_capacity);
  rig.check_sound();
}

TEST_CASE("broadcast: who may lose messages learns how many, exactly", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber(lose_oldest);
  CHECK(subscriber.peek() == nullptr);
  rig.publish(publisher, 3);
  CHECK(subscriber.peek() == nullptr);  // never in place
  CHECK(rig.takes(subscriber, 0));
  rig.publish(publisher, broadcast_capacity + 5);  // positions 8 to 15 are left
  CHECK(subscriber.lag() == publisher.tail() - 1);
  CHECK(rig.takes(subscriber, 8));
  CHECK(subscriber.lost() == 7);
  CHECK(rig.subscriber_row(0).lost == 7);
  must(subscriber.advance());  // past 9
  rig.publish(publisher, 100);
  CHECK(rig.takes(subscriber, publisher.floor()));
  CHECK(subscriber.lost() == 7 + publisher.floor() - 10);
  CHECK(rig.subscriber_row(0).received + subscriber.lost() == subscriber.position());
  rig.check_sound();
}

TEST_CASE("broadcast: who lags all round the ring is disconnected, not sooner, and joins again", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber(disconnect), loser = rig.subscriber(lose_oldest);
  rig.publish(publisher, broadcast_capacity);
  CHECK_FALSE(subscriber.disconnected());
  CHECK(rig.takes(subscriber, 0));
  rig.publish(publisher, 1);
  CHECK_FALSE(subscriber.disconnected());
  CHECK(rig.takes(subscriber, 1));
  rig.publish(publisher, 2);
  CHECK(subscriber.ready());
  CHECK(subscriber.disconnected());
  CHECK(subscriber.take().error() == Status::disconnected);
  CHECK(subscriber.advance() == Status::disconnected);
  CHECK_FALSE(loser.disconnected());
  rig.check_sound();
  // The same lane in the same row is somebody else.
  subscriber.leave();
  subscriber = rig.subscriber(disconnect, Start::last(2));
  CHECK(rig.subscriber_row(0).claim != 0);
  CHECK_FALSE(subscriber.disconnected());
  CHECK(rig.takes(subscriber, publisher.tail() - 2));
  rig.publish(publisher, broadcast_capacity - 1);
  CHECK_FALSE(subscriber.disconnected());
  rig.publish(publisher, 1);
  CHECK(subscriber.disconnected());
}

TEST_CASE("broadcast: there are as many subscribers as were asked for", "[ipc]") {
  BroadcastRig rig({2, 3});
  std::vector<Subscriber> subscribers;
  for (int i = 0; i < 3; ++i) subscribers.push_back(rig.subscriber());
  CHECK(Subscriber::join(*rig.lane, rig.queue).error() == Status::exhausted);
  subscribers.erase(subscribers.begin() + 1);
  rig.check_sound();
  auto late = Subscriber::join(*rig.lane, rig.queue);
  REQUIRE(late.has_value());
  CHECK(Subscriber::join(*rig.lane, rig.queue).error() == Status::exhausted);
}

TEST_CASE("broadcast: it ends when it was closed and read, until somebody opens it again", "[ipc]") {
  BroadcastRig rig;
  auto subscriber = rig.subscriber();
  {
    auto publisher = rig.publisher();
    rig.publish(publisher, 2);
    publisher.close();
    CHECK(publisher.push(numbered(2)) == Status::closed);
    const auto block = must(rig.heap().allocate(10));
    CHECK(publisher.push(numbered(2), block) == Status::closed);
    must(rig.heap().release(block));
    CHECK(publisher.tail() == 2);
  }
  CHECK(rig.takes(subscriber, 0));
  CHECK_FALSE(subscriber.ended());
  CHECK(rig.takes(subscriber, 1));
  CHECK(subscriber.ended());
  CHECK(subscriber.take().error() == Status::closed);
  CHECK(subscriber.advance() == Status::closed);
  auto next = rig.publisher();
  CHECK_FALSE(subscriber.ended());
  CHECK(subscriber.take().error() == Status::empty);
  rig.publish(next, 1);
  CHECK(rig.takes(subscriber, 2));
}

TEST_CASE("broadcast: a successor goes on at its predecessor's tail and floor", "[ipc]") {
  BroadcastRig rig;
  auto subscriber = rig.subscriber();
  std::uint64_t read = 0;
  for (int round = 0; round < 9; ++round) {
    auto publisher = must(Publisher::claim(round % 2 == 0 ? *rig.lane : *rig.other, rig.queue));
    CHECK(Publisher::claim(*rig.lane, rig.queue).error() == Status::busy);
    CHECK(publisher.tail() == read);
    CHECK(rig.row().floor_next == publisher.floor());
    for (int i = 0; i < 5; ++i) must(publish(round % 2 == 0 ? *rig.lane : *rig.other, publisher));
    for (int i = 0; i < 5; ++i) REQUIRE(rig.takes(subscriber, read++));
    Publisher moved = std::move(publisher);
    CHECK_FALSE(publisher);  // NOLINT(bugprone-use-after-move): that is the question
    CHECK(moved);
  }
  rig.check_sound();
}

TEST_CASE("broadcast: what cannot be is refused, and nothing changes", "[ipc]") {
  BroadcastRig rig;
  auto& lane = *rig.lane;
  const auto status_of = [&](const BroadcastOptions& options) {
    return create_broadcast(lane, "x", options).error().status;
  };
  CHECK(status_of({0, 4}) == Status::bad_argument);
  CHECK(status_of({queue_capacity_max + 1, 4}) == Status::bad_argument);
  CHECK(status_of({8, 0}) == Status::bad_argument);
  CHECK(status_of({8, subscribers_limit + 1}) == Status::bad_argument);
  CHECK(status_of({queue_capacity_max, 4}) == Status::too_large);
  CHECK(create_broadcast(lane, "b", {8, 4}).error().status == Status::exists);
  CHECK(find_queue(rig.segment(), "x").error().status == Status::not_found);

  const auto stream = must(create_stream(lane, "s", 8));
  CHECK(find_or_create_broadcast(lane, "s", {8, 4}).error().message ==
        "queue s: found a stream, expected a broadcast");
  CHECK(find_or_create_stream(lane, "b", 8).error().status == Status::bad_argument);
  CHECK(must(find_or_create_broadcast(lane, "b", {8, 4})) == rig.queue);
  CHECK(Publisher::claim(lane, stream).error() == Status::bad_argument);
  CHECK(Subscriber::join(lane, stream).error() == Status::bad_argument);
  CHECK(StreamProducer::claim(lane, rig.queue).error() == Status::bad_argument);
  CHECK(StreamConsumer::claim(lane, rig.queue).error() == Status::bad_argument);
  const QueueId other_era{rig.queue.index, rig.queue.era + 1};
  CHECK(Publisher::claim(lane, other_era).error() == Status::stale);
  CHECK(Subscriber::join(lane, other_era).error() == Status::stale);
  CHECK(Subscriber::join(lane, {9999, 0}).error() == Status::bad_argument);
  CHECK(Subscriber::join(lane, rig.queue, {static_cast<SubscriberPolicy>(3), {}}).error() ==
        Status::bad_argument);

  auto publisher = rig.publisher();
  const auto foreign = must(rig.other->heap().allocate(10));
  CHECK(publisher.push(numbered(0), {foreign.handle, foreign.cell + 100}) == Status::stale);
  CHECK(publisher.push(numbered(0), {}) == Status::stale);
  const auto own = must(rig.heap().allocate(4096));
  must(rig.heap().begin_io(own));
  CHECK(publisher.push(numbered(0), own) == Status::busy);
  must(rig.heap().end_io(own));
  CHECK(rig.heap().own(own).has_value());
  const auto holder = rig.subscriber();
  for (std::uint32_t i = 0; i < broadcast_capacity; ++i) must(publisher.push(numbered(i)));
  CHECK(publisher.push(numbered(0), own) == Status::full);
  CHECK(rig.heap().own(own).has_value());  // not findable either
  must(rig.heap().release(own));
  CHECK(publisher.push(numbered(0), own) == Status::stale);
  CHECK(publisher.tail() == broadcast_capacity);
  rig.check_sound();
}

TEST_CASE("broadcast: without a free cell nothing is dropped, taken or lost", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber();
  rig.publish(publisher, broadcast_capacity);
  CHECK(rig.takes(subscriber, 0));
  std::vector<std::uint32_t> cells;
  auto& heap = rig.other->heap();
  while (heap.cells_free() != 0) cells.push_back(must(heap.reserve_cell()));
  CHECK(subscriber.take().error() == Status::no_cell);
  CHECK(subscriber.position() == 1);
  for (const auto cell : cells) heap.unreserve_cell(cell);
  CHECK(rig.takes(subscriber, 1));
  rig.publish(publisher, 1);  // message 1, which is the next to go, has a block
  cells.clear();
  while (rig.heap().cells_free() != 0) cells.push_back(must(rig.heap().reserve_cell()));
  CHECK(publisher.push(numbered(0)) == Status::no_cell);
  CHECK(publisher.floor() == 1);
  for (const auto cell : cells) rig.heap().unreserve_cell(cell);
  rig.check_sound();
}

TEST_CASE("broadcast: a subscriber reads at another address what was published at this one", "[ipc]") {
  BroadcastRig rig;
  auto session = must(Session::open(rig.file.path(), "reader"));
  const auto lane = must(session.claim_lane());
  auto publisher = rig.publisher();
  auto holder = must(Subscriber::join(*lane, rig.queue));
  auto loser = must(Subscriber::join(*lane, rig.queue, {lose_oldest, {}}));
  REQUIRE(session.segment().unit_address(0) != rig.segment().unit_address(0));
  for (std::uint64_t i = 0; i < 20; ++i) {
    rig.publish(publisher, 1);
    REQUIRE(takes(*lane, holder, i));
    REQUIRE(takes(*lane, loser, i));
  }
}

TEST_CASE("broadcast: both sides sleep, and are woken", "[ipc]") {
  must(register_waiter());
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber();
  const std::array none{subscriber.messages()};
  CHECK(wait_any(*rig.other, none, 1ms).error() == Status::timeout);
  CHECK(rig.row().consumers_waiting == 0);
  rig.publish(publisher, broadcast_capacity);
  CHECK(wait_any(*rig.other, none, 1ms).value() == 0);
  const std::array room{publisher.room_source()};
  CHECK(wait_any(*rig.lane, room, 1ms).error() == Status::timeout);
  // Who stands at the announced floor rings, who is ahead does not.
  auto fast = rig.subscriber(block, Start::at(0));
  for (std::uint64_t i = 0; i < 2; ++i) REQUIRE(rig.takes(fast, i));
  auto& waiting = rig.lane->row().doorbell.waiting;
  store(waiting, 1, seq_cst);
  CHECK(rig.takes(fast, 2));
  CHECK(waiting != 0);
  CHECK(rig.takes(subscriber, 0));
  CHECK(waiting == 0);
  CHECK(wait_any(*rig.lane, room, 1ms).value() == 0);
  store(waiting, 1, seq_cst);
  fast.leave();
  CHECK(waiting == 0);
}

TEST_CASE("broadcast: a lane that ends leaves its subscriptions, and lets the publisher on", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto leaver = rig.another_lane();
  {
    // As a dead one's: nobody destroys the objects before the lane is recovered.
    const auto id = leaver->id();
    for (int i = 0; i < 2; ++i) {
      auto& row = rig.subscriber_row(static_cast<std::size_t>(i));
      row.claim = lane_claim::make(id, leaver->incarnation());
      row.cursor = static_cast<std::uint64_t>(i);  // joining; at the first message
      row.joins = 1;
    }
  }
  auto other = rig.subscriber(lose_oldest);
  rig.publish(publisher, broadcast_capacity);
  CHECK(publish(*rig.lane, publisher) == Status::full);
  rig.check_sound();
  store(rig.lane->row().doorbell.waiting, 1, seq_cst);
  leaver.reset();
  CHECK(rig.lane->row().doorbell.waiting == 0);
  CHECK(rig.subscriber_row(0).claim == 0);
  CHECK(rig.subscriber_row(1).claim == 0);
  CHECK(rig.subscriber_row(1).cursor == 0);
  CHECK(rig.subscriber_row(2).claim != 0);
  rig.publish(publisher, 1);
  rig.check_sound();
}

TEST_CASE("broadcast: the audit sees rows that contradict the ring", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber();
  rig.publish(publisher, 4);
  REQUIRE(rig.takes(subscriber, 0));
  must(publisher.trim(3));
  rig.check_sound();
  auto& row = rig.subscriber_row(0);
  const auto is_seen = [&](auto& word, std::uint64_t value) {
    const auto old = word;
    word = static_cast<std::remove_reference_t<decltype(word)>>(value);
    const auto found = audit(rig.segment()).violations.size();
    word = old;
    return found != 0;
  };
  CHECK(is_seen(row.cursor, 6));  // after the tail
  CHECK(is_seen(row.cursor, 1));  // below the floor
  CHECK(is_seen(row.policy, 3));
  CHECK(is_seen(row.claim, lane_claim::make(rig.other->id(), rig.other->incarnation() + 1)));
  CHECK(is_seen(row.claim, lane_claim::make(4000, 1)));
  CHECK(is_seen(rig.row().floor_next, 0));
  CHECK(is_seen(rig.row().floor_next, 5));
  CHECK(is_seen(rig.row().subscribers_max, 1U << 30));
  CHECK_FALSE(is_seen(row.cursor, 0));
  rig.check_sound();
}

TEST_CASE("broadcast: shm-dump shows each subscriber", "[tools]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  const auto slow = rig.subscriber(disconnect);
  auto fast = rig.subscriber(lose_oldest);
  const auto read = [&] {
    const auto table = tools::read_queue_table(rig.segment());
    REQUIRE(table.size() == 1);
    REQUIRE(table[0].broken.empty());
    return table[0];
  };
  rig.publish(publisher, 2);
  CHECK(rig.takes(fast, 0));
  auto ring = read();
  CHECK(tools::queue_kind_name(ring.kind) == "broadcast");
  CHECK(ring.capacity == broadcast_capacity);
  CHECK(ring.depth() == 2);
  CHECK(ring.subscribers_max == 4);
  REQUIRE(ring.subscribers.size() == 2);
  CHECK(ring.subscribers[0].lag == 2);
  CHECK(tools::subscriber_policy_name(ring.subscribers[0].policy) == "disconnect");
  CHECK(ring.subscribers[1].position == 1);
  CHECK(ring.subscribers[1].received == 1);
  rig.publish(publisher, broadcast_capacity);
  CHECK(rig.takes(fast, 2));
  ring = read();
  CHECK(ring.depth() == broadcast_capacity);
  CHECK(ring.subscribers[0].is_disconnected);
  CHECK_FALSE(ring.subscribers[1].is_disconnected);
  CHECK(ring.subscribers[1].lost == 1);
  rig.row().subscribers_max = 1U << 30;
  CHECK_FALSE(tools::read_queue_table(rig.segment())[0].broken.empty());
  rig.row().subscribers_max = 4;
}

}  // namespace sluice::test
