// Deaths of who recovers: the next one goes on from the same log. And the proof that no crash point is
// forgotten by the scenarios of this folder.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

// A dead process with something for every step: an open run, a push halfway, references, roles, slabs.
void die_with_hands_full(Stage& stage) {
  const auto ended = run_child([&] {
    Victim self(stage.path());
    const auto opener = must(self.session.claim_lane());
    auto producer = self.producer(*self.lane);
    auto consumer = self.consumer(*opener);
    for (const std::size_t bytes : {std::size_t{64}, std::size_t{4096}, 2 * unit_bytes})
      must(self.lane->heap().allocate(bytes));
    for (int i = 0; i < 3; ++i) push_numbered(*self.lane, producer, *stage.journal, 20000);
    must_hold(consumer.peek() != nullptr, "there is a message");
    must(consumer.pop());
    ++stage.journal->popped;
    kill_self_at("stream.push.filled");
    push_numbered(*self.lane, producer, *stage.journal, 500);
  });
  REQUIRE(ended.signal == SIGKILL);
}

void die_with_run_open(Stage& stage) {
  const auto ended = run_child([&] {
    Victim self(stage.path());
    must(self.lane->heap().allocate(300));
    kill_self_at("run.take.interior");
    must(self.lane->heap().allocate(3 * unit_bytes));
  });
  REQUIRE(ended.signal == SIGKILL);
}

// Dead in a clone that has happened, and holding references to blocks that the survivor holds too.
void die_sharing(Stage& stage) {
  for (const auto& [reference, seed] : stage.kept) must(stage.lane->heap().make_findable(reference));
  const auto ended = run_child([&] {
    Victim self(stage.path());
    auto& heap = self.lane->heap();
    for (const auto& [reference, seed] : stage.kept) must(heap.look_up(reference.handle));
    must(heap.clone(must(heap.allocate(300))));
    kill_self_at("block.clone.counted");
    must(heap.look_up(stage.kept.front().first.handle));
  });
  REQUIRE(ended.signal == SIGKILL);
}

void open_and_leave(const std::string& path, Journal&) { must(Session::open(path, "recoverer")); }

std::vector<Scenario> all_scenarios() {
  std::vector<Scenario> all;
  for (auto* group :
       {segment_scenarios, heap_scenarios, run_scenarios, join_scenarios, queue_scenarios, stream_scenarios,
        work_scenarios, forward_scenarios, broadcast_scenarios, durable_scenarios, shared_scenarios,
        io_scenarios, extents_scenarios, extent_store_scenarios, recovery_scenarios})
    for (auto& scenario : group()) all.push_back(std::move(scenario));
  return all;
}

}  // namespace

std::vector<Scenario> recovery_scenarios() {
  return {
      {.name = "recover a full process", .act = open_and_leave, .prepare = die_with_hands_full, .units = 20},
      {.name = "recover a sharer", .act = open_and_leave, .prepare = die_sharing, .units = 20},
      {.name = "recover an open run", .act = open_and_leave, .prepare = die_with_run_open, .units = 20},
  };
}

TEST_CASE("recovery: a recoverer killed at any crash point is continued by the next", "[runtime][crash]") {
  if (!crashes_can_be_tested()) return;
  const auto scenarios = recovery_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("recovery: victim and recoverer killed at any two points of the heap are recovered",
          "[runtime][crash]") {
  const auto scenarios = heap_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

TEST_CASE("recovery: victim and recoverer killed at any two points of runs are recovered",
          "[runtime][crash]") {
  const auto scenarios = run_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

TEST_CASE("recovery: victim and recoverer killed at any two points of streams are recovered",
          "[runtime][crash]") {
  const auto scenarios = stream_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

TEST_CASE("recovery: victim and recoverer killed at any two points of sharing are recovered",
          "[runtime][crash]") {
  const auto scenarios = shared_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

TEST_CASE("recovery: victim and recoverer killed at any two points of joining and of queues are recovered",
          "[runtime][crash]") {
  survive_every_pair_of_crashes(join_scenarios().front());
  survive_every_pair_of_crashes(queue_scenarios().front());
}

TEST_CASE("crash points: every one that is listed is reached by a scenario", "[crash]") {
  if (!crashes_can_be_tested()) return;
  std::vector<std::uint64_t> reached(crash_point_names.size());
  for (const auto& scenario : all_scenarios()) {
    const auto passes = passes_of(scenario);
    for (std::size_t i = 0; i < reached.size(); ++i) reached[i] += passes[i];
  }
  for (std::size_t i = 0; i < reached.size(); ++i)
    if (reached[i] == 0) FAIL_CHECK("no scenario reaches " << crash_point_names[i]);
}

}  // namespace sluice::test
