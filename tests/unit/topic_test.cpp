#include "ipc/topic.hpp"

#include "tests/unit/broadcast_rig.hpp"

#include <set>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr BroadcastOptions small{8, 4};

struct TopicRig : Rig {
  Publisher open(std::string_view topic = "t") { return must(TopicPublisher::open(*lane, topic, small)); }
  TopicSubscriber subscribe(const SubscriberOptions& options = {}) {
    return must(TopicSubscriber::open(*other, "t", options));
  }
  std::string name_of(const Publisher& publisher) const {
    return std::string(queue_name(queue_row(segment(), publisher.id().index)));
  }
  // The publisher's number says whose the message is.
  void publish(Publisher& publisher, std::uint64_t flow) {
    Message message{};
    message.kind = MessageKind::user;
    message.flow = flow;
    message.position = publisher.tail();
    must(publisher.push(message));
  }

  std::unique_ptr<Lane> other = another_lane();
};

}  // namespace

TEST_CASE("topic: each publisher has a ring of its own, and takes over a free one", "[ipc]") {
  TopicRig rig;
  auto first = rig.open(), second = rig.open(), third = rig.open();
  CHECK(rig.name_of(first) == "t");
  CHECK(rig.name_of(second) == "t#2");
  CHECK(rig.name_of(third) == "t#3");
  second = {};
  const auto again = rig.open();
  CHECK(rig.name_of(again) == "t#2");
  CHECK(rig.name_of(rig.open("t2")) == "t2");
}

TEST_CASE("topic: a subscriber reads all rings in turn, and those that appear later from their beginning",
          "[ipc]") {
  TopicRig rig;
  auto subscriber = rig.subscribe();
  CHECK(subscriber.take().error() == Status::empty);
  auto first = rig.open();
  for (int i = 0; i < 3; ++i) rig.publish(first, 1);
  CHECK(must(subscriber.refresh()) == 1);
  CHECK(must(subscriber.refresh()) == 0);
  CHECK(subscriber.take().value().message.position == 0);
  auto second = rig.open(), stranger = rig.open("tt");
  for (int i = 0; i < 3; ++i) rig.publish(second, 2);
  rig.publish(stranger, 3);
  CHECK(must(subscriber.refresh()) == 1);
  std::uint64_t next[3] = {0, 1, 0};
  std::vector<std::uint64_t> flows;
  while (subscriber.ready()) {
    const auto delivery = subscriber.take().value();
    CHECK(delivery.message.position == next[delivery.message.flow]++);
    flows.push_back(delivery.message.flow);
  }
  CHECK(flows == std::vector<std::uint64_t>{2, 1, 2, 1, 2});
  CHECK(subscriber.take().error() == Status::empty);
}

TEST_CASE("topic: who comes late asks for history of what is there", "[ipc]") {
  TopicRig rig;
  auto first = rig.open(), second = rig.open();
  for (int i = 0; i < 4; ++i) rig.publish(first, 1);
  rig.publish(second, 2);
  auto now = rig.subscribe();
  CHECK(now.take().error() == Status::empty);
  auto late = rig.subscribe({SubscriberPolicy::block, Start::last(2)});
  CHECK(late.rings().size() == 2);
  CHECK(late.rings()[0].lag() + late.rings()[1].lag() == 3);
  auto third = rig.open();
  rig.publish(third, 3);
  CHECK(must(now.refresh()) == 1);
  CHECK(now.take().value().message.flow == 3);
}

TEST_CASE("topic: it is closed when all of its rings are; one that is closed is no reason to wake", "[ipc]") {
  must(register_waiter());
  TopicRig rig;
  auto first = rig.open(), second = rig.open();
  auto subscriber = rig.subscribe();
  rig.publish(first, 1);
  first.close();
  CHECK(subscriber.ready());
  CHECK(subscriber.take().value().message.flow == 1);
  CHECK_FALSE(subscriber.ready());
  CHECK(subscriber.take().error() == Status::empty);
  CHECK(subscriber.wait(5ms).error().status == Status::timeout);
  second.close();
  must(subscriber.wait(1s));
  CHECK(subscriber.take().error() == Status::closed);
}

TEST_CASE("topic: a ring that fails is named, and the others are read on", "[ipc]") {
  TopicRig rig;
  auto first = rig.open(), second = rig.open();
  auto subscriber = rig.subscribe({SubscriberPolicy::disconnect, {}});
  for (int i = 0; i < 9; ++i) rig.publish(first, 1);
  rig.publish(second, 2);
  std::set<Status> statuses;
  std::uint64_t read = 0;
  for (int i = 0; i < 4; ++i) {
    const auto delivery = subscriber.take();
    if (delivery)
      ++read;
    else {
      statuses.insert(delivery.error());
      CHECK(subscriber.last().id() == first.id());
    }
  }
  CHECK(read == 1);
  CHECK(statuses == std::set{Status::disconnected});
  subscriber.last() = {};
  subscriber.last() =
      must(Subscriber::join(*rig.other, first.id(), {SubscriberPolicy::disconnect, Start::last(1)}));
  CHECK(subscriber.take().value().message.position == 8);
}

TEST_CASE("topic: a limit, a name and a kind that are in the way are said", "[ipc]") {
  TopicRig rig;
  must(create_stream(*rig.lane, "s", 8));
  CHECK(TopicPublisher::open(*rig.lane, "s", small).error().status == Status::bad_argument);
  CHECK(TopicPublisher::open(*rig.lane, "", small).error().status == Status::bad_argument);
  auto publisher = must(TopicPublisher::open(*rig.lane, "t", {8, 1}));
  const auto only = rig.subscribe();
  CHECK(TopicSubscriber::open(*rig.other, "t").error().status == Status::exhausted);
}

TEST_CASE("topic: a sleeper is woken by any publisher, and finds a new one", "[ipc]") {
  must(register_waiter());
  TopicRig rig;
  auto first = rig.open();
  auto subscriber = rig.subscribe();
  std::atomic<bool> has_read = false;
  std::jthread publishes([&] {
    const auto lane = rig.another_lane();
    std::this_thread::sleep_for(20ms);
    auto second = must(TopicPublisher::open(*lane, "t", small));
    rig.publish(second, 2);
    while (!has_read) std::this_thread::sleep_for(1ms);
    rig.publish(second, 2);
  });
  must(subscriber.wait(20s));
  CHECK(subscriber.take().value().message.flow == 2);
  has_read = true;
  must(subscriber.wait(20s));
  CHECK(subscriber.take().value().message.position == 1);
}

TEST_CASE("topic: a durable subscription goes on in each ring, and begins new rings at their beginning",
          "[ipc]") {
  TopicRig rig;
  auto first = rig.open();
  rig.publish(first, 1);
  {
    std::string name = "audit";
    auto subscriber = rig.subscribe({SubscriberPolicy::block, {}, name});
    name = "gone";  // the subscriber has its own
    rig.publish(first, 1);
    rig.publish(first, 1);
    CHECK(subscriber.take().value().message.position == 1);
    CHECK(must(subscriber.refresh()) == 0);
  }
  auto second = rig.open();
  rig.publish(second, 2);
  auto subscriber = rig.subscribe({SubscriberPolicy::block, {}, "audit"});
  std::multiset<std::pair<std::uint64_t, std::uint64_t>> taken;
  while (subscriber.ready()) {
    const auto message = subscriber.take().value().message;
    taken.emplace(message.flow, message.position);
  }
  CHECK(taken == std::multiset<std::pair<std::uint64_t, std::uint64_t>>{{1, 2}, {2, 0}});
  const auto refused = TopicSubscriber::open(*rig.lane, "t", {SubscriberPolicy::block, {}, "audit"});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().status == Status::busy);
  CHECK(refused.error().message.find("\"audit\"") != std::string::npos);
}

}  // namespace sluice::test
