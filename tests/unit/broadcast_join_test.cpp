// What publisher and subscribers of a broadcast must see of each other: joining late, joining in the middle of making
// room, reading beside a writer.
#include "tests/support/crash.hpp"
#include "tests/unit/broadcast_rig.hpp"

namespace sluice::test {

namespace {

using enum SubscriberPolicy;

bool points_are_there() {
  if (!has_crash_points) WARN("skipped: this build has no crash points (SLUICE_CRASH_POINTS)");
  return has_crash_points;
}

}  // namespace

TEST_CASE("broadcast: who is late reads what is kept, and learns what is gone", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  const auto expect = [&](Start start, std::uint64_t position, std::uint64_t missed) {
    auto subscriber = rig.subscriber(block, start);
    CHECK(subscriber.position() == position);
    CHECK(subscriber.missed() == missed);
    for (; position < publisher.tail(); ++position) REQUIRE(rig.takes(subscriber, position));
    CHECK(subscriber.take().error() == Status::empty);
  };
  expect(Start::from_now(), 0, 0);
  expect(Start::last(5), 0, 0);
  expect(Start::at(7), 0, 0);
  rig.publish(publisher, 5);
  expect(Start::from_now(), 5, 0);
  expect(Start::last(2), 3, 0);
  expect(Start::last(99), 0, 0);  // there never were more
  expect(Start::at(1), 1, 0);
  expect(Start::at(99), 5, 0);
  rig.publish(publisher, 4);  // one was dropped, and another may be: a quarter of the ring at a time
  CHECK(publisher.floor() == 1);
  CHECK(rig.row().floor_next == 2);
  expect(Start::at(0), 2, 2);
  expect(Start::last(8), 2, 1);
  expect(Start::last(7), 2, 0);
  expect(Start::from_now(), 9, 0);
}

TEST_CASE("broadcast: a refused publisher gives up what it had announced, and history stays", "[ipc]") {
  BroadcastRig rig;
  auto publisher = rig.publisher();
  const auto holder = rig.subscriber();
  rig.publish(publisher, broadcast_capacity);
  CHECK(publish(*rig.lane, publisher) == Status::full);
  CHECK(rig.row().floor_next == 0);
  auto late = rig.subscriber(block, Start::at(0));
  CHECK(late.missed() == 0);
  CHECK(rig.takes(late, 0));
}

TEST_CASE("broadcast: who joins while the publisher makes room begins where that will end, or stops it",
          "[ipc]") {
  if (!points_are_there()) return;
  BroadcastRig rig;
  auto publisher = rig.publisher();
  rig.publish(publisher, broadcast_capacity);
  SECTION("announced before it looks") {
    Subscriber joiner;
    const Meanwhile meanwhile("broadcast.floor.announced",
                              [&] { joiner = rig.subscriber(block, Start::at(0)); });
    rig.publish(publisher, 2);
    REQUIRE(meanwhile.happened());
    CHECK(joiner.missed() == 2);
    CHECK(publish(*rig.lane, publisher) == Status::full);
    for (std::uint64_t i = 2; i < publisher.tail(); ++i) REQUIRE(rig.takes(joiner, i));
  }
  SECTION("it has claimed its row and not looked yet") {
    rig.subscriber(lose_oldest).leave();  // the row was somebody's who had read everything
    const Meanwhile meanwhile("broadcast.join.claimed", [&] {
      CHECK(publish(*rig.lane, publisher) == Status::full);
      CHECK(publisher.trim(0) == Status::full);
    });
    auto joiner = rig.subscriber(lose_oldest, Start::at(0));
    REQUIRE(meanwhile.happened());
    CHECK(joiner.missed() == 0);
    CHECK(rig.takes(joiner, 0));
    rig.publish(publisher, 1);
  }
  SECTION("it has claimed its row after others were looked at") {
    rig.publish(publisher, 1);  // two may be dropped, one was
    const Meanwhile meanwhile("broadcast.join.claimed", [&] {
      rig.publish(publisher, 1);
      CHECK(publish(*rig.lane, publisher) == Status::full);
    });
    auto joiner = rig.subscriber(block, Start::at(0));
    REQUIRE(meanwhile.happened());
    CHECK(joiner.missed() == 2);
    for (std::uint64_t i = 2; i < publisher.tail(); ++i) REQUIRE(rig.takes(joiner, i));
  }
  rig.check_sound();
}

TEST_CASE("broadcast: what is overwritten while it is copied is lost, not read", "[ipc]") {
  if (!points_are_there()) return;
  BroadcastRig rig;
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber(lose_oldest);
  rig.publish(publisher, broadcast_capacity);
  {  // filled, not stamped: the slot has the old stamp and the new bytes
    const Meanwhile meanwhile("stream.push.filled", [&] {
      CHECK(rig.takes(subscriber, 1));
      CHECK(subscriber.lost() == 1);
    });
    rig.publish(publisher, 1);
    REQUIRE(meanwhile.happened());
  }
  {  // dropped between the copy and the look-up
    const Meanwhile meanwhile("block.clone.logged", [&] { must(publisher.trim(1)); });
    CHECK(rig.takes(subscriber, publisher.tail() - 1));
    REQUIRE(meanwhile.happened());
    CHECK(subscriber.lost() == publisher.tail() - 2);
  }
  rig.check_sound();
}

TEST_CASE("broadcast: cursors are looked at once for a quarter of the ring", "[ipc]") {
  if (!points_are_there()) return;
  BroadcastRig rig({64, 32});
  auto publisher = rig.publisher();
  auto subscriber = rig.subscriber();
  CrashPasses passes;
  count_passes(passes);
  for (std::uint64_t i = 0; i < 640; ++i) {
    rig.publish(publisher, 1);
    REQUIRE(rig.takes(subscriber, i));
  }
  CHECK(passes.count[crash_point_index("broadcast.floor.announced")] == (640 - 64) / 16);
  for (int i = 0; i < 64; ++i) rig.publish(publisher, 1);
  const auto before = passes.count[crash_point_index("broadcast.floor.announced")].load();
  for (int i = 0; i < 100; ++i) CHECK(publisher.room() == 0);
  CHECK(passes.count[crash_point_index("broadcast.floor.announced")] <= before + 1);
  pass_unharmed();
}

}  // namespace sluice::test
