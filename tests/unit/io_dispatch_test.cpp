#include "io/dispatch.hpp"

#include "ipc/audit.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {

namespace {

constexpr int no_socket = 1'000'000;

struct Streams {
  explicit Streams(std::vector<std::string> names = {"a"}, std::uint32_t capacity = 4,
                   std::uint32_t pending_high = 2)
      : worker(rig.another_lane()) {
    for (const auto& name : names) {
      const auto queue = must(create_stream(*rig.lane, name, capacity));
      consumers.push_back(must(StreamConsumer::claim(*worker, queue)));
    }
    dispatch = must(Dispatch::open(*rig.lane, pool, names, 64, pending_high));
  }

  Connection& connect() {
    Connection& connection = *pool.take(no_socket);
    connection.stream = dispatch->assign();
    return connection;
  }
  void send_block(Connection& connection, std::uint64_t position) {
    Message message{};
    message.kind = MessageKind::data;
    message.flow = connection.slot;
    message.position = position;
    dispatch->send(connection.stream, message, must(rig.heap().allocate(64)), connection);
  }
  void send_end(Connection& connection) {
    Message message{};
    message.kind = MessageKind::close;
    dispatch->send(connection.stream, message, &connection);
  }
  /// Positions of what is in a stream, taken.
  std::vector<std::uint64_t> take(std::size_t stream, std::size_t most = 1000) {
    std::vector<std::uint64_t> positions;
    for (; most > 0; --most) {
      const Message* message = consumers[stream].peek();
      if (message == nullptr) break;
      positions.push_back(message->position);
      must(consumers[stream].acknowledge());
    }
    return positions;
  }

  Rig rig;
  std::unique_ptr<Lane> worker;
  std::vector<StreamConsumer> consumers;
  ConnectionPool pool{8};
  std::unique_ptr<Dispatch> dispatch;
};

using Positions = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("dispatch: flows go to the stream with the fewest, in turn among equals", "[io]") {
  Streams streams({"a", "b", "c"});
  std::multiset<std::uint32_t> assigned;
  for (int i = 0; i < 6; ++i) assigned.insert(streams.dispatch->assign());
  CHECK(assigned == std::multiset<std::uint32_t>{0, 0, 1, 1, 2, 2});
  streams.dispatch->unassign(1);
  CHECK(streams.dispatch->assign() == 1);
}

TEST_CASE("dispatch: what finds no room waits and keeps the order", "[io]") {
  Streams streams({"a"}, 4);
  Connection& connection = streams.connect();
  for (std::uint64_t i = 0; i < 10; ++i) streams.send_block(connection, i);
  CHECK(streams.dispatch->pending() == 6);
  CHECK(streams.take(0, 1) == Positions{0});
  streams.send_block(connection, 10);  // there is room, but nine are before it
  CHECK(streams.take(0) == Positions{1, 2, 3});
  CHECK(streams.dispatch->flush());
  CHECK(streams.take(0) == Positions{4, 5, 6, 7});
  CHECK(streams.dispatch->flush());
  CHECK(streams.take(0) == Positions{8, 9, 10});
  CHECK(streams.dispatch->pending() == 0);
  CHECK_FALSE(streams.dispatch->flush());
  CHECK(streams.dispatch->health() == Status::ok);
}

TEST_CASE("dispatch: a stream is stalled at the watermark, and not before a quarter of it is free again",
          "[io]") {
  Streams streams({"a", "b"}, 8, 2);
  Connection& connection = streams.connect();
  for (std::uint64_t i = 0; i < 9; ++i) streams.send_block(connection, i);
  CHECK_FALSE(streams.dispatch->stalled(connection.stream));
  streams.send_block(connection, 9);
  CHECK(streams.dispatch->stalled(connection.stream));
  CHECK_FALSE(streams.dispatch->stalled(1 - connection.stream));
  streams.take(connection.stream, 3);
  streams.dispatch->flush();
  CHECK(streams.dispatch->pending() == 0);
  CHECK(streams.dispatch->stalled(connection.stream));  // one slot is free
  streams.take(connection.stream, 1);
  streams.dispatch->flush();
  CHECK_FALSE(streams.dispatch->stalled(connection.stream));
}

TEST_CASE("dispatch: a connection is charged for each block until a worker has taken it", "[io]") {
  Streams streams({"a"}, 4);
  Connection& first = streams.connect();
  Connection& second = streams.connect();
  for (std::uint64_t round = 0; round < 100; ++round) {  // many times round the stream's ring
    streams.send_block(first, round);
    streams.send_block(second, round);
    streams.send_block(first, round);
    CHECK(first.outstanding == 2);
    CHECK(second.outstanding == 1);
    CHECK_FALSE(streams.dispatch->would_move());
    streams.take(0);
    CHECK(streams.dispatch->would_move());
    CHECK(streams.dispatch->collect());
    CHECK(first.outstanding == 0);
    CHECK(second.outstanding == 0);
  }
}

TEST_CASE("dispatch: nothing stays charged when the worker takes more than a round between two looks",
          "[io]") {
  Streams streams({"a"}, 4);
  Connection& connection = streams.connect();
  for (std::uint64_t i = 0; i < 50; ++i) {
    streams.send_block(connection, i);
    streams.take(0);
  }
  streams.dispatch->collect();
  CHECK(connection.outstanding == 0);
}

TEST_CASE("dispatch: charges are exact while the worker takes at the same time", "[io]") {
  Streams streams({"a"}, 4, 16);
  std::array connections{&streams.connect(), &streams.connect(), &streams.connect()};
  constexpr std::uint64_t blocks = 60'000;
  std::thread worker([&] {
    for (std::uint64_t taken = 0; taken < blocks;) {
      if (streams.consumers[0].peek() == nullptr) continue;
      must(streams.consumers[0].acknowledge());
      ++taken;
    }
  });
  std::uint64_t outside = 0;
  for (std::uint64_t sent = 0; sent < blocks;) {
    if (streams.dispatch->pending() < 8) {
      streams.send_block(*connections[sent % 3], sent);
      ++sent;
    }
    streams.dispatch->flush();
    for (const Connection* connection : connections) outside += connection->outstanding > 16 ? 1 : 0;
  }
  while (streams.dispatch->pending() != 0) streams.dispatch->flush();
  worker.join();
  streams.dispatch->collect();
  CHECK(outside == 0);
  for (const Connection* connection : connections) CHECK(connection->outstanding == 0);
}

TEST_CASE("dispatch: blocks of a connection that is gone are not charged to its slot's next holder", "[io]") {
  Streams streams({"a"}, 8);
  Connection& connection = streams.connect();
  streams.send_block(connection, 0);
  streams.pool.free(connection);
  Connection& heir = streams.connect();
  REQUIRE(heir.slot == connection.slot);
  streams.take(0);
  streams.dispatch->collect();
  CHECK(heir.outstanding == 0);
}

TEST_CASE("dispatch: a slot is free once its last message is in the stream", "[io]") {
  Streams streams({"a"}, 2);
  Connection& connection = streams.connect();
  for (std::uint64_t i = 0; i < 3; ++i) streams.send_block(connection, i);
  streams.send_end(connection);
  CHECK(streams.pool.taken() == 1);
  streams.take(0);
  streams.dispatch->flush();
  CHECK(streams.pool.taken() == 0);
}

TEST_CASE("dispatch: a sleeping worker is woken once for all that a turn sends", "[io]") {
  Streams streams({"a"}, 16);
  Connection& connection = streams.connect();
  Doorbell& bell = streams.worker->row().doorbell;
  const auto before = load(bell.sequence, acquire);
  store(bell.waiting, 1, release);
  for (std::uint64_t i = 0; i < 3; ++i) streams.send_block(connection, i);
  CHECK(load(bell.sequence, acquire) == before);
  streams.dispatch->wake();
  CHECK(load(bell.sequence, acquire) == before + 1);
  CHECK(load(bell.waiting, acquire) == 0);
  streams.send_block(connection, 3);
  streams.dispatch->wake();
  CHECK(load(bell.sequence, acquire) == before + 1);  // it did not sleep
}

TEST_CASE("dispatch: a head outside what was pushed is damage, not a count", "[io]") {
  Streams streams({"a"}, 8);
  Connection& connection = streams.connect();
  streams.send_block(connection, 0);
  auto& row = queue_row(streams.rig.segment(), streams.consumers[0].id().index);
  const auto head = GENERATE(std::uint64_t{2}, std::uint64_t{1} << 40, ~std::uint64_t{0});
  store(row.head, head, release);
  CHECK_FALSE(streams.dispatch->collect());
  CHECK(streams.dispatch->health() == Status::corrupt);
  CHECK(connection.outstanding == 1);
}

TEST_CASE("dispatch: a stream that is missing or has a producer is named", "[io]") {
  Streams streams({"a"});
  const auto missing = Dispatch::open(*streams.rig.lane, streams.pool, {"nothing"}, 8, 2);
  REQUIRE_FALSE(missing);
  CHECK(missing.error().status == Status::not_found);
  CHECK(missing.error().message.find("nothing") != std::string::npos);
  const auto other = streams.rig.another_lane();
  const auto busy = Dispatch::open(*other, streams.pool, {"a"}, 8, 2);
  REQUIRE_FALSE(busy);
  CHECK(busy.error().status == Status::busy);
  CHECK(busy.error().message == "queue a: another producer has it");
}

}  // namespace sluice::test
