#include "ipc/lane.hpp"

#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <set>

#include <unistd.h>

namespace sluice::test {

TEST_CASE("lane: a claimed one is described in its row, a released one is free for the next", "[ipc]") {
  Rig rig;
  auto lane = rig.another_lane({.cells = 100, .name = "reader"});
  const auto id = lane->id();
  const auto incarnation = lane->incarnation();
  const auto& row = lane->row();
  CHECK(id != 0);
  CHECK(id != rig.lane->id());
  CHECK(lane_word::Active::get(row.word) == 1);
  CHECK(lane_word::Process::get(row.word) == rig.session.membership().row());
  CHECK(row.cell_count == 100);
  CHECK(row.thread == static_cast<std::uint64_t>(::gettid()));
  CHECK(std::string(row.name) == "reader");
  lane.reset();
  CHECK(lane_word::Active::get(row.word) == 0);
  lane = rig.another_lane();
  CHECK(lane->id() == id);
  CHECK(lane->incarnation() > incarnation);
}

TEST_CASE("lane: all of them can be claimed, and then there is none", "[ipc]") {
  Rig rig;
  std::set<LaneId> ids = {rig.lane->id()};
  std::vector<std::unique_ptr<Lane>> lanes;
  for (std::uint32_t i = 2; i < rig.segment().header().lane_count; ++i) {
    lanes.push_back(rig.another_lane({.cells = 64}));
    ids.insert(lanes.back()->id());
  }
  CHECK(ids.size() == rig.segment().header().lane_count - 1);  // 0 is nobody
  CHECK_FALSE(ids.contains(0));
  const auto refused = rig.session.claim_lane();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().status == Status::exhausted);
  lanes.pop_back();
  CHECK(rig.session.claim_lane().has_value());
}

TEST_CASE("lane: a ledger too small or too large is refused, and takes no lane", "[ipc]") {
  Rig rig;
  const auto active = audit(rig.segment()).counts.lanes_active;
  CHECK(rig.session.claim_lane({.cells = 63}).error().status == Status::bad_argument);
  CHECK(rig.session.claim_lane({.cells = 32769}).error().status == Status::bad_argument);
  CHECK(audit(rig.segment()).counts.lanes_active == active);
  CHECK(rig.session.claim_lane({.cells = 32768}).has_value());
}

TEST_CASE("lane: releasing it drops what it holds, and keeps what it gave away", "[ipc]") {
  Rig rig;
  const auto stream = must(create_stream(*rig.lane, "s", 8));
  {
    const auto leaver = rig.another_lane();
    auto producer = must(StreamProducer::claim(*leaver, stream));
    const auto given = must(leaver->heap().allocate(3000));
    fill_pattern(leaver->heap().bytes(given), 1);
    must(producer.push(Message{}, given));
    for (const std::size_t bytes : {std::size_t{64}, std::size_t{3000}, 2 * unit_bytes})
      must(leaver->heap().allocate(bytes));
    CHECK(take_census(rig.segment()).live.size() == 4);
  }
  CHECK(take_census(rig.segment()).live.size() == 1);
  CHECK(take_census(rig.segment()).contradictions().empty());
  CHECK(audit(rig.segment()).violations.empty());
  auto consumer = must(StreamConsumer::claim(*rig.lane, stream));
  REQUIRE(consumer.peek() != nullptr);
  const auto taken = must(consumer.pop());
  CHECK(has_pattern(rig.heap().bytes(taken), 1));
}

TEST_CASE("lane: sequence numbers go on from life to life", "[ipc]") {
  Rig rig;
  std::uint64_t last = 0;
  for (int life = 0; life < 5; ++life) {
    const auto lane = rig.another_lane();
    CHECK(lane->row().sequence >= last);
    must(lane->heap().release(must(lane->heap().allocate(unit_bytes))));
    CHECK(lane->row().sequence > last);
    last = lane->row().sequence;
  }
}

TEST_CASE("lane: recovering a lane that holds nothing finds nothing, and twice is as good as once", "[ipc]") {
  Rig rig;
  auto lane = rig.another_lane();
  must(lane->heap().allocate(500));
  const auto id = lane->id();
  auto found = recover_lane(rig.segment(), id);
  CHECK(found.references == 1);
  CHECK_FALSE(found.operation_open);
  CHECK(found.moves == 0);
  found = recover_lane(rig.segment(), id);
  CHECK(found.references == 0);
  CHECK(audit(rig.segment()).violations.empty());
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("lane: what it does is counted", "[ipc]") {
  Rig rig;
  const auto& counters = rig.lane->counters();
  const auto first = must(rig.heap().allocate(100));
  must(rig.heap().allocate(100));
  must(rig.heap().allocate(unit_bytes));
  must(rig.heap().release(first));
  CHECK(counters.allocations == 3);
  CHECK(counters.frees_local == 1);
  CHECK(counters.runs_taken == 1);
  CHECK(counters.slabs_cut == 1);
  CHECK(counters.exhausted == 0);
  CHECK(rig.heap().allocate(1000 * unit_bytes).error() == Status::too_large);
  CHECK(rig.heap().allocate(16 * unit_bytes).error() == Status::exhausted);
  CHECK(counters.exhausted == 1);
}

}  // namespace sluice::test
