// The dispatch into a work queue or a broadcast: room, charges, and what a broadcast keeps.
#include "io/dispatch.hpp"

#include "ipc/audit.hpp"
#include "runtime/consumer.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <thread>
#include <vector>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr int no_socket = 1'000'000;

struct Outlets {
  explicit Outlets(bool broadcast, std::uint32_t capacity = 4) : worker(rig.another_lane()) {
    if (broadcast)
      must(create_broadcast(*rig.lane, "q", {.capacity = capacity, .subscribers_max = 4}));
    else
      must(create_work_queue(*rig.lane, "q", {.capacity = capacity}));
    dispatch = must(Dispatch::open(*rig.lane, pool, {"q"}, 64, 2));
  }
  Connection& connect() {
    Connection& connection = *pool.take(no_socket);
    connection.stream = dispatch->assign();
    return connection;
  }
  void send_block(Connection& connection, std::uint64_t position) {
    Message message{};
    message.kind = MessageKind::data;
    message.position = position;
    dispatch->send(connection.stream, message, must(rig.heap().allocate(64)), connection);
  }
  std::uint64_t blocks_live() { return audit(rig.segment()).counts.blocks_live; }

  Rig rig;
  std::unique_ptr<Lane> worker;
  ConnectionPool pool{8};
  std::unique_ptr<Dispatch> dispatch;
};

}  // namespace

TEST_CASE("dispatch: work done out of order is counted off, also behind what takes long", "[io]") {
  Outlets outlets(false, 256);
  auto queue = must(WorkQueue::open(*outlets.worker, must(find_queue(outlets.rig.segment(), "q"))));
  Connection& slow = outlets.connect();
  Connection& fast = outlets.connect();
  outlets.send_block(slow, 0);
  const auto held = must(queue.take());
  for (std::uint64_t i = 0; i < 200; ++i) outlets.send_block(fast, i);
  CHECK(fast.outstanding == 200);
  for (std::uint64_t i = 0; i < 200; ++i) must(queue.acknowledge(must(queue.take())));
  for (int i = 0; i < 5; ++i) outlets.dispatch->collect();
  CHECK(fast.outstanding == 0);
  CHECK(slow.outstanding == 1);
  must(queue.acknowledge(held));
  CHECK(outlets.dispatch->would_move());
  outlets.dispatch->collect();
  CHECK(slow.outstanding == 0);
}

TEST_CASE("dispatch: charges at a work queue are exact while others push and take as well", "[io]") {
  Outlets outlets(false, 16);
  const auto id = must(find_queue(outlets.rig.segment(), "q"));
  const auto other = outlets.rig.another_lane();
  constexpr std::uint64_t blocks = 20'000;
  std::atomic<bool> over{false};
  std::thread worker([&] {
    auto queue = must(WorkQueue::open(*outlets.worker, id));
    while (!over || queue.has_message())
      if (const auto lease = queue.take()) must(queue.acknowledge(*lease));
  });
  std::thread pushing([&] {
    auto queue = must(WorkQueue::open(*other, id));
    while (!over) (void)queue.push(Message{});
  });
  Connection& connection = outlets.connect();
  std::uint64_t outside = 0;
  for (std::uint64_t sent = 0; sent < blocks;) {
    if (outlets.dispatch->pending() < 8) outlets.send_block(connection, sent++);
    outlets.dispatch->flush();
    outlets.dispatch->collect();
    outside += connection.outstanding > 16 + 8 ? 1 : 0;
  }
  while (outlets.dispatch->pending() != 0) outlets.dispatch->flush();
  over = true;
  pushing.join();
  worker.join();
  for (int i = 0; i < 3; ++i) outlets.dispatch->collect();
  CHECK(outside == 0);
  CHECK(connection.outstanding == 0);
  CHECK(outlets.dispatch->health() == Status::ok);
}

TEST_CASE("dispatch: who takes from a full work queue rings a lane that sleeps for room", "[io]") {
  Outlets outlets(false, 2);
  auto queue = must(WorkQueue::open(*outlets.worker, must(find_queue(outlets.rig.segment(), "q"))));
  Connection& connection = outlets.connect();
  for (std::uint64_t i = 0; i < 3; ++i) outlets.send_block(connection, i);
  CHECK(outlets.dispatch->pending() == 1);
  Doorbell& bell = outlets.rig.lane->row().doorbell;
  const auto seen = outlets.dispatch->begin_sleep();
  CHECK_FALSE(outlets.dispatch->would_move());
  CHECK(outlets.dispatch->consumers_ring());
  must(queue.acknowledge(must(queue.take())));
  CHECK(load(bell.sequence, acquire) != seen);
  CHECK(outlets.dispatch->would_move());
  outlets.dispatch->end_sleep();
  CHECK(load(queue.row().producers_waiting, relaxed) == 0);
  CHECK(outlets.dispatch->flush());
  CHECK(outlets.dispatch->pending() == 0);
}

TEST_CASE("dispatch: a broadcast's blocks are charged until all have read them that are waited for", "[io]") {
  Outlets outlets(true, 8);
  const auto id = must(find_queue(outlets.rig.segment(), "q"));
  auto reads = must(Subscriber::join(*outlets.worker, id));
  auto lags = must(Subscriber::join(*outlets.worker, id, {.policy = SubscriberPolicy::lose_oldest}));
  Connection& connection = outlets.connect();
  for (std::uint64_t i = 0; i < 3; ++i) outlets.send_block(connection, i);
  outlets.dispatch->collect();
  CHECK(connection.outstanding == 3);
  must(reads.advance());
  must(reads.advance());
  outlets.dispatch->collect();
  CHECK(connection.outstanding == 1);
  for (std::uint64_t i = 3; i < 40; ++i) {  // nobody waits for the other one
    must(reads.advance());
    outlets.send_block(connection, i);
    outlets.dispatch->collect();
    CHECK(connection.outstanding == 1);
  }
  CHECK(outlets.dispatch->pending() == 0);
  CHECK(must(lags.take()).message.position >= 32);
  CHECK(lags.lost() >= 32);
}

TEST_CASE("dispatch: what a broadcast keeps beyond need is dropped when blocks are short", "[io]") {
  Outlets outlets(true, 64);
  const auto id = must(find_queue(outlets.rig.segment(), "q"));
  auto reads = must(Subscriber::join(*outlets.worker, id));
  Connection& connection = outlets.connect();
  for (std::uint64_t i = 0; i < 40; ++i) outlets.send_block(connection, i);
  CHECK_FALSE(outlets.dispatch->shed());  // all of it is to be read
  CHECK(outlets.blocks_live() == 40);
  for (int i = 0; i < 30; ++i) must(reads.advance());
  CHECK(outlets.dispatch->shed());
  CHECK(outlets.blocks_live() == 25);                                        // of what was read, half
  for (int left = 15; left > 0; left /= 2) CHECK(outlets.dispatch->shed());  // half of it again and again
  CHECK_FALSE(outlets.dispatch->shed());
  CHECK(outlets.blocks_live() == 10);
  CHECK(reads.lag() == 10);
  reads.leave();
  auto lags = must(Subscriber::join(*outlets.worker, id,
                                    {.policy = SubscriberPolicy::lose_oldest, .start = Start::last(10)}));
  CHECK(outlets.dispatch->shed());
  CHECK(outlets.blocks_live() == 5);
  must(lags.take());
  CHECK(lags.lost() == 5);
}

TEST_CASE("dispatch: several queues are streams, or it is one", "[io]") {
  Outlets outlets(false);
  must(create_stream(*outlets.rig.lane, "s", 4));
  ConnectionPool pool{2};
  const auto refused = Dispatch::open(*outlets.rig.lane, pool, {"s", "q"}, 8, 2);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().status == Status::bad_argument);
  CHECK(refused.error().message == "queue q: found no stream among 2 queues, expected streams, or one queue");
}

}  // namespace sluice::test
