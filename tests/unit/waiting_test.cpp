#include "tests/unit/waiting_rig.hpp"

#include "tests/support/child.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct WaitRig : Rig {
  explicit WaitRig(const SegmentOptions& options = small_options())
      : Rig(options),
        waker(another_lane()),
        first_id(must(create_work_queue(*lane, "first", {.capacity = 4}))),
        second_id(must(create_work_queue(*lane, "second", {.capacity = 4}))),
        stream_id(must(create_stream(*lane, "stream", 4))),
        first(open(*lane, first_id)),
        second(open(*lane, second_id)),
        consumer(must(StreamConsumer::claim(*lane, stream_id))),
        to_first(open(*waker, first_id)),
        to_second(open(*waker, second_id)),
        producer(must(StreamProducer::claim(*waker, stream_id))) {}

  static WorkQueue open(Lane& of, QueueId id) { return must(WorkQueue::open(of, id)); }
  std::vector<WaitSource> all() { return {first.messages(), second.messages(), consumer.messages()}; }
  QueueRow& row(QueueId id) const { return queue_row(segment(), id.index); }
  bool has_marks() const {
    for (const auto id : {first_id, second_id, stream_id})
      if ((load(row(id).consumers_waiting, relaxed) | load(row(id).producers_waiting, relaxed)) != 0)
        return true;
    return false;
  }

  OnlyWakeUps only_wake_ups;
  std::unique_ptr<Lane> waker;
  QueueId first_id, second_id, stream_id;
  WorkQueue first, second;  // of `lane`
  StreamConsumer consumer;
  WorkQueue to_first, to_second;  // of `waker`
  StreamProducer producer;
};

}  // namespace

TEST_CASE("waiting: a message in any of several queues wakes, and is told which", "[ipc][waiting]") {
  WaitRig rig;
  const auto push = [&](std::size_t which) {
    if (which == 0) must(rig.to_first.push(plain_message()));
    if (which == 1) must(rig.to_second.push(plain_message()));
    if (which == 2) must(rig.producer.push(plain_message()));
  };
  for (const std::size_t which : {0U, 1U, 2U, 2U, 0U}) {
    Sleeper sleeper(*rig.lane, rig.all());
    CHECK(rig.has_marks());
    push(which);
    CHECK(sleeper.result().value() == which);
    CHECK_FALSE(rig.has_marks());
    CHECK(load(rig.lane->row().doorbell.waiting, relaxed) == 0);
    if (which == 2)
      must(rig.consumer.acknowledge());
    else
      must(which == 0 ? rig.first.acknowledge(must(rig.first.take()))
                      : rig.second.acknowledge(must(rig.second.take())));
  }
  CHECK(rig.lane->counters().sleeps == 5);
  for (const auto id : {rig.first_id, rig.second_id, rig.stream_id}) CHECK(rig.row(id).take_waits == 5);
}

TEST_CASE("waiting: of those that are ready the first one is told, without sleeping", "[ipc][waiting]") {
  WaitRig rig;
  must(rig.to_second.push(plain_message()));
  must(rig.producer.push(plain_message()));
  CHECK(wait_any(*rig.lane, rig.all(), 0ns).value() == 1);
  const auto sources = rig.all();
  CHECK(wait_any(*rig.lane, std::span(sources).last(1), lost).value() == 0);
  CHECK(rig.lane->counters().sleeps == 0);
  CHECK(rig.row(rig.second_id).take_waits == 0);
}

TEST_CASE("waiting: room in a stream or a work queue wakes who waits for it", "[ipc][waiting]") {
  WaitRig rig;
  for (int i = 0; i < 4; ++i) {
    must(rig.producer.push(plain_message()));
    must(rig.to_first.push(plain_message()));
  }
  for (const std::size_t which : {0U, 1U}) {
    Sleeper sleeper(*rig.waker, {rig.producer.room_source(), rig.to_first.room_source()});
    if (which == 0)
      must(rig.consumer.acknowledge());
    else
      must(rig.first.acknowledge(must(rig.first.take())));
    CHECK(sleeper.result().value() == which);
    if (which == 0) must(rig.producer.push(plain_message()));
  }
  CHECK(rig.row(rig.stream_id).push_waits == 2);
  CHECK(rig.row(rig.first_id).push_waits == 2);
  CHECK_FALSE(rig.has_marks());
}

TEST_CASE("waiting: room that comes for several at once lets all of them in", "[ipc][waiting]") {
  WaitRig rig;
  const auto other = rig.another_lane();
  auto end = rig.open(*other, rig.first_id);
  for (int i = 0; i < 4; ++i) must(rig.to_first.push(plain_message()));
  std::vector<WorkLease> leases;
  while (leases.size() < 4) leases.push_back(must(rig.first.take()));
  for (int i = 1; i < 4; ++i) must(rig.first.acknowledge(leases[static_cast<std::size_t>(i)]));
  Sleeper one(*rig.waker, {rig.to_first.room_source()}), two(*other, {end.room_source()});
  must(rig.first.acknowledge(leases[0]));  // the oldest: now there is room for four
  while (!one.is_over() && !two.is_over()) std::this_thread::yield();
  must((one.is_over() ? rig.to_first : end).push(plain_message()));
  CHECK(one.result().has_value());
  CHECK(two.result().has_value());
}

TEST_CASE("waiting: the end of a queue wakes all who wait for it", "[ipc][waiting]") {
  WaitRig rig;
  const auto other = rig.another_lane();
  auto end = rig.open(*other, rig.first_id);
  Sleeper one(*rig.lane, rig.all()), two(*other, {end.messages()});
  rig.to_first.close();
  CHECK(one.result().value() == 0);
  CHECK(two.result().value() == 0);
  Sleeper third(*rig.lane, {rig.consumer.messages()});
  rig.producer.close();
  CHECK(third.result().value() == 0);
}

TEST_CASE("waiting: who is woken for a queue and takes from another lets the next one know",
          "[ipc][waiting]") {
  // Which of two sleepers is woken depends on their lanes: once one, once the other is the busy one.
  const bool busy_is_first = GENERATE(true, false);
  WaitRig rig;
  const auto other = rig.another_lane();
  auto end = rig.open(*other, rig.first_id);
  auto& busy_queue = busy_is_first ? rig.first : end;
  auto& idle_queue = busy_is_first ? end : rig.first;
  std::atomic<bool> elsewhere{false};
  const WaitSource something{
      &elsewhere, [](const void* of) noexcept { return static_cast<const std::atomic<bool>*>(of)->load(); }};
  for (int round = 0; round < 20; ++round) {
    elsewhere = false;
    Sleeper busy(busy_is_first ? *rig.lane : *other, {something, busy_queue.messages()});
    Sleeper idle(busy_is_first ? *other : *rig.lane, {idle_queue.messages()});
    elsewhere = true;  // it will find that first when it wakes
    must(rig.to_first.push(plain_message()));
    REQUIRE(idle.result().has_value());
    must(idle_queue.acknowledge(must(idle_queue.take())));
    if (!busy.is_over()) ring((busy_is_first ? *rig.lane : *other).row().doorbell);
    REQUIRE(busy.result().value() == 0);
  }
}

TEST_CASE("waiting: a waker that claimed a sleeper and died does not keep the next message from the others",
          "[ipc][waiting]") {
  WaitRig rig;
  const auto other = rig.another_lane();
  auto end = rig.open(*other, rig.first_id);
  Sleeper one(*rig.lane, {rig.first.messages()}), two(*other, {end.messages()});
  auto& bell = rig.lane->row().doorbell;
  store(bell.waiting, doorbell_word::claimed(load(bell.waiting, relaxed)), relaxed);
  const auto before = load(other->row().doorbell.sequence, relaxed);
  must(rig.to_first.push(plain_message()));
  CHECK(load(other->row().doorbell.sequence, relaxed) == before + 1);
  must(rig.to_first.push(plain_message()));
  CHECK(one.result().has_value());
  CHECK(two.result().has_value());
}

TEST_CASE("waiting: lanes that share a mark lose no wake-up", "[ipc][waiting][threads]") {
  auto options = small_options(32);
  options.lanes = 80;
  WaitRig rig(options);
  std::vector<std::unique_ptr<Lane>> lanes;
  while (lanes.empty() || lanes.back()->id() < 70) lanes.push_back(rig.another_lane({.cells = 64}));
  const auto with_id = [&](LaneId id) -> Lane& {
    for (auto& each : lanes)
      if (each->id() == id) return *each;
    throw std::runtime_error("no such lane");
  };
  auto &low = with_id(5), &high = with_id(69);
  auto low_queue = rig.open(low, rig.first_id), high_queue = rig.open(high, rig.first_id);
  for (int round = 0; round < 60; ++round) {
    Sleeper one(low, {low_queue.messages()}), two(high, {high_queue.messages()});
    const bool together = round % 2 == 0;
    must(rig.to_first.push(plain_message()));
    if (together) must(rig.to_first.push(plain_message()));
    while (!one.is_over() && !two.is_over()) std::this_thread::yield();
    // The first one takes the mark away as it goes.
    if (!together) must(rig.to_first.push(plain_message()));
    REQUIRE(one.result().has_value());
    REQUIRE(two.result().has_value());
    for (int i = 0; i < 2; ++i) must(rig.first.acknowledge(must(rig.first.take())));
    REQUIRE_FALSE(rig.has_marks());
  }
  // One that goes without a message takes the mark away as well.
  for (int round = 0; round < 10; ++round) {
    Sleeper stays(high, {high_queue.messages()});
    CHECK(Sleeper(low, {low_queue.messages()}, 5ms).result().error() == Status::timeout);
    must(rig.to_first.push(plain_message()));
    REQUIRE(stays.result().has_value());
    must(rig.first.acknowledge(must(rig.first.take())));
  }
}

TEST_CASE("waiting: it ends at its time, and leaves no mark", "[ipc][waiting]") {
  WaitRig rig;
  for (const auto timeout : {0ms, 1ms, 30ms}) {
    const auto begin = std::chrono::steady_clock::now();
    CHECK(wait_any(*rig.lane, rig.all(), timeout).error() == Status::timeout);
    CHECK(std::chrono::steady_clock::now() - begin >= timeout);
    CHECK_FALSE(rig.has_marks());
  }
  CHECK(rig.lane->counters().sleeps == 2);
  CHECK(rig.row(rig.first_id).take_waits == 2);
  Sleeper forever(*rig.lane, rig.all(), std::chrono::nanoseconds::max());
  must(rig.producer.push(plain_message()));
  CHECK(forever.result().value() == 2);
}

TEST_CASE("waiting: a signal interrupts it", "[ipc][waiting]") {
  WaitRig rig;
  struct sigaction action{}, before{};
  action.sa_handler = [](int) {};
  REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
  Sleeper sleeper(*rig.lane, rig.all());
  // Again and again: the first one may come before the sleep.
  while (!sleeper.is_over()) {
    ::pthread_kill(sleeper.thread(), SIGUSR1);
    std::this_thread::sleep_for(1ms);
  }
  CHECK(sleeper.result().error() == Status::interrupted);
  CHECK_FALSE(rig.has_marks());
  ::sigaction(SIGUSR1, &before, nullptr);
}

// ---- Interrupts --------------------------------------------------------------------------------------------

TEST_CASE("interrupt: it holds until the lane takes it", "[ipc][waiting]") {
  WaitRig rig;
  auto sources = rig.all();
  sources.push_back(interrupts(*rig.lane));
  CHECK_FALSE(take_interrupt(*rig.lane));
  must(interrupt(rig.segment(), rig.lane->id(), rig.lane->incarnation()));
  CHECK(wait_any(*rig.lane, sources, lost).value() == 3);
  CHECK(wait_any(*rig.lane, sources, lost).value() == 3);
  CHECK(take_interrupt(*rig.lane));
  CHECK_FALSE(take_interrupt(*rig.lane));
  CHECK(wait_any(*rig.lane, sources, 1ms).error() == Status::timeout);
}

TEST_CASE("interrupt: a lane that is gone is not interrupted, nor its successor", "[ipc][waiting]") {
  WaitRig rig;
  auto gone = rig.another_lane();
  const auto id = gone->id();
  const auto incarnation = gone->incarnation();
  must(interrupt(rig.segment(), id, incarnation));
  gone.reset();
  CHECK(interrupt(rig.segment(), id, incarnation) == Status::stale);
  const auto successor = rig.another_lane();
  REQUIRE(successor->id() == id);
  CHECK_FALSE(take_interrupt(*successor));
  CHECK(interrupt(rig.segment(), id, incarnation) == Status::stale);
  CHECK(interrupt(rig.segment(), 0, 0) == Status::stale);
  CHECK(interrupt(rig.segment(), 0xffff, 0) == Status::stale);
}

TEST_CASE("interrupt: none is lost between two threads", "[ipc][waiting][threads]") {
  WaitRig rig;
  constexpr std::uint64_t rounds = 3000;
  std::atomic<std::uint64_t> taken{0}, failed{0};
  std::thread waiter([&] {
    const auto source = interrupts(*rig.lane);
    while (taken < rounds && failed == 0) {
      if (!wait_awake(*rig.lane, std::span(&source, 1))) ++failed;
      if (take_interrupt(*rig.lane)) ++taken;
    }
  });
  for (std::uint64_t round = 0; round < rounds && failed == 0; ++round) {
    must(interrupt(rig.segment(), rig.lane->id(), rig.lane->incarnation()));
    while (taken == round && failed == 0) std::this_thread::yield();
  }
  waiter.join();
  CHECK(failed == 0);
  CHECK(taken == rounds);
}

TEST_CASE("interrupt: another process can", "[ipc][waiting]") {
  WaitRig rig;
  const auto id = rig.lane->id();
  const auto incarnation = rig.lane->incarnation();
  Child child([&](ChildLink& link) {
    const auto session = must(Session::open(rig.file.path(), "other"));
    link.ready();
    link.wait_go();
    if (interrupt(session.segment(), id, incarnation) != Status::ok) ::_exit(1);
  });
  REQUIRE(child.wait_ready());
  Sleeper sleeper(*rig.lane, {interrupts(*rig.lane)});
  child.go();
  CHECK(sleeper.result().value() == 0);
  CHECK(child.wait().code == 0);
}

}  // namespace sluice::test
