#include "ipc/stream.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

constexpr std::uint32_t capacity = 8;

struct StreamRig : Rig {
  StreamRig() : other(another_lane()), queue(must(create_stream(*lane, "s", capacity))) {}

  StreamProducer producer() { return must(StreamProducer::claim(*lane, queue)); }
  StreamConsumer consumer() { return must(StreamConsumer::claim(*other, queue)); }
  const QueueRow& row() const { return queue_row(segment(), queue.index); }
  void check_sound() const {
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::unique_ptr<Lane> other;
  QueueId queue;
};

Message numbered(std::uint64_t number) {
  Message message{};
  message.kind = MessageKind::user;
  message.flow = 7;
  message.position = number;
  message.length = static_cast<std::uint32_t>(number % 100);
  message.offset = 3;
  message.receive_ns = number * 1000;
  message.flags = 5;
  message.detail = 11;
  return message;
}

bool is_numbered(const Message& message, std::uint64_t number) {
  const auto expected = numbered(number);
  return message.kind == expected.kind && message.flow == expected.flow &&
         message.position == expected.position && message.length == expected.length &&
         message.offset == expected.offset && message.receive_ns == expected.receive_ns &&
         message.flags == expected.flags && message.detail == expected.detail;
}

}  // namespace

TEST_CASE("stream: messages arrive whole and in order, many times round the ring", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  auto consumer = rig.consumer();
  std::uint64_t pushed = 0, popped = 0;
  while (popped < 10 * capacity + 3) {
    const auto batch = 1 + pushed % capacity;
    for (std::uint64_t i = 0; i < batch && producer.push(numbered(pushed)) == Status::ok; ++i) ++pushed;
    for (std::uint64_t i = 0; i < batch && consumer.peek() != nullptr; ++i) {
      REQUIRE(is_numbered(*consumer.peek(), popped));
      REQUIRE_FALSE(consumer.pop().value());
      ++popped;
    }
  }
  CHECK(producer.tail() == pushed);
  CHECK(producer.head() == popped);
  CHECK(pushed_messages(rig.segment(), rig.row()) == pushed);
  CHECK(rig.row().head == popped);
  rig.check_sound();
}

TEST_CASE("stream: a full ring refuses and an empty one has nothing", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  auto consumer = rig.consumer();
  CHECK(consumer.empty());
  CHECK(consumer.peek() == nullptr);
  CHECK(consumer.pop().error() == Status::empty);
  CHECK(consumer.acknowledge() == Status::empty);
  CHECK(producer.capacity() == capacity);
  for (std::uint32_t i = 0; i < capacity; ++i) {
    CHECK(producer.room() == capacity - i);
    CHECK(producer.push(numbered(i)) == Status::ok);
  }
  CHECK(producer.room() == 0);
  CHECK(producer.push(numbered(99)) == Status::full);
  CHECK_FALSE(consumer.empty());
  must(consumer.acknowledge());
  CHECK(producer.room() == 1);
  CHECK(producer.push(numbered(capacity)) == Status::ok);
  CHECK(producer.push(numbered(99)) == Status::full);
  for (std::uint32_t i = 1; i <= capacity; ++i) {
    REQUIRE(is_numbered(*consumer.peek(), i));
    must(consumer.acknowledge());
  }
  CHECK(consumer.empty());
}

TEST_CASE("stream: a reference moves from cell to ring to cell, and is always one", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  auto consumer = rig.consumer();
  const auto cells = rig.heap().cells_free(), cells_other = rig.other->heap().cells_free();
  const auto sent = must(rig.heap().allocate(5000));
  fill_pattern(rig.heap().bytes(sent), 1);
  CHECK(rig.heap().cells_free() == cells - 1);
  must(producer.push(numbered(0), sent));
  CHECK(rig.heap().cells_free() == cells);
  CHECK(rig.heap().release(sent) == Status::stale);  // it is the queue's
  rig.check_sound();
  REQUIRE(consumer.peek() != nullptr);
  CHECK(consumer.peek()->handle == sent.handle.value);
  const auto received = must(consumer.pop());
  CHECK(received.handle == sent.handle);
  CHECK(rig.other->heap().cells_free() == cells_other - 1);
  CHECK(has_pattern(rig.other->heap().bytes(received), 1));
  rig.check_sound();
  must(rig.other->heap().release(received));
  rig.other->heap().flush();  // another lane's slab: its owner is told, then the cell is free
  CHECK(rig.other->heap().cells_free() == cells_other);
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("stream: a refused push leaves the reference with its holder", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  for (std::uint32_t i = 0; i < capacity; ++i) must(producer.push(numbered(i)));
  const auto mine = must(rig.heap().allocate(100));
  CHECK(producer.push(numbered(99), mine) == Status::full);
  CHECK(producer.tail() == capacity);
  rig.check_sound();
  CHECK(rig.heap().release(mine) == Status::ok);
}

TEST_CASE("stream: a push of what the lane does not hold is refused", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  const auto gone = must(rig.heap().allocate(100));
  must(rig.heap().release(gone));
  CHECK(producer.push(numbered(0), gone) == Status::stale);
  CHECK(producer.push(numbered(0), Reference{gone.handle, 0xffffffff}) == Status::stale);
  const auto mine = must(rig.heap().allocate(100));
  CHECK(producer.push(numbered(0), Reference{Handle{mine.handle.value + 1}, mine.cell}) == Status::stale);
  CHECK(producer.tail() == 0);
  rig.check_sound();
}

TEST_CASE("stream: a pop without a free cell leaves the message where it is", "[ipc]") {
  Rig rig;
  const auto other = rig.another_lane({.cells = 64});
  const auto queue = must(create_stream(*rig.lane, "s", 8));
  auto producer = must(StreamProducer::claim(*rig.lane, queue));
  auto consumer = must(StreamConsumer::claim(*other, queue));
  std::vector<Reference> filling;
  while (other->heap().cells_free() > 0) filling.push_back(must(other->heap().allocate(64)));
  must(producer.push(numbered(0), must(rig.heap().allocate(64))));
  REQUIRE(consumer.peek() != nullptr);
  CHECK(consumer.pop().error() == Status::no_cell);
  CHECK(consumer.acknowledge() == Status::no_cell);
  CHECK(audit(rig.segment()).violations.empty());
  must(other->heap().release(filling.back()));
  REQUIRE(consumer.peek() != nullptr);
  CHECK(is_numbered(*consumer.peek(), 0));
  CHECK(consumer.acknowledge() == Status::ok);
}

TEST_CASE("stream: acknowledging gives the block back", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  auto consumer = rig.consumer();
  for (std::uint64_t i = 0; i < 1000; ++i) {
    must(producer.push(numbered(i), must(rig.heap().allocate(40'000))));
    REQUIRE(consumer.peek() != nullptr);
    REQUIRE(consumer.acknowledge() == Status::ok);
    rig.other->heap().flush();
  }
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("stream: what was shown but not acknowledged is marked redelivered for the next consumer",
          "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  for (std::uint64_t i = 0; i < 5; ++i) must(producer.push(numbered(i)));
  {
    auto first = rig.consumer();
    REQUIRE(first.peek() != nullptr);
    CHECK_FALSE(first.redelivered());
    must(first.acknowledge());
    REQUIRE(first.peek() != nullptr);
    REQUIRE(is_numbered(*first.peek(), 1));
  }
  auto second = rig.consumer();
  REQUIRE(second.peek() != nullptr);
  CHECK(is_numbered(*second.peek(), 1));
  CHECK(second.redelivered());
  must(second.acknowledge());
  REQUIRE(second.peek() != nullptr);
  CHECK(is_numbered(*second.peek(), 2));
  CHECK_FALSE(second.redelivered());
  must(second.acknowledge());
  CHECK(rig.row().redelivered == 1);
  CHECK(rig.row().head == 3);
  CHECK(rig.row().delivered == 3);
}

TEST_CASE("stream: each end has one holder at a time", "[ipc]") {
  StreamRig rig;
  {
    const auto producer = rig.producer();
    const auto consumer = rig.consumer();
    CHECK(StreamProducer::claim(*rig.other, rig.queue).error() == Status::busy);
    CHECK(StreamConsumer::claim(*rig.lane, rig.queue).error() == Status::busy);
  }
  const auto producer = must(StreamProducer::claim(*rig.other, rig.queue));
  const auto consumer = must(StreamConsumer::claim(*rig.other, rig.queue));
  CHECK(rig.row().producer == rig.row().consumer);
}

TEST_CASE("stream: a moved end keeps its role, an overwritten one gives its own up", "[ipc]") {
  StreamRig rig;
  auto first = rig.producer();
  StreamProducer second = std::move(first);
  CHECK(second);
  CHECK_FALSE(first);  // NOLINT(bugprone-use-after-move): that is the question
  CHECK(second.push(numbered(0)) == Status::ok);
  CHECK(StreamProducer::claim(*rig.other, rig.queue).error() == Status::busy);
  second = {};
  CHECK(StreamProducer::claim(*rig.other, rig.queue).has_value());
}

TEST_CASE("stream: a successor goes on at the place where its predecessor stopped", "[ipc]") {
  StreamRig rig;
  std::uint64_t pushed = 0, popped = 0;
  for (int round = 0; round < 7; ++round) {
    auto producer = rig.producer();
    auto consumer = rig.consumer();
    CHECK(producer.tail() == pushed);
    for (int i = 0; i < 5; ++i) must(producer.push(numbered(pushed++)));
    for (int i = 0; i < 5; ++i) {
      REQUIRE(consumer.peek() != nullptr);
      REQUIRE(is_numbered(*consumer.peek(), popped++));
      must(consumer.acknowledge());
    }
  }
}

TEST_CASE("stream: a queue of another era is not the one that was meant", "[ipc]") {
  StreamRig rig;
  const QueueId other{rig.queue.index, rig.queue.era + 1};
  CHECK(StreamProducer::claim(*rig.lane, other).error() == Status::stale);
  CHECK(StreamConsumer::claim(*rig.lane, other).error() == Status::stale);
  CHECK_FALSE(StreamConsumer::claim(*rig.lane, {9999, 0}).has_value());
}

TEST_CASE("stream: it has ended when it was closed and everything was taken, until somebody reopens it",
          "[ipc]") {
  StreamRig rig;
  auto consumer = rig.consumer();
  {
    auto producer = rig.producer();
    must(producer.push(numbered(0)));
    CHECK_FALSE(consumer.ended());
    producer.close();
    CHECK_FALSE(consumer.ended());
    must(consumer.acknowledge());
    CHECK(consumer.ended());
  }
  CHECK(consumer.ended());
  const auto producer = rig.producer();
  CHECK_FALSE(consumer.ended());
}

TEST_CASE("stream: a producer that goes without closing does not end it", "[ipc]") {
  StreamRig rig;
  auto consumer = rig.consumer();
  { const auto producer = rig.producer(); }
  CHECK_FALSE(consumer.ended());
}

TEST_CASE("stream: bytes, messages and redeliveries are counted where they happen", "[ipc]") {
  StreamRig rig;
  auto producer = rig.producer();
  auto consumer = rig.consumer();
  std::uint64_t bytes = 0;
  for (std::uint64_t i = 1; i <= 5; ++i) {
    must(producer.push(numbered(i * 10)));
    bytes += i * 10;
  }
  for (int i = 0; i < 3; ++i) {
    REQUIRE(consumer.peek() != nullptr);
    must(consumer.acknowledge());
  }
  CHECK(rig.row().bytes_in == bytes);
  CHECK(rig.lane->counters().messages_out == 5);
  CHECK(rig.lane->counters().bytes_out == bytes);
  CHECK(rig.other->counters().messages_in == 3);
  CHECK(rig.other->counters().bytes_in == 10 + 20 + 30);
}

}  // namespace sluice::test
