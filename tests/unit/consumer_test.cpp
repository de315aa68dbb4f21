// What a message in hand allows over each kind of queue, and several queues served by one thread.
#include "runtime/consumer.hpp"

#include "ipc/audit.hpp"
#include "ipc/event_bridge.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"
#include "tests/unit/waiting_rig.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <thread>

#include <poll.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

// Two queues; `lane` is at both ends of each, or `other` at the outer ones.
struct TwoKinds : Rig {
  TwoKinds(std::string_view first, std::string_view second) : other(another_lane()) {
    create("first", first);
    create("second", second);
  }
  void create(std::string_view name, std::string_view kind) {
    if (kind == "stream") must(create_stream(*lane, name, 4));
    if (kind == "work") must(create_work_queue(*lane, name, {.capacity = 4}));
    if (kind == "broadcast") must(create_broadcast(*lane, name, {.capacity = 4}));
  }
  void check_quiet() const {
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
  }
  /// And nothing is leased.
  void check_sound() {
    lane->heap().flush();
    other->heap().flush();
    check_quiet();
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::unique_ptr<Lane> other;
};

void publish(Producer& producer, std::uint64_t number) {
  auto block = must(producer.allocate(100));
  fill_pattern(block.bytes(), number);
  must(producer.publish(std::move(block), {.position = number}));
}

}  // namespace

TEST_CASE("a message of any kind of queue goes on to a queue of any kind", "[runtime][queue]") {
  const std::string from = GENERATE("stream", "work", "broadcast", "broadcast that loses");
  const std::string to = GENERATE("stream", "work", "broadcast");
  CAPTURE(from, to);
  const bool loses = from == "broadcast that loses";
  TwoKinds rig(loses ? "broadcast" : from, to);
  auto source = must(Producer::open(*rig.other, "first"));
  auto sink = must(Consumer::open(*rig.other, "second"));
  auto consumer = must(Consumer::open(
      *rig.lane, "first", {.policy = loses ? SubscriberPolicy::lose_oldest : SubscriberPolicy::block}));
  auto next = must(Producer::open(*rig.lane, "second"));
  for (std::uint64_t i = 0; i < 3; ++i) publish(source, i);
  must(source.publish({.length = 77, .flow = 9}));  // no block: the length is the application's own
  for (std::uint64_t i = 0; i < 4; ++i) {
    auto message = must(consumer.receive(5s));
    CHECK(message.forward(next, {.length = 1U << 20}) == (i == 3 ? Status::ok : Status::bad_argument));
    if (i == 3) break;
    must(message.forward(next, {.position = i + 10}));
    CHECK(message.forward(next, {}) == Status::stale);
    rig.check_sound();
  }
  for (std::uint64_t i = 0; i < 4; ++i) {
    auto message = must(sink.receive(5s));
    CHECK(message.message().position == (i == 3 ? 0 : i + 10));
    CHECK(message.bytes().size() == (i == 3 ? 0 : 100));
    if (i < 3) CHECK(has_pattern(message.bytes(), i));
    must(message.acknowledge());
  }
  CHECK(consumer.try_receive().error() == Status::empty);
  rig.check_sound();
}

TEST_CASE("a message goes on once there is room, and no later than it is said", "[runtime][queue]") {
  const std::string from = GENERATE("stream", "work", "broadcast");
  const std::string to = GENERATE("stream", "work", "broadcast");
  CAPTURE(from, to);
  TwoKinds rig(from, to);
  auto source = must(Producer::open(*rig.other, "first"));
  auto sink = must(Consumer::open(*rig.other, "second"));
  auto consumer = must(Consumer::open(*rig.lane, "first"));
  auto next = must(Producer::open(*rig.lane, "second"));
  std::uint64_t waiting = 0;
  while (next.publish(Message{}, 0ns) == Status::ok) ++waiting;
  publish(source, 5);
  auto message = must(consumer.receive(5s));
  CHECK(message.forward(next, {}, 5ms) == Status::full);
  CHECK(message.open());
  CHECK(has_pattern(message.bytes(), 5));
  rig.check_quiet();
  std::thread reader([&] {
    for (std::uint64_t i = 0; i <= waiting; ++i) {
      auto arrived = must(sink.receive(10s));
      if (i == waiting) must_hold(has_pattern(arrived.bytes(), 5), "it is the one that went on");
      must(arrived.acknowledge());
    }
  });
  must(message.forward(next, {}, 10s));
  reader.join();
  rig.check_sound();
}

TEST_CASE("a message goes neither back into its own queue nor through another lane's end",
          "[runtime][queue]") {
  const std::string kind = GENERATE("stream", "work", "broadcast");
  CAPTURE(kind);
  TwoKinds rig(kind, "stream");
  auto consumer = must(Consumer::open(*rig.lane, "first"));
  auto same = must(Producer::open(*rig.lane, "first"));
  auto elsewhere = must(Producer::open(*rig.other, "second"));
  publish(same, 1);
  auto message = must(consumer.receive(5s));
  CHECK(message.forward(same, {}) == Status::bad_argument);
  CHECK(message.forward(elsewhere, {}) == Status::bad_argument);
  must(message.acknowledge());
  rig.check_sound();
}

TEST_CASE("the bytes of a message can be changed where nobody else reads them", "[runtime][queue]") {
  const std::string kind = GENERATE("stream", "work", "broadcast");
  CAPTURE(kind);
  TwoKinds rig(kind, "stream");
  auto producer = must(Producer::open(*rig.other, "first"));
  auto consumer = must(Consumer::open(*rig.lane, "first"));
  const bool is_alone = kind != "broadcast";

  publish(producer, 1);
  auto message = must(consumer.receive(5s));
  CHECK(message.writable().size() == (is_alone ? 100 : 0));
  if (is_alone) {
    fill_pattern(message.writable(), 2);
    CHECK(has_pattern(message.bytes(), 2));
    // Who is given it next sees what was changed.
    must(message.reject());
    CHECK(message.writable().empty());
    auto again = must(consumer.receive(5s));
    CHECK(has_pattern(again.bytes(), 2));
    must(again.acknowledge());
  } else {
    must(message.acknowledge());
  }

  must(producer.publish(Message{}));
  auto without_block = must(consumer.receive(5s));
  CHECK(without_block.writable().empty());
  must(without_block.acknowledge());

  auto of_device = must(producer.allocate(100));
  must(producer.publish(std::move(of_device), {.kind = MessageKind::write}));
  auto written = must(consumer.receive(5s));
  CHECK(written.writable().empty());
  must(written.acknowledge());

  auto shared = must(producer.allocate(100));
  const auto second = must(rig.other->heap().clone(shared.reference()));
  must(producer.publish(std::move(shared)));
  auto held = must(consumer.receive(5s));
  CHECK(held.writable().empty());
  must(rig.other->heap().release(second));
  rig.other->heap().flush();
  CHECK(held.writable().size() == (is_alone ? 100 : 0));
  must(held.acknowledge());

  auto findable = must(producer.allocate(100));
  must(rig.other->heap().make_findable(findable.reference()));
  must(producer.publish(std::move(findable)));
  auto found = must(consumer.receive(5s));
  CHECK(found.writable().empty());
  must(found.acknowledge());
  rig.check_sound();
}

TEST_CASE("a consumer that does not wait says what there is", "[runtime][queue]") {
  const std::string kind = GENERATE("stream", "work", "broadcast");
  CAPTURE(kind);
  TwoKinds rig(kind, "stream");
  auto producer = must(Producer::open(*rig.other, "first"));
  auto consumer = must(Consumer::open(*rig.lane, "first"));
  const auto ready = [](Consumer& of) {
    const auto source = of.source();
    return source.ready(source.of);
  };
  CHECK(consumer.try_receive().error() == Status::empty);
  CHECK_FALSE(ready(consumer));
  publish(producer, 1);
  CHECK(ready(consumer));
  auto message = must(consumer.try_receive());
  CHECK(has_pattern(message.bytes(), 1));
  CHECK(consumer.try_receive().error() == (kind == "work" ? Status::empty : Status::busy));
  must(message.acknowledge());
  CHECK_FALSE(ready(consumer));
  producer.close();
  CHECK(ready(consumer));
  CHECK(consumer.try_receive().error() == Status::closed);
  auto stopped = must(Consumer::open(*rig.other, "second"));
  stopped.stop();
  CHECK(ready(stopped));
  CHECK(stopped.try_receive().error() == Status::interrupted);
}

TEST_CASE("one thread serves several consumers, and several producers", "[runtime][queue][threads]") {
  constexpr std::uint64_t messages = 500;
  TwoKinds rig("stream", "work");
  rig.create("third", "broadcast");
  constexpr std::array names{"first", "second", "third"};
  std::vector<Consumer> consumers;
  consumers.reserve(names.size());
  for (const auto* name : names) consumers.push_back(must(Consumer::open(*rig.lane, name)));
  std::thread maker([&] {
    std::vector<Producer> producers;
    for (const auto* name : names) producers.push_back(must(Producer::open(*rig.other, name)));
    std::array<std::uint64_t, names.size()> pushed{};
    for (;;) {
      std::vector<WaitSource> room;
      for (std::size_t i = 0; i < names.size(); ++i) {
        while (pushed[i] < messages && producers[i].publish({.position = pushed[i]}, 0ns) == Status::ok)
          ++pushed[i];
        if (pushed[i] < messages) room.push_back(producers[i].room());
      }
      if (room.empty()) break;
      must_hold(wait_any(*rig.other, room, 10s).has_value(), "there is room before long");
    }
    for (auto& producer : producers) producer.close();
  });
  std::array<std::uint64_t, names.size()> taken{};
  std::array<bool, names.size()> ended{};
  while (std::ranges::count(ended, true) != static_cast<std::ptrdiff_t>(names.size())) {
    std::vector<WaitSource> news;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (ended[i]) continue;
      for (;;) {
        auto message = consumers[i].try_receive();
        if (!message) {
          ended[i] = message.error() == Status::closed;
          break;
        }
        CHECK(message->message().position == taken[i]++);
        must(message->acknowledge());
      }
      if (!ended[i]) news.push_back(consumers[i].source());
    }
    if (!news.empty()) REQUIRE(wait_any(*rig.lane, news, 10s).has_value());
  }
  maker.join();
  for (const auto count : taken) CHECK(count == messages);
}

TEST_CASE("a consumer that is stopped leaves the message that it was woken for to another",
          "[runtime][queue]") {
  const OnlyWakeUps only_wake_ups;
  TwoKinds rig("work", "stream");
  const auto maker = rig.another_lane();
  auto producer = must(Producer::open(*maker, "first"));
  auto stopped = must(Consumer::open(*rig.lane, "first"));
  auto goes_on = must(Consumer::open(*rig.other, "first"));
  Sleeper first(*rig.lane, {stopped.source()}), second(*rig.other, {goes_on.source()});
  std::thread([&] { publish(producer, 1); }).join();  // a thread that woke nobody yet wakes the lowest lane
  REQUIRE(first.result().has_value());
  REQUIRE(second.is_asleep());
  stopped.stop();
  CHECK(stopped.try_receive().error() == Status::interrupted);
  CHECK(second.result().has_value());
  CHECK(has_pattern(must(goes_on.try_receive()).bytes(), 1));
}

// Who looks whether a subscriber has something is a thread of the bridge's, while the subscriber's own reads on.
TEST_CASE("a subscriber is watched by another thread while it reads", "[runtime][queue][threads]") {
  constexpr std::uint64_t messages = 2000;
  const auto policy = GENERATE(SubscriberPolicy::block, SubscriberPolicy::lose_oldest);
  TwoKinds rig("broadcast", "stream");
  auto producer = must(Producer::open(*rig.other, "first"));
  auto consumer = must(Consumer::open(*rig.lane, "first", {.policy = policy}));
  const auto bridge =
      must(EventBridge::start(rig.segment(), rig.session.membership(), std::vector{consumer.source()}));
  std::thread maker([&] {
    for (std::uint64_t i = 0; i < messages; ++i) {
      must(producer.publish({.position = i}));
      if (i % 16 == 0) std::this_thread::sleep_for(20us);
    }
    producer.close();
  });
  std::uint64_t taken = 0;
  for (bool ended = false; !ended;) {
    for (;;) {
      bridge->arm();  // beside each message, so that the bridge looks while this thread goes on
      auto message = consumer.try_receive();
      if (!message) {
        ended = message.error() == Status::closed;
        break;
      }
      must(message->acknowledge());
      ++taken;
    }
    pollfd descriptor{bridge->fd(), POLLIN, 0};
    if (!ended) REQUIRE(::poll(&descriptor, 1, 10000) == 1);
  }
  maker.join();
  CHECK(taken + consumer.lost() == messages);
}

}  // namespace sluice::test
