// Deaths while a segment is created or grown.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

#include <filesystem>

namespace sluice::test {

namespace {

std::string new_path(const std::string& path) { return path + "-new"; }

void create_another(const std::string& path, Journal&) {
  must(Segment::create(new_path(path), small_options(4)));
}

// The name leads to nothing or to a whole segment, and nothing else lies about but the lock file.
void check_creation(Stage& stage, std::string_view point) {
  const auto path = new_path(stage.path());
  const bool linked = point != "segment.create.written";
  CHECK(std::filesystem::exists(path) == linked);
  for (const auto& entry : stage.file.directory().entries()) {
    CAPTURE(entry);
    CHECK((entry.starts_with("segment") &&
           (entry.ends_with("segment") || entry.ends_with("segment-new") || entry.ends_with(".lock"))));
  }
  if (!linked) must(Segment::create(path, small_options(4)));
  auto session = must(Session::open(path, "next"));
  const auto lane = must(session.claim_lane());
  CHECK(lane->heap().allocate(1000).has_value());
}

void grow_by_allocating(const std::string& path, Journal&) {
  const Victim self(path);
  for (int i = 0; i < 2; ++i) must(self.lane->heap().allocate(60 * unit_bytes));
}

void grow_by_hand(const std::string& path, Journal&) {
  const auto segment = must(Segment::open(path));
  while (segment.grow(1) == Status::ok) continue;
}

}  // namespace

std::vector<Scenario> segment_scenarios() {
  return {
      {.name = "create another segment", .act = create_another, .check = check_creation},
      {.name = "grow by allocating", .act = grow_by_allocating, .units = 150},
      {.name = "grow by hand", .act = grow_by_hand, .units = 150},
  };
}

TEST_CASE("segment: a death at any crash point of creation or growth leaves no half-made file",
          "[shm][crash]") {
  const auto scenarios = segment_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

}  // namespace sluice::test
