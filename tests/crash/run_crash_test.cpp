// Deaths while units are made a block, or given back.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

void take_and_free_runs(const std::string& path, Journal&) {
  const Victim self(path);
  auto& heap = self.lane->heap();
  const auto one = must(heap.allocate(unit_bytes));
  const auto three = must(heap.allocate(3 * unit_bytes));
  fill_pattern(heap.bytes(three), 3);
  must(heap.release(one));
  const auto two = must(heap.allocate(2 * unit_bytes - 100));
  must(heap.release(three));
  must(heap.allocate(4 * unit_bytes));
  must(heap.release(two));
}

void take_runs_until_refused(const std::string& path, Journal&) {
  const Victim self(path);
  while (self.lane->heap().allocate(2 * unit_bytes)) continue;
}

// The run of another lane: whoever holds its reference gives it back.
void free_the_survivors_run(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  must_hold(consumer.peek() != nullptr, "there is a message");
  const auto taken = must(consumer.pop());
  ++journal.popped;
  must(self.lane->heap().release(taken));
}

void push_run(Stage& stage) {
  auto producer = must(StreamProducer::claim(*stage.lane, stage.stream));
  push_numbered(*stage.lane, producer, *stage.journal, 3 * unit_bytes);
}

}  // namespace

std::vector<Scenario> run_scenarios() {
  return {
      {.name = "take and free runs", .act = take_and_free_runs, .units = 16},
      {.name = "take runs until refused", .act = take_runs_until_refused, .units = 16},
      {.name = "free the survivor's run", .act = free_the_survivors_run, .prepare = push_run},
  };
}

TEST_CASE("run: a death at any crash point gives every unit back or keeps the whole block", "[shm][crash]") {
  const auto scenarios = run_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

}  // namespace sluice::test
