// Durable subscriptions: the place in a broadcast stays when its subscriber goes.
#include "tests/unit/durable_rig.hpp"

#include "shm/segment.hpp"
#include "tests/unit/waiting_rig.hpp"

#include <cstddef>
#include <cstring>

namespace sluice::test {

namespace {

using enum SubscriberPolicy;

}  // namespace

TEST_CASE("durable: the next subscriber of the name goes on where the last one stopped", "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.join();
  rig.publish(publisher, 3);
  CHECK(rig.takes(subscriber, 0));
  subscriber.leave();
  CHECK(rig.state(0) == ClaimState::parked);
  rig.check_sound();
  rig.publish(publisher, 2);
  subscriber = rig.join(block, Start::from_now());  // where it begins was said when it was made
  CHECK(subscriber.position() == 1);
  CHECK(subscriber.missed() == 0);
  CHECK_FALSE(subscriber.redelivered());
  for (std::uint64_t i = 1; i < 5; ++i) REQUIRE(rig.takes(subscriber, i));
  CHECK(subscriber.take().error() == Status::empty);
  CHECK(rig.subscriber_row(0).received == 5);
  CHECK(rig.subscriber_row(0).joins == 1);
  rig.check_sound();
}

TEST_CASE("durable: a lane that ends leaves its subscriptions parked, and frees those without a name",
          "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  auto named = rig.join();
  auto nameless = rig.subscriber(block);
  rig.publish(publisher, 2);
  CHECK(rig.takes(named, 0));
  recover_lane(rig.segment(), rig.other->id());
  CHECK(rig.state(0) == ClaimState::parked);
  CHECK(rig.subscriber_row(0).cursor == 2);
  CHECK(rig.subscriber_row(1).claim == 0);
  rig.check_sound();
  const auto reader = rig.another_lane();
  auto next = must(Subscriber::join(*reader, rig.queue, {block, {}, durable_name}));
  CHECK(takes(*reader, next, 1));
  named.unsubscribe();  // not its own any more
  nameless = {};
  CHECK(subscriber_claim::owner(rig.subscriber_row(0).claim) ==
        lane_claim::make(reader->id(), reader->incarnation()));
}

TEST_CASE(
    "durable: a parked subscription that blocks holds the publisher, until somebody reads for it or ends it",
    "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  rig.join().leave();
  rig.publish(publisher, broadcast_capacity);
  CHECK(publisher.room() == 0);
  CHECK(publish(*rig.lane, publisher) == Status::full);
  CHECK(publisher.trim(0) == Status::full);
  SECTION("read") {
    auto subscriber = rig.join();
    CHECK(publish(*rig.lane, publisher) == Status::full);
    for (std::uint64_t i = 0; i < 20; ++i) {
      REQUIRE(rig.takes(subscriber, i));
      rig.publish(publisher, 1);
    }
    CHECK(subscriber.lost() == 0);
    CHECK(subscriber.missed() == 0);
  }
  SECTION("ended from outside") {
    must(unsubscribe(*rig.other, rig.queue, durable_name));
    CHECK(rig.subscriber_row(0).claim == 0);
    rig.publish(publisher, 3 * broadcast_capacity);
    CHECK(unsubscribe(*rig.other, rig.queue, durable_name) == Status::not_found);
  }
  SECTION("ended by its subscriber") {
    rig.join().unsubscribe();
    CHECK(rig.subscriber_row(0).claim == 0);
    rig.publish(publisher, 3 * broadcast_capacity);
    CHECK(rig.join().position() == publisher.tail());
  }
  rig.check_sound();
}

TEST_CASE("durable: a parked subscription that loses is told how many, exactly", "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.join(lose_oldest);
  rig.publish(publisher, 3);
  CHECK(rig.takes(subscriber, 0));
  rig.publish(publisher, broadcast_capacity);
  CHECK(rig.takes(subscriber, publisher.floor()));
  const auto before = subscriber.lost();
  CHECK(before == publisher.floor() - 1);
  subscriber.leave();
  rig.publish(publisher, 20);
  subscriber = rig.join(lose_oldest);
  const auto stopped = subscriber.position();
  CHECK(rig.takes(subscriber, publisher.floor()));
  CHECK(subscriber.lost() == publisher.floor() - stopped);
  CHECK(rig.subscriber_row(0).lost == before + subscriber.lost());
  CHECK(rig.subscriber_row(0).received + rig.subscriber_row(0).lost == subscriber.position());
  rig.check_sound();
}

TEST_CASE("durable: one that was disconnected begins anew, and learns what it has not read", "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.join(disconnect);
  rig.publish(publisher, 3);
  CHECK(rig.takes(subscriber, 0));
  subscriber.leave();
  rig.publish(publisher, broadcast_capacity - 2);  // a ring behind: not disconnected yet
  {
    auto again = rig.join(disconnect);
    CHECK_FALSE(again.disconnected());
    CHECK(again.position() == 1);
  }
  rig.publish(publisher, 5);
  CHECK(rig.subscriber_row(0).disconnected == rig.subscriber_row(0).joins);
  rig.check_sound();
  SECTION("now") {
    subscriber = rig.join(disconnect);
    CHECK(subscriber.position() == publisher.tail());
    CHECK(subscriber.missed() == publisher.tail() - 1);
  }
  SECTION("with what is left") {
    subscriber = rig.join(disconnect, Start::at(0));
    CHECK(subscriber.missed() == subscriber.position() - 1);
    CHECK(subscriber.position() >= publisher.floor());
    for (auto i = subscriber.position(); i < publisher.tail(); ++i) REQUIRE(rig.takes(subscriber, i));
  }
  SECTION("under another policy") {
    subscriber = rig.join(block, Start::last(3));
    CHECK(subscriber.position() == publisher.tail() - 3);
    CHECK(subscriber.missed() == subscriber.position() - 1);
    CHECK(subscriber.peek() != nullptr);
  }
  CHECK(subscriber.lost() == 0);
  CHECK_FALSE(subscriber.disconnected());
  rig.check_sound();
}

TEST_CASE("durable: what was shown in place and not gone past is shown again, and marked", "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.join();
  rig.publish(publisher, 4);
  REQUIRE(subscriber.peek() != nullptr);
  CHECK_FALSE(subscriber.redelivered());
  must(subscriber.advance());
  REQUIRE(subscriber.peek()->position == 1);
  subscriber.leave();
  subscriber = rig.join();
  CHECK(subscriber.redelivered());
  REQUIRE(subscriber.peek()->position == 1);
  CHECK(has_pattern(subscriber.bytes(*subscriber.peek()), 1));
  SECTION("in place") { must(subscriber.advance()); }
  SECTION("taken") {
    const auto taken = subscriber.take().value();
    CHECK(taken.redelivered);
    must(rig.other->heap().release(taken.reference));
  }
  CHECK_FALSE(subscriber.redelivered());
  CHECK(rig.subscriber_row(0).redelivered == 1);
  CHECK(rig.row().redelivered == 1);
  CHECK(rig.takes(subscriber, 2));
  // A new subscription of the row has shown nothing.
  subscriber.unsubscribe();
  subscriber = rig.join(block, Start::at(0));
  CHECK_FALSE(subscriber.redelivered());
  rig.check_sound();
}

TEST_CASE("durable: the policy is that of who joins", "[ipc]") {
  DurableRig rig;
  auto publisher = rig.publisher();
  const auto from = GENERATE(block, lose_oldest, disconnect);
  const auto to = GENERATE(block, lose_oldest, disconnect);
  const bool has_lagged = GENERATE(false, true);
  CAPTURE(from, to, has_lagged);
  auto subscriber = rig.join(from);
  rig.publish(publisher, 2);
  CHECK(rig.takes(subscriber, 0));
  subscriber.leave();
  while (publisher.tail() < (has_lagged ? 25U : 6U) && publish(*rig.lane, publisher) == Status::ok) {}
  subscriber = rig.join(to, Start::at(0));
  CHECK(rig.subscriber_row(0).policy == static_cast<std::uint32_t>(to));
  CHECK_FALSE(subscriber.disconnected());
  rig.check_sound();
  if (const auto* shown = subscriber.peek(); to == block) {
    REQUIRE(shown != nullptr);
    CHECK(shown->position == subscriber.position());
  }
  auto next = subscriber.position();
  while (subscriber.has_message()) {
    const auto taken = subscriber.take().value();
    next = std::max(next, publisher.floor());
    REQUIRE(is_delivery(rig.other->heap(), taken, next++));
    if (taken.reference) must(rig.other->heap().release(taken.reference));
  }
  CHECK(next == publisher.tail());
  const bool kept_all = from == block || !has_lagged;
  CHECK((subscriber.lost() + subscriber.missed() == 0) == kept_all);
  // And it is kept: passed or not, disconnected or not, from now on.
  while (publisher.tail() < next + broadcast_capacity) rig.publish(publisher, 1);
  CHECK((publish(*rig.lane, publisher) == Status::full) == (to == block));
  CHECK(subscriber.disconnected() == (to == disconnect));
  rig.check_sound();
}

TEST_CASE("durable: a name is one lane's at a time, and one row's", "[ipc]") {
  DurableRig rig;
  auto subscriber = rig.join();
  CHECK(rig.try_join().error() == Status::busy);
  CHECK(unsubscribe(*rig.lane, rig.queue, durable_name) == Status::busy);
  CHECK_FALSE(must(ensure_subscription(*rig.lane, rig.queue, {block, {}, durable_name})));
  auto another = rig.join(block, {}, "stage-3");
  subscriber.leave();
  another.leave();
  CHECK(rig.state(0) == ClaimState::parked);
  CHECK(rig.state(1) == ClaimState::parked);
  CHECK(rig.subscriber_row(2).claim == 0);
  CHECK(rig.join(block, {}, "stage-3").id() == rig.queue);
  rig.check_sound();
}

TEST_CASE("durable: a name that cannot be is refused, and holds nothing", "[ipc]") {
  DurableRig rig;
  const std::string longest(subscription_name_max, 'x');
  CHECK(rig.try_join(block, {}, longest + "x").error() == Status::bad_argument);
  CHECK(rig.try_join(block, {}, std::string_view("a\0b", 3)).error() == Status::bad_argument);
  CHECK(unsubscribe(*rig.lane, rig.queue, "") == Status::bad_argument);
  CHECK(ensure_subscription(*rig.lane, rig.queue, {}).error() == Status::bad_argument);
  rig.join(block, {}, longest).leave();
  CHECK(subscription_name(rig.subscriber_row(0)) == longest);
  CHECK(rig.try_join(block, {}, longest.substr(1)).has_value());
  CHECK(unsubscribe(*rig.lane, rig.queue, longest.substr(2)) == Status::not_found);
  must(unsubscribe(*rig.lane, rig.queue, longest));
  // Nobody inherits it.
  const auto nameless = rig.subscriber();
  CHECK(subscription_name(rig.subscriber_row(0)).empty());
  for (int i = 0; i < 2; ++i) must(ensure_subscription(*rig.lane, rig.queue, {block, {}, std::to_string(i)}));
  CHECK(rig.try_join().error() == Status::exhausted);
}

TEST_CASE("durable: subscriptions can be made before there is anything to read, and are made once", "[ipc]") {
  DurableRig rig;
  CHECK(must(ensure_subscription(*rig.lane, rig.queue, {lose_oldest, {}, durable_name})));
  CHECK(rig.state(0) == ClaimState::parked);
  auto publisher = rig.publisher();
  rig.publish(publisher, 3);
  CHECK_FALSE(must(ensure_subscription(*rig.lane, rig.queue, {block, Start::from_now(), durable_name})));
  CHECK(rig.subscriber_row(0).policy == static_cast<std::uint32_t>(lose_oldest));
  CHECK(rig.subscriber_row(0).cursor == 1);
  auto subscriber = rig.join(lose_oldest);
  for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(rig.takes(subscriber, i));
  CHECK(must(ensure_subscription(*rig.lane, rig.queue, {block, Start::last(2), "late"})));
  CHECK(rig.join(block, {}, "late").position() == 1);
  rig.check_sound();
}

TEST_CASE("durable: a place stays across a restart of everything", "[ipc]") {
  TempSegment file;
  {
    auto session = must(Session::open(file.path(), "before"));
    const auto lane = must(session.claim_lane());
    const auto queue = must(create_broadcast(*lane, "b", {broadcast_capacity, 4}));
    auto publisher = must(Publisher::claim(*lane, queue));
    auto subscriber = must(Subscriber::join(*lane, queue, {block, {}, durable_name}));
    for (int i = 0; i < 3; ++i) must(publish(*lane, publisher));
    CHECK(takes(*lane, subscriber, 0));
    REQUIRE(subscriber.peek() != nullptr);
  }
  auto session = must(Session::open(file.path(), "after"));
  const auto lane = must(session.claim_lane());
  auto subscriber =
      must(Subscriber::join(*lane, must(find_queue(session.segment(), "b")), {block, {}, durable_name}));
  CHECK(subscriber.redelivered());
  CHECK(takes(*lane, subscriber, 1));
  CHECK_FALSE(subscriber.redelivered());
  CHECK(takes(*lane, subscriber, 2));
}

TEST_CASE("durable: a publisher that a parked subscription puts to sleep is woken when it ends", "[ipc]") {
  must(register_waiter());
  OnlyWakeUps only_wake_ups;
  DurableRig rig;
  auto publisher = rig.publisher();
  rig.join().leave();
  rig.publish(publisher, broadcast_capacity);
  Sleeper sleeper(*rig.lane, {publisher.room_source()});
  REQUIRE_FALSE(sleeper.is_over());
  must(unsubscribe(*rig.other, rig.queue, durable_name));
  CHECK(sleeper.result().has_value());
}

TEST_CASE("durable: a segment of layout 1.0 has no names", "[ipc]") {
  TempSegment file;
  auto bytes = read_file(file.path());
  SegmentHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  CHECK(header.minor == layout_minor);
  header.minor = 0;
  header.crc32c = header_crc(header);
  std::memcpy(bytes.data(), &header, sizeof header);
  {
    std::FILE* to = std::fopen(file.path().c_str(), "r+b");
    REQUIRE(to != nullptr);
    CHECK(std::fwrite(bytes.data(), 1, sizeof header, to) == sizeof header);
    std::fclose(to);
  }
  const auto session = must(Session::open(file.path(), "old"));
  auto lane = must(const_cast<Session&>(session).claim_lane());
  const auto queue = must(create_broadcast(*lane, "b", {broadcast_capacity, 4}));
  CHECK(Subscriber::join(*lane, queue, {block, {}, durable_name}).error() == Status::incompatible);
  CHECK(Subscriber::join(*lane, queue).has_value());
}

TEST_CASE("durable: the audit finds a parked row that cannot be, and a name that is there twice", "[ipc]") {
  DurableRig rig;
  rig.join().leave();
  rig.join(block, {}, "stage-3").leave();
  rig.check_sound();
  auto& row = rig.subscriber_row(0);
  SECTION("no cursor") {
    row.cursor = 0;
    CHECK(rig.has_violation("subscriber 0 is parked without a cursor"));
  }
  SECTION("no name") {
    row.name[0] = 0;
    CHECK(rig.has_violation("subscriber 0 is parked without a name"));
  }
  SECTION("another subscription") {
    row.claim = subscriber_claim::parked(row.joins + 1);
    CHECK(rig.has_violation("subscriber 0 is parked as"));
  }
  SECTION("a lane that is no more") {
    row.claim = lane_claim::make(rig.other->id(), rig.other->incarnation() + 1);
    CHECK(rig.has_violation("in an incarnation that is over"));
  }
  SECTION("out of range") {
    row.cursor = 5;
    CHECK(rig.has_violation("subscriber 0 is at 4, tail 0"));
  }
  SECTION("passed") {
    rig.row().floor_next = rig.row().head = rig.row().tail = 3;
    CHECK(rig.has_violation("floor 3 has passed it"));
  }
  SECTION("a policy that only an owner leaves") {
    row.policy = static_cast<std::uint32_t>(settling);
    CHECK(rig.has_violation("has policy 3, expected at most 2"));
  }
  SECTION("twice") {
    std::memcpy(rig.subscriber_row(1).name, row.name, sizeof row.name);
    CHECK(rig.has_violation("subscriber 1 has the name \"stage-2\" of subscriber 0"));
  }
}

}  // namespace sluice::test
