// Deaths while devices have blocks: what they may still write into is isolated, or set aside.
#include "ipc/audit.hpp"
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

constexpr std::size_t paged_sizes[] = {5000, 32768, 2 * unit_bytes};

void lend_to_devices(const std::string& path, Journal&) {
  const Victim self(path);
  auto& heap = self.lane->heap();
  for (const auto bytes : paged_sizes) {
    const auto block = must(heap.allocate(bytes));
    must(heap.begin_io(block));
    must_hold(heap.release(block) == Status::busy, "a device has it");
    must(heap.end_io(block));
    must(heap.release(block));
  }
}

// Dead with devices at work on blocks of its own slabs, on runs, and on blocks of the survivor's slabs.
void die_with_devices_at_work(Stage& stage, const std::vector<std::size_t>& sizes) {
  auto producer = must(StreamProducer::claim(*stage.lane, stage.stream));
  push_numbered(*stage.lane, producer, *stage.journal, 20000);
  push_numbered(*stage.lane, producer, *stage.journal, 20000, true);
  producer = {};
  const auto ended = run_child([&] {
    const Victim self(stage.path());
    auto& heap = self.lane->heap();
    auto consumer = self.consumer(*self.lane);
    while (consumer.peek() != nullptr) {
      must(heap.begin_io(must(consumer.pop())));
      ++stage.journal->popped;
    }
    for (const auto bytes : sizes) {
      must(heap.begin_io(must(heap.allocate(bytes))));
      const auto shared = must(heap.allocate(bytes));
      must(heap.clone(shared));
      must(heap.begin_io(shared));
    }
    ::raise(SIGKILL);
  });
  REQUIRE(ended.signal == SIGKILL);
}

void die_with_pages(Stage& stage) {
  die_with_devices_at_work(stage, {std::begin(paged_sizes), std::end(paged_sizes)});
}
void die_without_pages(Stage& stage) { die_with_devices_at_work(stage, {64, 1000}); }

void open_and_leave(const std::string& path, Journal&) { must(Session::open(path, "recoverer")); }

void check_set_aside(Stage& stage, std::string_view) {
  CHECK(audit(stage.session.segment()).counts.blocks_quarantined == 4);
}

// As a device that was not done when its process was recovered leaves it; by now it is.
void leave_in_quarantine(Stage& stage) {
  const auto& segment = stage.session.segment();
  for (const auto bytes : paged_sizes) {
    const auto block = must(stage.lane->heap().allocate(bytes));
    const auto generation = segment.split().generation(block.handle);
    store(segment.truth_word(segment.split().unit(block.handle), segment.split().slot(block.handle)).low,
          truth::make(generation, 0, BlockState::quarantined), release);
    store(stage.lane->heap().cell(block.cell).handle, 0, release);
    fetch_add(segment.control().quarantined, 1, relaxed);
  }
}

void exhaust(const std::string& path, Journal&) {
  const Victim self(path, {.cells = 8192});
  while (self.lane->heap().allocate(16384)) continue;
}

void check_lifted(Stage& stage, std::string_view) {
  while (const auto reference = stage.lane->heap().allocate(16384)) stage.kept.emplace_back(*reference, 0);
  CHECK(audit(stage.session.segment()).counts.blocks_quarantined == 0);
}

}  // namespace

std::vector<Scenario> io_scenarios() {
  return {
      {.name = "lend to devices", .act = lend_to_devices, .units = 16},
      {.name = "recover what devices have", .act = open_and_leave, .prepare = die_with_pages, .units = 24},
      {.name = "recover what cannot be isolated",
       .act = open_and_leave,
       .prepare = die_without_pages,
       .check = check_set_aside,
       .units = 16},
      {.name = "lift a quarantine",
       .act = exhaust,
       .prepare = leave_in_quarantine,
       .check = check_lifted,
       .units = 20},
  };
}

TEST_CASE("io: a death at any crash point leaves no block that a device may write into", "[shm][crash]") {
  const auto scenarios = io_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("io: victim and recoverer killed at any two points of isolation are recovered",
          "[runtime][crash]") {
  const auto scenarios = io_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
