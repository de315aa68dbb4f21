// Durable subscriptions in the middle of what others do: a publisher that looks, a lane that makes the same name.
#include "tests/support/crash.hpp"
#include "tests/unit/durable_rig.hpp"

namespace sluice::test {

namespace {

using enum SubscriberPolicy;

bool points_are_there() {
  if (!has_crash_points) WARN("skipped: this build has no crash points (SLUICE_CRASH_POINTS)");
  return has_crash_points;
}

}  // namespace

TEST_CASE("durable: a change of policy that comes while the publisher looks loses nothing unseen", "[ipc]") {
  if (!points_are_there()) return;
  DurableRig rig;
  auto publisher = rig.publisher();
  rig.join(lose_oldest).leave();
  rig.publish(publisher, broadcast_capacity);
  Subscriber joined;
  SECTION("it has announced, and not looked yet") {
    const Meanwhile meanwhile("broadcast.floor.announced", [&] { joined = rig.join(block); });
    (void)publish(*rig.lane, publisher);
    REQUIRE(meanwhile.happened());
    CHECK(joined.position() == 2);  // the floor may be raised so far
  }
  SECTION("it looks while everything is held") {
    const Meanwhile meanwhile("broadcast.renew.held", [&] {
      CHECK(publish(*rig.lane, publisher) == Status::full);
      CHECK(publisher.trim(0) == Status::full);
    });
    joined = rig.join(block);
    REQUIRE(meanwhile.happened());
    CHECK(joined.position() == 0);
  }
  SECTION("it looks between the cursor and the policy") {
    const Meanwhile meanwhile("broadcast.renew.numbered",
                              [&] { CHECK(publish(*rig.lane, publisher) == Status::full); });
    joined = rig.join(block);
    REQUIRE(meanwhile.happened());
  }
  CHECK(joined.lost() == joined.position());
  while (joined.position() < publisher.tail()) {
    const auto* shown = joined.peek();
    REQUIRE(shown != nullptr);
    REQUIRE(shown->position == joined.position());
    (void)publish(*rig.lane, publisher);
    must(joined.advance());
    if (publisher.tail() > 40) break;
  }
  rig.check_sound();
}

TEST_CASE("durable: a disconnection that comes late does not mean who begins anew", "[ipc]") {
  if (!points_are_there()) return;
  DurableRig rig;
  auto publisher = rig.publisher();
  rig.join(disconnect).leave();
  rig.publish(publisher, broadcast_capacity);
  Subscriber joined;
  const Meanwhile meanwhile("broadcast.floor.disconnected", [&] { joined = rig.join(block, Start::at(0)); });
  rig.publish(publisher, 1);
  REQUIRE(meanwhile.happened());
  CHECK_FALSE(joined.disconnected());
  CHECK(joined.missed() == joined.position());
  CHECK(joined.position() >= publisher.floor());
  REQUIRE(joined.peek() != nullptr);
  CHECK(joined.peek()->position == joined.position());
  rig.check_sound();
}

TEST_CASE("durable: of two that make one name at once the lower row wins, unless the other has won before",
          "[ipc]") {
  if (!points_are_there()) return;
  DurableRig rig;
  const auto third = rig.another_lane();
  const auto join_third = [&] { return Subscriber::join(*third, rig.queue, {block, {}, durable_name}); };
  std::expected<Subscriber, Status> first = std::unexpected(Status::empty),
                                    second = std::unexpected(Status::empty);
  SECTION("the second has the higher row") {
    const Meanwhile meanwhile("broadcast.join.named", [&] { second = join_third(); });
    first = rig.try_join();
    CHECK(first.has_value());
    CHECK(second.error() == Status::busy);
  }
  SECTION("the second has the lower row") {
    auto placeholder = rig.subscriber();
    const Meanwhile meanwhile("broadcast.join.named", [&] {
      placeholder.leave();
      second = join_third();
    });
    first = rig.try_join();
    CHECK(first.error() == Status::busy);
    CHECK(second.has_value());
  }
  SECTION("the second has the lower row, and the first has looked already") {
    auto placeholder = rig.subscriber();
    const Meanwhile meanwhile("broadcast.join.looked", [&] {
      placeholder.leave();
      second = join_third();
    });
    first = rig.try_join();
    CHECK(first.error() == Status::busy);
    CHECK(second.has_value());
  }
  SECTION("the first has the lower row, and the second wins before it has said its name") {
    const Meanwhile meanwhile("broadcast.join.claimed", [&] { second = join_third(); });
    first = rig.try_join();
    CHECK(first.error() == Status::busy);
    CHECK(second.has_value());
  }
  rig.check_sound();
  CHECK(rig.try_join().error() == Status::busy);
}

}  // namespace sluice::test
