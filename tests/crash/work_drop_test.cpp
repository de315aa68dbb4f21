// What happens between a look at a slot and the claim of it, where a crash point stands between them.
#include "shm/crash_point.hpp"
#include "tests/support/crash.hpp"
#include "tests/unit/work_rig.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

WorkQueue* taker = nullptr;
WorkLease taken;

}  // namespace

TEST_CASE("work: drop_oldest drops nothing when somebody begins to work on the oldest meanwhile",
          "[ipc][crash][work]") {
  WorkRig rig({.capacity = 4, .policy = QueuePolicy::drop_oldest});
  for (std::uint64_t i = 0; i < 4; ++i) must(rig.push_block(rig.queue, *rig.lane, i));
  taker = &rig.peer;
  crash_hook.store([](std::size_t index) {
    if (index != crash_point_index("work.take.intended")) return;
    crash_hook.store(nullptr);
    taken = must(taker->take());
  });
  CHECK(rig.push_block(rig.queue, *rig.lane, 4) == Status::full);
  CHECK(crash_hook.load() == nullptr);  // else it was never in between
  CHECK(rig.row().dropped == 0);
  CHECK(rig.number_of(rig.peer, taken) == 0);
  must(rig.peer.acknowledge(taken));
  for (std::uint64_t number = 1; number < 4; ++number) {
    const auto [lease, found] = rig.take(rig.peer);
    CHECK(found == number);
    must(rig.peer.acknowledge(lease));
  }
  rig.check_sound();
}

TEST_CASE("work: what drop_oldest has dropped is not searched again", "[ipc][crash][work]") {
  WorkRig rig({.capacity = 4, .policy = QueuePolicy::drop_oldest});
  for (std::uint64_t i = 0; i < 1000; ++i) must(rig.push_block(rig.queue, *rig.lane, i));
  CHECK(rig.row().dropped == 996);
  CHECK(rig.row().tail - rig.row().head < 4 + 16);
  CHECK(rig.take(rig.peer).second == 996);
}

}  // namespace sluice::test
