// Deaths while a process joins or leaves, and while it claims or releases lanes.
#include "tests/crash/scenario.hpp"

#include "ipc/process_layout.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

void join_and_leave(const std::string& path, Journal& journal) {
  Victim self(path);
  auto second = must(self.session.claim_lane({.cells = 64}));
  auto producer = self.producer(*self.lane);
  push_numbered(*self.lane, producer, journal, 300);
  must(self.lane->heap().allocate(300));
  must(second->heap().allocate(3 * unit_bytes));
  { auto gone = std::move(producer); }
  second.reset();
  self.lane.reset();
  self.session.leave();
}

// Every row and lane but the survivor's is free again.
void check_tables(Stage& stage, std::string_view) {
  const auto& segment = stage.session.segment();
  for (std::uint64_t row = 0; row < segment.header().process_count; ++row)
    if (row != stage.session.membership().row()) {
      CAPTURE(row);
      CHECK(process_word::state(process_row(segment, row).word) == ProcessState::free);
    }
  std::vector<std::unique_ptr<Lane>> lanes;
  for (std::uint32_t i = 2; i < segment.header().lane_count; ++i)  // lane 0 is nobody, one is the survivor's
    lanes.push_back(must(stage.session.claim_lane({.cells = 64})));
}

}  // namespace

std::vector<Scenario> join_scenarios() {
  return {{.name = "join and leave", .act = join_and_leave, .check = check_tables}};
}

TEST_CASE("process: a death at any crash point of joining or leaving frees its row and its lanes",
          "[ipc][crash]") {
  survive_every_crash(join_scenarios().front());
}

}  // namespace sluice::test
