// Deaths while references to shared blocks are added and dropped; with survivors that change the same words
// before anybody has recovered, so that the tags of the dead are gone by then.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

constexpr std::size_t sizes[] = {100, 5000, 2 * unit_bytes};

// What a victim finds: the survivor's blocks, findable by handle.
using Handles = std::shared_ptr<std::vector<Handle>>;

std::function<void(Stage&)> share_what_is_kept(const Handles& handles) {
  return [handles](Stage& stage) {
    handles->clear();
    for (const auto& [reference, seed] : stage.kept) {
      must(stage.lane->heap().make_findable(reference));
      handles->push_back(reference.handle);
    }
  };
}

// Every tag that the dead has left on these blocks is replaced.
void replace_tags(Stage& stage) {
  auto& heap = stage.lane->heap();
  for (const auto& [reference, seed] : stage.kept) must(heap.release(must(heap.clone(reference))));
}

void look_up_clone_and_release(const std::string& path, const std::vector<Handle>& handles) {
  const Victim self(path);
  auto& heap = self.lane->heap();
  std::vector<Reference> held;
  for (const auto handle : handles) {
    held.push_back(must(heap.look_up(handle)));
    held.push_back(must(heap.clone(held.back())));
  }
  for (const auto& reference : held) must(heap.release(reference));
}

// Blocks of its own, in its own slabs and in runs, down to the last reference.
void share_own_blocks(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto& heap = self.lane->heap();
  auto producer = self.producer(*self.lane);
  for (const auto bytes : sizes) {
    const auto first = must(heap.allocate(bytes));
    const auto second = must(heap.clone(first));
    must(heap.make_findable(second));
    must(heap.release(first));
    must(heap.release(second));
    push_numbered(*self.lane, producer, journal, bytes, true);
  }
}

void stock_shared(Stage& stage) {
  auto producer = must(StreamProducer::claim(*stage.lane, stage.stream));
  for (const auto bytes : sizes) push_numbered(*stage.lane, producer, *stage.journal, bytes, true);
}

// The last references to blocks of the survivor's slabs: it is told, in its remote bits.
void drop_the_last_elsewhere(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  while (consumer.peek() != nullptr) {
    const auto taken = must(consumer.pop());
    ++journal.popped;
    must(self.lane->heap().release(taken));
  }
  self.lane->heap().flush();
}

void find_and_resize(const std::string& path, Journal&) {
  const Victim self(path);
  auto& heap = self.lane->heap();
  const auto block = must(heap.allocate(100));
  must(heap.make_findable(must(heap.allocate(100))));
  const auto larger = must(heap.resize(block, 5000));
  must(heap.resize(larger, 2 * unit_bytes));
}

// Two lanes of the victim take turns, so that each removes the other's tags.
void take_turns(const std::string& path, Journal&) {
  Victim self(path);
  const auto other = must(self.session.claim_lane());
  auto& heap = self.lane->heap();
  const auto block = must(heap.allocate(100));
  must(heap.make_findable(block));
  for (int i = 0; i < 2; ++i) {
    const auto theirs = must(other->heap().look_up(block.handle));
    const auto ours = must(heap.clone(block));
    must(other->heap().release(theirs));
    must(heap.release(ours));
  }
}

}  // namespace

std::vector<Scenario> shared_scenarios() {
  const auto handles = std::make_shared<std::vector<Handle>>();
  const auto act = [handles](const std::string& path, Journal&) {
    look_up_clone_and_release(path, *handles);
  };
  const auto prepare = share_what_is_kept(handles);
  return {
      {.name = "share the survivor's blocks", .act = act, .prepare = prepare, .units = 16},
      {.name = "share them, and the survivor goes on",
       .act = act,
       .prepare = prepare,
       .meanwhile = replace_tags,
       .units = 16},
      {.name = "share own blocks", .act = share_own_blocks, .units = 20},
      {.name = "drop the last references elsewhere",
       .act = drop_the_last_elsewhere,
       .prepare = stock_shared,
       .units = 20},
      {.name = "take turns", .act = take_turns, .units = 16},
      {.name = "find and resize", .act = find_and_resize, .units = 16},
  };
}

TEST_CASE("shared: a death at any crash point leaves each count the number of references", "[shm][crash]") {
  const auto scenarios = shared_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

}  // namespace sluice::test
