// Streams: many messages at once, what is counted in the row, and closing without a loss.
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <csignal>
#include <thread>

namespace sluice::test {

namespace {

constexpr std::uint32_t capacity = 8;

struct BatchRig : Rig {
  explicit BatchRig(QueuePolicy policy = QueuePolicy::block)
      : other(another_lane()),
        id(must(create_stream(*lane, "s", capacity, policy))),
        producer(must(StreamProducer::claim(*lane, id))),
        consumer(must(StreamConsumer::claim(*other, id))) {}

  static std::vector<Message> numbered(std::uint64_t first, std::uint64_t count) {
    std::vector<Message> messages(count);
    for (auto& message : messages) {
      message.kind = MessageKind::user;
      message.position = first++;
      message.length = 10;
    }
    return messages;
  }
  std::vector<Reference> blocks(std::size_t count) {
    std::vector<Reference> references;
    while (references.size() < count) references.push_back(must(heap().allocate(100)));
    return references;
  }
  const QueueRow& row() const { return queue_row(segment(), id.index); }
  void check_sound() {
    lane->heap().flush();
    other->heap().flush();
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::unique_ptr<Lane> other;
  QueueId id;
  StreamProducer producer;
  StreamConsumer consumer;
};

}  // namespace

TEST_CASE("stream batch: many are pushed in order, with and without blocks, round and round", "[ipc]") {
  BatchRig rig;
  std::uint64_t pushed = 0, taken = 0;
  for (std::uint64_t round = 0; round < 30; ++round) {
    const auto count = 1 + round % 5;
    const auto messages = rig.numbered(pushed, count);
    auto references = round % 3 == 0 ? std::vector<Reference>{} : rig.blocks(count);
    if (round % 3 == 2) {
      must(rig.heap().release(references.front()));
      references.front() = {};
    }
    const auto done = rig.producer.push_many(messages, references);
    REQUIRE(done.count == count);
    REQUIRE(done.status == Status::ok);
    pushed += count;
    CHECK(rig.row().tail == pushed);
    for (std::uint64_t ahead = 0; ahead < count; ++ahead) {
      const auto* message = rig.consumer.peek(ahead);
      REQUIRE(message != nullptr);
      CHECK(message->position == taken + ahead);
      CHECK((message->handle != 0) == (!references.empty() && references[ahead]));
    }
    CHECK(rig.consumer.peek(count) == nullptr);
    CHECK(rig.consumer.acknowledge_many(count + 1) == count);
    taken += count;
    CHECK(rig.row().head == taken);
  }
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
  CHECK(rig.row().bytes_in == 10 * pushed);
  CHECK(rig.row().bytes_out == 10 * pushed);
  CHECK(rig.lane->counters().messages_out == pushed);
  CHECK(rig.other->counters().messages_in == pushed);
}

TEST_CASE("stream batch: what finds no room, or cannot move, and all behind it stays with its holder",
          "[ipc]") {
  BatchRig rig;
  const auto references = rig.blocks(10);
  auto done = rig.producer.push_many(rig.numbered(0, 10), references);
  CHECK(done.count == capacity);
  CHECK(done.status == Status::full);
  must(rig.heap().release(references[8]));
  must(rig.heap().release(references[9]));
  CHECK(rig.producer.push_many(rig.numbered(0, 1)).status == Status::full);
  CHECK(rig.consumer.acknowledge_many(100) == capacity);

  auto three = rig.blocks(3);
  three.insert(three.begin() + 1, three[0]);  // one block cannot be moved twice
  done = rig.producer.push_many(rig.numbered(0, 4), three);
  CHECK(done.count == 1);
  CHECK(done.status == Status::stale);
  must(rig.heap().release(three[2]));
  must(rig.heap().begin_io(three[3]));
  done = rig.producer.push_many(rig.numbered(1, 1), std::span(three).last(1));
  CHECK(done.count == 0);
  CHECK(done.status == Status::busy);
  must(rig.heap().end_io(three[3]));
  must(rig.heap().release(three[3]));
  CHECK(rig.producer.push_many(rig.numbered(0, 2), std::span(three).last(1)).status == Status::bad_argument);
  CHECK(rig.producer.push_many({}).status == Status::ok);
  CHECK(rig.producer.tail() == capacity + 1);
  rig.check_sound();
}

TEST_CASE("stream batch: popped together, each reference is one, in a cell of its own", "[ipc]") {
  BatchRig rig;
  auto references = rig.blocks(6);
  must(rig.heap().release(references[3]));
  references[3] = {};
  must(rig.producer.push_many(rig.numbered(0, 6), references).status);
  Reference taken[4];
  CHECK(rig.consumer.pop_many(taken) == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(taken[i].handle == references[i].handle);
  rig.check_sound();
  for (const auto& reference : taken)
    if (reference) must(rig.other->heap().release(reference));
  CHECK(rig.consumer.pop_many(taken) == 2);
  CHECK(rig.consumer.pop_many(taken) == 0);
  for (std::size_t i = 0; i < 2; ++i) must(rig.other->heap().release(taken[i]));
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("stream batch: with few free cells as many are taken as there are", "[ipc]") {
  BatchRig rig;
  rig.consumer = {};
  const auto small = rig.another_lane({.cells = 64});
  auto consumer = must(StreamConsumer::claim(*small, rig.id));
  must(rig.producer.push_many(rig.numbered(0, 5), rig.blocks(5)).status);
  std::vector<std::uint32_t> cells;
  while (small->heap().cells_free() > 2) cells.push_back(must(small->heap().reserve_cell()));
  Reference taken[5];
  CHECK(consumer.pop_many(taken) == 2);
  CHECK(consumer.pop_many(std::span(taken).last(3)) == 0);
  for (const auto cell : cells) small->heap().unreserve_cell(cell);
  CHECK(consumer.pop_many(std::span(taken).last(3)) == 3);
  for (const auto& reference : taken) must(small->heap().release(reference));
  small->heap().flush();
  rig.check_sound();
}

TEST_CASE("stream batch: what was peeked at ahead is redelivered to the next consumer, and no more",
          "[ipc]") {
  BatchRig rig;
  must(rig.producer.push_many(rig.numbered(0, 6)).status);
  REQUIRE(rig.consumer.peek(3) != nullptr);
  CHECK_FALSE(rig.consumer.redelivered(3));
  CHECK(rig.consumer.peek(6) == nullptr);
  CHECK(rig.consumer.peek(capacity) == nullptr);
  CHECK(rig.consumer.acknowledge_many(1) == 1);
  rig.consumer = must([&] {
    rig.consumer = {};
    return StreamConsumer::claim(*rig.other, rig.id);
  }());
  CHECK(rig.consumer.redelivered(0));
  CHECK(rig.consumer.redelivered(2));
  CHECK_FALSE(rig.consumer.redelivered(3));
  CHECK(rig.consumer.acknowledge_many(5) == 5);
  CHECK(rig.row().redelivered == 3);
  CHECK(rig.other->counters().redelivered == 3);
}

TEST_CASE("stream: the deepest that its producer saw it, and what was refused, is in the row", "[ipc]") {
  BatchRig rig(QueuePolicy::fail);
  must(rig.producer.push_many(rig.numbered(0, 5)).status);
  CHECK(rig.consumer.acknowledge_many(2) == 2);
  CHECK(rig.producer.room(8) == 5);
  CHECK(rig.row().high_water == 3);
  CHECK(rig.producer.push_many(rig.numbered(5, 6)).status == Status::full);
  CHECK(rig.producer.push(rig.numbered(0, 1).front()) == Status::full);
  CHECK(rig.row().high_water == capacity);
  CHECK(rig.row().refused == 2);
  BatchRig waits;
  while (waits.producer.push(waits.numbered(0, 1).front()) == Status::ok) {}
  CHECK(waits.row().refused == 0);  // it is the caller who waits
  CHECK(create_stream(*waits.lane, "t", 8, QueuePolicy::drop_oldest).error().status == Status::bad_argument);
}

// ---- Closing -----------------------------------------------------------------------------------------------

TEST_CASE("stream: closed while it is read, everything that was pushed comes before the end",
          "[ipc][threads]") {
  BatchRig rig;
  for (std::uint64_t round = 0; round < 200; ++round) {
    const auto count = round % 20;
    std::thread pushing([&] {
      rig.producer = {};
      rig.producer = must(StreamProducer::claim(*rig.lane, rig.id));
      for (std::uint64_t i = 0; i < count;)
        rig.producer.push(rig.numbered(i, 1).front()) == Status::ok ? void(++i) : std::this_thread::yield();
      rig.producer.close();
    });
    std::uint64_t taken = 0;
    // The end of the round before is still there until the new producer has opened the stream.
    while (taken < count || !rig.consumer.ended()) {
      const auto* message = rig.consumer.peek();
      if (message == nullptr) {
        std::this_thread::yield();
        continue;
      }
      REQUIRE(message->position == taken++);
      must(rig.consumer.acknowledge());
    }
    pushing.join();
    REQUIRE(rig.consumer.ended());
  }
}

TEST_CASE("stream: a consumer that dies after the close leaves the rest, and the end, to its successor",
          "[ipc]") {
  BatchRig rig;
  rig.consumer = {};
  must(rig.producer.push_many(rig.numbered(0, 6), rig.blocks(6)).status);
  rig.producer.close();
  Child child([&](ChildLink& link) {
    auto session = must(Session::open(rig.file.path(), "consumer"));
    const auto lane = must(session.claim_lane());
    auto consumer = must(StreamConsumer::claim(*lane, rig.id));
    if (consumer.acknowledge_many(2) != 2 || consumer.peek() == nullptr || consumer.ended()) ::_exit(1);
    link.ready();
    link.wait_go();
  });
  REQUIRE(child.wait_ready());
  child.kill_and_wait();
  CHECK(StreamConsumer::claim(*rig.other, rig.id).error() == Status::busy);
  (void)rig.session.recover_dead();
  rig.consumer = must(StreamConsumer::claim(*rig.other, rig.id));
  CHECK_FALSE(rig.consumer.ended());
  CHECK(rig.consumer.redelivered(0));
  CHECK_FALSE(rig.consumer.redelivered(1));
  for (std::uint64_t number = 2; number < 6; ++number) {
    REQUIRE(rig.consumer.peek() != nullptr);
    CHECK(rig.consumer.peek()->position == number);
    must(rig.consumer.acknowledge());
  }
  CHECK(rig.consumer.ended());
  rig.check_sound();
}

}  // namespace sluice::test
