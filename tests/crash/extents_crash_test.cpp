// Deaths while blocks move into an extent map or out of it.
#include "ipc/extents.hpp"
#include "tests/crash/scenario.hpp"
#include "tests/support/census.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

constexpr std::string_view map_name = "device";
constexpr std::uint64_t pages = 32;
constexpr std::uint64_t rounds[] = {1000, 2000};  // seeds of the bytes: the survivor's, then the victim's
// A page, a group (a victim dies at its first and second passing of a point), a page of that group, a page that has
// nothing yet, a group.
constexpr std::uint64_t positions[] = {0, pages + 1, 17, 5, pages};
constexpr std::uint64_t empty_at_first = 5;

std::size_t bytes_at(std::uint64_t position) {
  return position < pages ? extent_page_bytes : extent_page_bytes * extent_group_pages;
}

Reference fresh(Heap& heap, std::uint64_t position, std::uint64_t seed) {
  const auto block = must(heap.allocate(bytes_at(position)));
  fill_pattern(heap.bytes(block), seed + position);
  return block;
}

ExtentWriter write_as(const Session& session) {
  return must(ExtentWriter::claim(session.segment(), session.membership(),
                                  must(find_queue(session.segment(), map_name))));
}

void fill(Stage& stage) {
  must(create_extents(*stage.lane, map_name, pages));
  auto writer = write_as(stage.session);
  for (const auto position : positions)
    if (position != empty_at_first)
      must_hold(!must(writer.put(*stage.lane, position, fresh(stage.lane->heap(), position, rounds[0]))),
                "nothing was there");
}

void exchange(const std::string& path, Journal&) {
  const Victim self(path);
  auto writer = write_as(self.session);
  auto& heap = self.lane->heap();
  for (const auto position : positions) {
    const auto old = must(writer.put(*self.lane, position, fresh(heap, position, rounds[1])));
    if (old) must(heap.release(old));
  }
  heap.flush();
}

// The last exchange's old block stays in hand: a death on the way out must not lose it for the one that is next.
void empty(const std::string& path, Journal&) {
  const Victim self(path);
  auto writer = write_as(self.session);
  for (const auto position : positions) {
    const auto old = must(writer.take(*self.lane, position, position < pages ? extent_zeroes : 0));
    if (old) must(self.lane->heap().release(old));
  }
  self.lane->heap().flush();
}

// Until the dead is recovered nobody else writes.
void check_claimed(Stage& stage) {
  const auto& segment = stage.segment();
  const auto map = must(find_queue(segment, map_name));
  const auto writer = queue_row(segment, map.index).writer;
  if (writer == 0) return;
  const auto word = process_row(segment, process_claim::Row::get(writer)).word;
  if (process_word::Incarnation::get(word) != process_claim::Incarnation::get(writer))
    return;  // recovered already
  CHECK(ExtentWriter::claim(segment, stage.session.membership(), map).error() == Status::busy);
}

// In the order of `positions`: those that the victim has changed come first, and each is one or the other.
void check_map(Stage& stage, std::string_view) {
  auto& heap = stage.lane->heap();
  auto writer = write_as(stage.session);
  bool all_changed = true;
  for (const auto position : positions) {
    const auto old = must(writer.take(*stage.lane, position));
    const bool is_old = old ? has_pattern(heap.bytes(old), rounds[0] + position)
                            : position == empty_at_first && all_changed == false;
    const bool is_new = old && has_pattern(heap.bytes(old), rounds[1] + position);
    CAPTURE(position, all_changed);
    if (old) {
      CHECK((is_old || is_new));
      CHECK((!is_new || all_changed));
    }
    all_changed = all_changed && (old ? is_new : position != empty_at_first);
    CHECK(writer.at(position) == 0);
    if (old) must(heap.release(old));
  }
}

void check_emptied(Stage& stage, std::string_view) {
  auto& heap = stage.lane->heap();
  auto writer = write_as(stage.session);
  bool all_taken = true;
  for (const auto position : positions) {
    const auto found = writer.at(position);
    const auto old = must(writer.take(*stage.lane, position));
    CAPTURE(position, found);
    if (position == empty_at_first) {
      CHECK(found <= extent_zeroes);
    } else {
      CHECK((!old || has_pattern(heap.bytes(old), rounds[0] + position)));
      CHECK((old || all_taken));
      CHECK((old || found == (position < pages ? extent_zeroes : 0)));
      all_taken = all_taken && !old;
    }
    if (old) must(heap.release(old));
  }
}

}  // namespace

std::vector<Scenario> extents_scenarios() {
  return {
      {.name = "exchange extents",
       .act = exchange,
       .prepare = fill,
       .meanwhile = check_claimed,
       .check = check_map,
       .units = 24},
      {.name = "empty extents",
       .act = empty,
       .prepare = fill,
       .meanwhile = check_claimed,
       .check = check_emptied,
       .units = 24},
  };
}

TEST_CASE("extents: a death at any crash point leaves each place with the one block or the other",
          "[ipc][crash]") {
  const auto scenarios = extents_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("extents: victim and recoverer killed at any two points of an exchange are recovered",
          "[runtime][crash]") {
  const auto scenarios = extents_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
