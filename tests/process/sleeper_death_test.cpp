// Processes that are killed, or stopped, while they sleep for a queue: those who sleep for it too are woken in their
// place, before anybody has recovered them and after.
#include "tests/support/child.hpp"
#include "tests/unit/waiting_rig.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

struct Asleep {
  Asleep()
      : id(must(create_work_queue(*rig.lane, "work", {.capacity = 4}))),
        queue(must(WorkQueue::open(*rig.lane, id))),
        other(rig.another_lane()),
        end(must(WorkQueue::open(*other, id))),
        child([this](ChildLink& link) {
          auto session = must(Session::open(rig.file.path(), "sleeper"));
          const auto lane = must(session.claim_lane());
          auto mine = must(WorkQueue::open(*lane, id));
          *lane_id = lane->id();
          link.ready();
          const auto source = mine.messages();
          (void)wait_any(*lane, std::span(&source, 1), std::chrono::hours(1));
        }) {
    REQUIRE(child.wait_ready());
    auto& bell = rig.segment().lane_row(*lane_id).doorbell;
    while (load(bell.waiting, seq_cst) == 0 || !sleeps(child.pid())) std::this_thread::yield();
  }
  bool is_marked() const {
    return (load(queue_row(rig.segment(), id.index).consumers_waiting, relaxed) >> (*lane_id % 64) & 1) != 0;
  }
  void check_the_other_is_woken() {
    for (int round = 0; round < 6; ++round) {
      Sleeper sleeper(*other, {end.messages()});
      must(queue.push(plain_message()));
      REQUIRE(sleeper.result().has_value());
      must(end.acknowledge(must(end.take())));
    }
  }

  OnlyWakeUps only_wake_ups;
  Rig rig;
  QueueId id;
  WorkQueue queue;
  std::unique_ptr<Lane> other;
  WorkQueue end;
  SharedWithChildren<std::atomic<LaneId>> lane_id;
  Child child;
};

}  // namespace

TEST_CASE("sleeper: one that was killed in its sleep does not keep messages from the others", "[process]") {
  Asleep asleep;
  asleep.child.kill_and_wait();
  CHECK(asleep.is_marked());
  asleep.check_the_other_is_woken();
  CHECK(asleep.rig.session.recover_dead().disagreements.empty());
  CHECK_FALSE(asleep.is_marked());
  asleep.check_the_other_is_woken();
}

TEST_CASE("sleeper: one that is stopped in its sleep does not keep messages from the others", "[process]") {
  Asleep asleep;
  asleep.child.send(SIGSTOP);
  while (state_of(asleep.child.pid()) != 'T') std::this_thread::yield();
  asleep.check_the_other_is_woken();
  asleep.child.send(SIGCONT);
  asleep.queue.close();
  CHECK(asleep.child.wait().code == 0);
}

TEST_CASE("sleeper: its recovery wakes those who share its mark", "[process]") {
  Asleep asleep;
  asleep.child.kill_and_wait();
  Sleeper sleeper(*asleep.other, {asleep.end.messages()});
  const auto before = load(asleep.other->row().doorbell.sequence, relaxed);
  (void)asleep.rig.session.recover_dead();
  CHECK(load(asleep.other->row().doorbell.sequence, relaxed) != before);
  must(asleep.queue.push(plain_message()));
  CHECK(sleeper.result().has_value());
}

}  // namespace sluice::test
