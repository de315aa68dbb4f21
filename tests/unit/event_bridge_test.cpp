#include "ipc/event_bridge.hpp"

#include "tests/support/child.hpp"
#include "tests/unit/waiting_rig.hpp"

#include <catch2/catch.hpp>

#include <ctime>

#include <liburing.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct BridgeRig : Rig {
  BridgeRig()
      : maker(another_lane()),
        work_id(must(create_work_queue(*lane, "work", {.capacity = 8}))),
        stream_id(must(create_stream(*lane, "stream", 8))),
        queue(must(WorkQueue::open(*lane, work_id))),
        consumer(must(StreamConsumer::claim(*lane, stream_id))),
        to_work(must(WorkQueue::open(*maker, work_id))),
        producer(must(StreamProducer::claim(*maker, stream_id))),
        bridge(start({queue.messages(), consumer.messages()})) {}

  std::unique_ptr<EventBridge> start(std::vector<WaitSource> sources) {
    return must(EventBridge::start(segment(), session.membership(), sources));
  }
  bool fired(int timeout_ms = 0) const {
    pollfd descriptor{bridge->fd(), POLLIN, 0};
    return ::poll(&descriptor, 1, timeout_ms) == 1;
  }
  bool watches() const { return load(queue_row(segment(), work_id.index).consumers_waiting, relaxed) != 0; }
  std::uint64_t drain() {
    std::uint64_t taken = consumer.acknowledge_many(1000);
    while (const auto lease = queue.take()) {
      must(queue.acknowledge(*lease));
      ++taken;
    }
    return taken;
  }

  OnlyWakeUps only_wake_ups;
  std::unique_ptr<Lane> maker;
  QueueId work_id, stream_id;
  WorkQueue queue;
  StreamConsumer consumer;
  WorkQueue to_work;
  StreamProducer producer;
  std::unique_ptr<EventBridge> bridge;
};

constexpr int long_ms = 8000;

// What a user's loop does, with the descriptor waited for in some way: nothing that was pushed stays there.
template <class WaitForEvent>
void serve(BridgeRig& rig, WaitForEvent&& wait_for_event) {
  constexpr std::uint64_t pushed = 3000;
  std::thread maker([&] {
    for (std::uint64_t i = 0; i < pushed;) {
      const auto status = i % 2 == 0 ? rig.to_work.push(plain_message()) : rig.producer.push(plain_message());
      if (status == Status::ok)
        ++i;
      else
        std::this_thread::yield();
      if (i % 16 == 0) std::this_thread::sleep_for(20us);
    }
  });
  std::uint64_t taken = 0;
  bool woken = true;
  while (taken < pushed && woken) {
    taken += rig.drain();
    rig.bridge->arm();
    if (taken < pushed) woken = wait_for_event();
  }
  CHECK(woken);
  // Whatever happened, let the maker end.
  while (taken < pushed) taken += rig.drain();
  maker.join();
}

}  // namespace

TEST_CASE("event bridge: it fires once for each time it is armed", "[ipc][waiting]") {
  BridgeRig rig;
  must(rig.producer.push(plain_message()));
  CHECK_FALSE(rig.fired(20));  // not armed yet
  rig.bridge->arm();           // what is ready already fires at once
  CHECK(rig.fired());
  CHECK(rig.fired());  // until it is armed again
  CHECK(rig.drain() == 1);
  rig.bridge->arm();
  CHECK_FALSE(rig.fired());
  rig.bridge->arm();  // changes nothing
  while (!rig.watches()) std::this_thread::yield();
  CHECK_FALSE(rig.fired());
  must(rig.to_work.push(plain_message()));
  CHECK(rig.fired(long_ms));
  while (rig.watches()) std::this_thread::yield();  // it sleeps for nothing now
  CHECK(rig.drain() == 1);
  must(rig.to_work.push(plain_message()));
  rig.bridge->arm();
  CHECK(rig.fired());
}

TEST_CASE("event bridge: the end of a queue is an event, and so is room", "[ipc][waiting]") {
  BridgeRig rig;
  rig.bridge->arm();
  rig.producer.close();
  CHECK(rig.fired(long_ms));
  for (int i = 0; i < 8; ++i) must(rig.producer.push(plain_message()));
  rig.bridge = rig.start({rig.producer.room_source()});
  rig.bridge->arm();
  CHECK_FALSE(rig.fired(20));
  must(rig.consumer.acknowledge());
  CHECK(rig.fired(long_ms));
}

TEST_CASE("event bridge: with epoll nothing stays behind", "[ipc][waiting][threads]") {
  BridgeRig rig;
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  REQUIRE(epoll >= 0);
  epoll_event event{.events = EPOLLIN, .data = {}};
  REQUIRE(::epoll_ctl(epoll, EPOLL_CTL_ADD, rig.bridge->fd(), &event) == 0);
  serve(rig, [&] {
    epoll_event found{};
    return ::epoll_wait(epoll, &found, 1, long_ms) == 1;
  });
  ::close(epoll);
}

TEST_CASE("event bridge: with io_uring nothing stays behind", "[ipc][waiting][threads]") {
  BridgeRig rig;
  io_uring ring{};
  if (::io_uring_queue_init(4, &ring, 0) != 0) {
    WARN("skipped: this kernel gives no io_uring");
    return;
  }
  serve(rig, [&] {
    auto* entry = ::io_uring_get_sqe(&ring);
    ::io_uring_prep_poll_add(entry, rig.bridge->fd(), POLLIN);
    ::io_uring_submit(&ring);
    __kernel_timespec limit{.tv_sec = long_ms / 1000, .tv_nsec = 0};
    io_uring_cqe* completion = nullptr;
    if (::io_uring_wait_cqe_timeout(&ring, &completion, &limit) != 0) return false;
    const bool is_event = (completion->res & POLLIN) != 0;
    ::io_uring_cqe_seen(&ring, completion);
    return is_event;
  });
  ::io_uring_queue_exit(&ring);
}

TEST_CASE("event bridge: it ends at once, armed or not, and gives its lane back", "[ipc][waiting]") {
  BridgeRig rig;
  for (const bool armed : {false, true, false, true}) {
    const auto lane = rig.bridge->lane();
    if (armed) {
      rig.bridge->arm();
      while (!rig.watches()) std::this_thread::yield();
    }
    rig.bridge.reset();
    CHECK_FALSE(rig.watches());
    CHECK(lane_word::Active::get(rig.segment().lane_row(lane).word) == 0);
    rig.bridge = rig.start({rig.queue.messages()});
    CHECK(rig.bridge->lane() == lane);
  }
}

TEST_CASE("event bridge: what it cannot wait for is refused", "[ipc][waiting]") {
  BridgeRig rig;
  const auto refusal = [&](std::vector<WaitSource> sources) {
    return EventBridge::start(rig.segment(), rig.session.membership(), sources).error();
  };
  CHECK(refusal({}).status == Status::bad_argument);
  CHECK(refusal({interrupts(*rig.lane)}).status == Status::bad_argument);
}

TEST_CASE("event bridge: a child made by fork can let go of its copy", "[ipc][waiting]") {
  BridgeRig rig;
  rig.bridge->arm();
  const auto ended = run_child([&] { rig.bridge.reset(); });
  CHECK(ended.code == 0);
  must(rig.producer.push(plain_message()));
  CHECK(rig.fired(long_ms));
}

}  // namespace sluice::test
