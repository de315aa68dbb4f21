// Deaths while a device's content changes and a stream is told: whoever reads the stream from its beginning must end
// with the very content that the device has.
#include "tests/crash/scenario.hpp"
#include "tests/support/told_device.hpp"

#include <catch2/catch.hpp>

#include <vector>

namespace sluice::test {

namespace {

constexpr std::uint64_t pages = 48;

// A group, a page of it that has its own, pages alone, one that is cleared under its group's block.
void fill(Stage& stage) {
  must(create_extents(*stage.lane, device_name, pages));
  const auto store = open_told_device(stage.session, *stage.lane);
  write_pattern(*stage.lane, *store, pages + 1, 1);
  write_pattern(*stage.lane, *store, 17, 2);
  for (std::uint64_t page = 32; page < 46; ++page) write_pattern(*stage.lane, *store, page, page);
  must(store->clear(*stage.lane, 18, 2));
}

void overwrite(const std::string& path, Journal&) {
  const Victim self(path);
  const auto store = open_told_device(self.session, *self.lane);
  write_pattern(*self.lane, *store, 17, 100);         // a page that has one
  write_pattern(*self.lane, *store, 20, 101);         // a page under a group's block
  write_pattern(*self.lane, *store, pages + 1, 102);  // the group, over its pages
  write_pattern(*self.lane, *store, pages + 2, 103);  // a group over pages alone
  self.lane->heap().flush();
}

void clear(const std::string& path, Journal&) {
  const Victim self(path);
  const auto store = open_told_device(self.session, *self.lane);
  must(store->clear(*self.lane, 16, 16));  // a group with its pages
  must(store->clear(*self.lane, 30, 4));   // across groups
  must(store->flush());
  self.lane->heap().flush();
}

// The last pages of a group: its block has become superfluous.
void outgrow(const std::string& path, Journal&) {
  const Victim self(path);
  const auto store = open_told_device(self.session, *self.lane);
  for (std::uint64_t page = 16; page < 32; ++page)
    if (page != 17 && page != 18) write_pattern(*self.lane, *store, page, 200 + page);
  self.lane->heap().flush();
}

void check_device(Stage& stage, std::string_view) {
  Complaints complaints;
  check_told(stage.session, *stage.lane, complaints);
  for (const auto& line : complaints) FAIL_CHECK(line);
}

}  // namespace

std::vector<Scenario> extent_store_scenarios() {
  std::vector<Scenario> all = {{.name = "overwrite a device that is told", .act = overwrite},
                               {.name = "clear a device that is told", .act = clear},
                               {.name = "outgrow a group of a device that is told", .act = outgrow}};
  for (auto& scenario : all) {
    scenario.prepare = fill;
    scenario.check = check_device;
    scenario.units = 32;
    scenario.own_stream = false;
  }
  return all;
}

TEST_CASE("extent store: after a death at any crash point the stream tells the device's very content",
          "[ipc][crash]") {
  const auto scenarios = extent_store_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("extent store: victim and recoverer killed at any two points of a change are recovered",
          "[runtime][crash]") {
  const auto scenarios = extent_store_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
