// The one shape for publishing and consuming, over each kind of queue.
#include "runtime/consumer.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cstring>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct Ends : Rig {
  explicit Ends(std::string_view of_kind) : kind(of_kind), other(another_lane()) {
    if (kind == "stream") must(create_stream(*lane, "q", 4));
    if (kind == "work") must(create_work_queue(*lane, "q", {.capacity = 4}));
    if (kind == "broadcast") must(create_broadcast(*lane, "q", {.capacity = 4}));
  }
  Producer producer() { return must(Producer::open(*lane, "q")); }
  Consumer consumer() { return must(Consumer::open(*other, "q")); }
  void check_sound() {
    lane->heap().flush();
    other->heap().flush();
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::string kind;
  std::unique_ptr<Lane> other;
};

struct Point {
  std::int32_t x, y;
};

}  // namespace

TEST_CASE("a queue of any kind: what is published arrives, in the loop's own words", "[runtime][queue]") {
  Ends ends(GENERATE("stream", "work", "broadcast"));
  CAPTURE(ends.kind);
  auto consumer = ends.consumer();
  auto producer = ends.producer();
  for (int i = 0; i < 3; ++i) {
    auto block = must(producer.allocate(100));
    fill_pattern(block.bytes(), static_cast<std::uint64_t>(i));
    must(producer.publish(std::move(block), {.flow = 7}));
    CHECK_FALSE(block);
  }
  producer.close();
  std::uint64_t count = 0;
  for (auto& message : consumer) {
    CHECK(message.bytes().size() == 100);
    CHECK(has_pattern(message.bytes(), count++));
    CHECK(message.message().flow == 7);
    CHECK(message.message().kind == MessageKind::user);
    CHECK(message.deliveries() == 0);
  }
  CHECK(count == 3);
  CHECK(consumer.ended_with() == Status::closed);
  ends.check_sound();
}

TEST_CASE("a queue of any kind: values go as they are", "[runtime][queue]") {
  Ends ends(GENERATE("stream", "work", "broadcast"));
  CAPTURE(ends.kind);
  auto consumer = ends.consumer();
  auto producer = ends.producer();
  must(producer.publish_value(Point{3, -4}));
  must(producer.publish({.detail = 9}));  // no block
  auto first = must(consumer.receive());
  REQUIRE(first.as<Point>() != nullptr);
  CHECK(first.as<Point>()->y == -4);
  CHECK(first.as<std::uint64_t>() != nullptr);  // as large
  CHECK(first.as<char>() == nullptr);
  must(first.acknowledge());
  CHECK(first.acknowledge() == Status::stale);
  CHECK(first.reject() == Status::stale);
  CHECK(first.keep().error() == Status::stale);
  auto second = must(consumer.receive());
  CHECK(second.message().detail == 9);
  CHECK(second.bytes().empty());
  must(second.acknowledge());
  CHECK(consumer.receive(1ms).error() == Status::timeout);
}

TEST_CASE("a queue of any kind: a loop that is left gives its message back", "[runtime][queue]") {
  Ends ends(GENERATE("stream", "work", "broadcast"));
  CAPTURE(ends.kind);
  auto consumer = ends.consumer();
  auto producer = ends.producer();
  for (std::uint64_t i = 0; i < 3; ++i) must(producer.publish({.position = i}));
  try {
    for (auto& message : consumer)
      if (message.message().position == 1) throw std::runtime_error("in the middle");
  } catch (const std::runtime_error&) {}
  const auto again = must(consumer.receive());
  CHECK(again.message().position == 1);
  if (ends.kind == "work") CHECK(again.deliveries() == 1);
}

TEST_CASE("a queue of any kind: who keeps a message has its block", "[runtime][queue]") {
  Ends ends(GENERATE("stream", "work", "broadcast"));
  CAPTURE(ends.kind);
  auto consumer = ends.consumer();
  auto producer = ends.producer();
  must(producer.publish_value(Point{1, 2}));
  must(producer.publish(Message{}));
  auto kept = must(must(consumer.receive()).keep());
  REQUIRE(kept.size() == sizeof(Point));
  CHECK(kept.as<Point>().x == 1);
  CHECK(ends.other->heap().own(kept.reference()).has_value() == (ends.kind != "broadcast"));
  CHECK_FALSE(must(must(consumer.receive()).keep()));
  CHECK(consumer.receive(0ns).error() == Status::timeout);
  kept.reset();
  CHECK_FALSE(kept);
  ends.check_sound();
}

TEST_CASE("a queue of any kind: who publishes waits for room, and no longer than he says",
          "[runtime][queue]") {
  Ends ends(GENERATE("stream", "work", "broadcast"));
  CAPTURE(ends.kind);
  auto consumer = ends.consumer();
  auto producer = ends.producer();
  std::uint64_t published = 0;
  while (producer.publish({.position = published}, 0ns) == Status::ok) ++published;
  CHECK(published >= 4);
  CHECK(producer.publish({}, 20ms) == Status::full);
  auto block = must(producer.allocate(8));
  CHECK(producer.publish(std::move(block), {}, 1ms) == Status::full);
  CHECK(block);  // still ours
  std::thread reader([&] {
    for (auto& message : consumer)
      if (message.message().position == 100) consumer.stop();
  });
  for (std::uint64_t i = published; i <= 100; ++i) must(producer.publish({.position = i}));
  reader.join();
  CHECK(consumer.ended_with() == Status::interrupted);
}

TEST_CASE("a consumer that waits is stopped from elsewhere", "[runtime][queue]") {
  Ends ends(GENERATE("stream", "work", "broadcast"));
  auto consumer = ends.consumer();
  std::thread stopper([&] {
    std::this_thread::sleep_for(20ms);
    consumer.stop();
  });
  CHECK(consumer.receive(20s).error() == Status::interrupted);
  stopper.join();
  CHECK(consumer.receive().error() == Status::interrupted);
}

TEST_CASE("a message goes on to the next stage with its block", "[runtime][queue]") {
  Ends ends("work");
  must(create_work_queue(*ends.lane, "next", {.capacity = 2}));
  auto consumer = ends.consumer();
  auto producer = ends.producer();
  auto next = must(Producer::open(*ends.other, "next"));
  must(producer.publish_value(Point{1, 2}));
  auto message = must(consumer.receive());
  const Point changed{5, 6};
  std::memcpy(message.writable().data(), &changed, sizeof changed);
  must(message.forward(next, message.message()));
  CHECK(message.forward(next, {}) == Status::stale);
  auto last = must(Consumer::open(*ends.lane, "next"));
  auto arrived = must(last.receive());
  CHECK(arrived.as<Point>()->x == 5);
  CHECK(arrived.forward(next, {}) == Status::bad_argument);  // another lane's, and the same queue
  must(arrived.acknowledge());
  must(producer.publish({.length = 77}));  // no block: the length is the application's own
  auto told = must(consumer.receive());
  must(told.forward(next, told.message()));
  auto blockless = must(last.receive());
  CHECK(blockless.message().length == 77);
  must(blockless.acknowledge());
  must(producer.publish_value(Point{1, 2}));
  auto whole = must(consumer.receive());
  CHECK(whole.forward(next, {.length = 1U << 20}) == Status::bad_argument);
  must(whole.acknowledge());
  ends.check_sound();
}

TEST_CASE("a queue that cannot be used so is refused with a sentence", "[runtime][queue]") {
  Ends ends("stream");
  const auto refusal = [](auto opened) { return opened.error().message; };
  CHECK(Producer::open(*ends.lane, "none").error().status == Status::not_found);
  CHECK(Consumer::open(*ends.lane, "none").error().status == Status::not_found);
  const auto producer = ends.producer();
  const auto consumer = ends.consumer();
  CHECK(refusal(Producer::open(*ends.other, "q")) == "queue q: cannot be published into: another lane does");
  CHECK(refusal(Consumer::open(*ends.lane, "q")) == "queue q: cannot be consumed: another lane consumes it");
}

TEST_CASE("a broadcast's consumer is told what it has lost", "[runtime][queue]") {
  Ends ends("broadcast");
  auto consumer = must(Consumer::open(*ends.other, "q", {.policy = SubscriberPolicy::lose_oldest}));
  auto producer = ends.producer();
  for (std::uint64_t i = 0; i < 100; ++i) {
    auto block = must(producer.allocate(64));
    fill_pattern(block.bytes(), i);
    must(producer.publish(std::move(block), {.position = i}));
  }
  producer.close();
  std::uint64_t seen = 0, last = 0;
  for (auto& message : consumer) {
    CHECK(has_pattern(message.bytes(), message.message().position));
    last = message.message().position;
    ++seen;
  }
  CHECK(last == 99);
  CHECK(seen + consumer.lost() == 100);
  CHECK(seen >= 3);
}

TEST_CASE("consumer of a durable subscription: what was in hand is delivered again, and says so",
          "[runtime][queue]") {
  Ends ends("broadcast");
  const SubscriberOptions options{SubscriberPolicy::block, {}, "audit"};
  auto producer = ends.producer();
  {
    auto consumer = must(Consumer::open(*ends.other, "q", options));
    for (std::uint64_t i = 0; i < 3; ++i) must(producer.publish({.position = i}));
    must(must(consumer.receive()).acknowledge());
    const auto in_hand = must(consumer.receive());
    CHECK(in_hand.message().position == 1);
    const auto refused = Consumer::open(*ends.lane, "q", options);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().status == Status::busy);
    CHECK(refused.error().message ==
          "queue q: cannot be consumed: another lane has the subscription \"audit\"");
  }
  auto consumer = must(Consumer::open(*ends.other, "q", options));
  auto again = must(consumer.receive());
  CHECK(again.message().position == 1);
  CHECK(again.deliveries() == 1);
  must(again.acknowledge());
  CHECK(must(consumer.receive()).deliveries() == 0);
  const auto refused = Consumer::open(
      *ends.lane, "q",
      {SubscriberPolicy::block, {}, std::string_view("0123456789012345678901234567890123456789")});
  REQUIRE_FALSE(refused);
  CHECK(
      refused.error().message ==
      "queue q: cannot be consumed: found a subscription's name of 40 bytes, expected 1 to 31, none of them 0");
}

}  // namespace sluice::test
