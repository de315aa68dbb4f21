// Deaths inside the heap: slabs cut, recut, returned and adopted; slots allocated, freed and harvested.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

constexpr std::size_t slots_of_3 = 20480;  // three slots in a unit
constexpr std::size_t slots_of_4 = 16384;

void allocate_and_free_each_class(const std::string& path, Journal&) {
  const Victim self(path);
  for (const auto bytes : default_class_bytes) {
    const auto reference = must(self.lane->heap().allocate(bytes));
    fill_pattern(self.lane->heap().bytes(reference), bytes);
    must(self.lane->heap().release(reference));
  }
}

// More slabs than a lane keeps when they are empty; then another class, which recuts one.
void fill_and_empty_slabs(const std::string& path, Journal&) {
  const Victim self(path);
  auto& heap = self.lane->heap();
  std::vector<Reference> held;
  for (int i = 0; i < 6 * 4; ++i) held.push_back(must(heap.allocate(slots_of_4)));
  for (const auto& reference : held) must(heap.release(reference));
  for (const std::size_t bytes : {std::size_t{8192}, std::size_t{2048}, std::size_t{512}})
    must(heap.allocate(bytes));
}

void exhaust(const std::string& path, Journal&) {
  const Victim self(path);
  while (self.lane->heap().allocate(slots_of_3)) continue;
}

// Two lanes of one process: the second frees what the first allocated, the first takes it back.
void free_remotely_and_harvest(const std::string& path, Journal& journal) {
  const Victim self(path);
  const auto other = must(Lane::claim(self.session.segment(), self.session.membership()));
  auto producer = self.producer(*self.lane);
  auto consumer = self.consumer(*other);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 3; ++i) push_numbered(*self.lane, producer, journal, slots_of_3);
    while (consumer.peek() != nullptr) {
      const auto taken = must(consumer.pop());
      ++journal.popped;
      must(other->heap().release(taken));
    }
    other->heap().flush();
  }
}

void take_and_free_the_survivors_blocks(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  while (consumer.peek() != nullptr) {
    const auto taken = must(consumer.pop());
    ++journal.popped;
    must(self.lane->heap().release(taken));
  }
  self.lane->heap().flush();
}

// Someone died and left slabs that are partly used: two of its blocks wait in the stream.
void leave_orphans(Stage& stage) {
  const auto ended = run_child([&] {
    const Victim self(stage.path());
    auto producer = self.producer(*self.lane);
    for (int i = 0; i < 2; ++i) push_numbered(*self.lane, producer, *stage.journal, slots_of_3);
    for (int i = 0; i < 2; ++i) must(self.lane->heap().allocate(slots_of_3));
    ::raise(SIGKILL);
  });
  REQUIRE(ended.signal == SIGKILL);
  CHECK(stage.session.recover_dead().processes == 1);
}

void adopt(const std::string& path, Journal&) {
  const Victim self(path);
  for (int i = 0; i < 3; ++i) must(self.lane->heap().allocate(slots_of_3));
}

}  // namespace

std::vector<Scenario> heap_scenarios() {
  return {
      {.name = "allocate and free each class", .act = allocate_and_free_each_class},
      {.name = "fill and empty slabs", .act = fill_and_empty_slabs, .units = 20},
      {.name = "exhaust", .act = exhaust, .units = 10},
      {.name = "free remotely and harvest", .act = free_remotely_and_harvest},
      {.name = "free the survivor's blocks",
       .act = take_and_free_the_survivors_blocks,
       .prepare = [](Stage& stage) { stage.push(5); }},
      {.name = "adopt orphans", .act = adopt, .prepare = leave_orphans},
  };
}

TEST_CASE("heap: a death at any crash point loses nothing, leaks nothing and is recovered once",
          "[shm][crash]") {
  const auto scenarios = heap_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

}  // namespace sluice::test
