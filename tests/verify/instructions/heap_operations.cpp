// Allocating and giving back: slots, slabs, runs of units, growth of the file.
#include "tests/support/child.hpp"
#include "tests/verify/instructions/operation.hpp"

#include <csignal>
#include <stdexcept>

namespace sluice::verify {

namespace {

constexpr std::size_t three_slots = 20480;  // a slab of it has three
constexpr std::size_t four_slots = 16384;
constexpr std::size_t two_slots = 32768;

void survivor_pushes(test::Survivor& survivor, std::size_t bytes, int count) {
  auto producer = must(StreamProducer::claim(*survivor.lane, survivor.stream));
  for (int i = 0; i < count; ++i) test::push_numbered(*survivor.lane, producer, bytes);
}

// Take `count` blocks of others out of the stream, through `lane`.
void take(Actor& self, Lane& lane, int count) {
  if (!self.consumer) self.consume(lane);
  for (int i = 0; i < count; ++i) {
    must_hold(self.consumer.peek() != nullptr, "there is a message");
    self.held.push_back(must(self.consumer.pop()));
  }
}

void release_all(Actor& self, Lane& lane) {
  for (const auto& reference : self.held) must(lane.heap().release(reference));
  self.held.clear();
}

// The actor's second lane has freed the first `freed` of `pushed` blocks of the first one's slabs.
void let_second_lane_free(Actor& self, int pushed, int freed) {
  self.join();
  self.produce();
  for (int i = 0; i < pushed; ++i) self.push(three_slots);
  auto& second = self.second_lane();
  take(self, second, freed);
  release_all(self, second);
  second.heap().flush();
}

// Somebody died and left a slab that is partly used: two of its blocks wait in the stream.
void leave_orphans(test::Survivor& survivor) {
  const auto ended = test::run_child([&] {
    Actor victim(survivor.path());
    victim.join();
    victim.produce();
    for (int i = 0; i < 2; ++i) victim.push(three_slots);
    victim.hold(three_slots, 2);
    ::raise(SIGKILL);
  });
  must_hold(ended.signal == SIGKILL, "the victim left orphans");
  must_hold(survivor.session.recover_dead().processes == 1, "the victim is recovered");
}

void fill_up(Actor& self, std::size_t bytes) {
  self.join();
  while (const auto reference = self.heap().allocate(bytes)) self.held.push_back(*reference);
}

}  // namespace

std::vector<Operation> heap_operations() {
  return {
      {.name = "allocate",
       .set_up = [](Actor& self) { self.join(), self.hold(1000); },
       .act = [](Actor& self) { self.hold(1000); }},
      {.name = "allocate: cut a slab",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.hold(three_slots); }},
      {.name = "allocate: cut a slab of 1024 slots",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.hold(64); }},
      {.name = "allocate: recut a slab",
       .set_up = [](Actor& self) { self.join(), self.hold(four_slots, 8), release_all(self, *self.lane); },
       .act = [](Actor& self) { self.hold(300); }},
      {.name = "allocate: adopt an orphan",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.hold(three_slots); },
       .prepare = leave_orphans},
      {.name = "allocate: harvest",
       .set_up = [](Actor& self) { let_second_lane_free(self, 3, 3); },
       .act = [](Actor& self) { self.hold(three_slots); }},
      {.name = "allocate: harvest a full slab",
       .set_up = [](Actor& self) { let_second_lane_free(self, 6, 2); },
       .act = [](Actor& self) { self.hold(three_slots); }},
      {.name = "allocate: refused",
       .set_up = [](Actor& self) { fill_up(self, three_slots); },
       .act = [](Actor& self) { must_hold(!self.heap().allocate(three_slots), "there is no room"); }},
      {.name = "allocate a run",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.hold(3 * unit_bytes); }},
      {.name = "allocate a run: refused",
       .set_up = [](Actor& self) { self.join(), self.hold(two_slots, 4), release_all(self, *self.lane); },
       .act = [](Actor& self) { must_hold(!self.heap().allocate(6 * unit_bytes), "there is no room"); }},
      {.name = "allocate a run: grow the file",
       .set_up = [](Actor& self) { self.join(), self.hold(58 * unit_bytes); },
       .act = [](Actor& self) { self.hold(4 * unit_bytes); },
       .units = 72},
      {.name = "grow",
       .set_up = [](Actor& self) { self.segment = must(Segment::open(self.path)); },
       .act = [](Actor& self) { must(self.segment.grow(1)); },
       .units = 72},
      {.name = "free",
       .set_up = [](Actor& self) { self.join(), self.hold(1000, 2); },
       .act = [](Actor& self) { must(self.heap().release(self.held.front())); }},
      {.name = "free: return a slab",
       .set_up =
           [](Actor& self) {
             self.join();
             self.hold(two_slots, 12);
             for (std::size_t i = 0; i < 9; ++i) must(self.heap().release(self.held[i]));
           },
       .act = [](Actor& self) { must(self.heap().release(self.held[9])); },
       .units = 12},
      {.name = "free another's",
       .set_up = [](Actor& self) { self.join(), take(self, *self.lane, 1); },
       .act = [](Actor& self) { must(self.heap().release(self.held.front())); },
       .prepare = [](test::Survivor& survivor) { survivor_pushes(survivor, three_slots, 2); }},
      {.name = "flush",
       .set_up = [](Actor& self) { self.join(), take(self, *self.lane, 3), release_all(self, *self.lane); },
       .act = [](Actor& self) { self.heap().flush(); },
       .prepare = [](test::Survivor& survivor) { survivor_pushes(survivor, three_slots, 4); }},
      {.name = "free another's: a batch is full",
       .set_up =
           [](Actor& self) {
             self.join();
             take(self, *self.lane, 13);
             for (std::size_t i = 0; i < 12; ++i) must(self.heap().release(self.held[i]));
           },
       .act = [](Actor& self) { must(self.heap().release(self.held[12])); },
       .prepare = [](test::Survivor& survivor) { survivor_pushes(survivor, three_slots, 13); },
       .units = 14},
      {.name = "free a run",
       .set_up = [](Actor& self) { self.join(), self.hold(3 * unit_bytes); },
       .act = [](Actor& self) { must(self.heap().release(self.held.front())); }},
      {.name = "free another's run",
       .set_up = [](Actor& self) { self.join(), take(self, *self.lane, 1); },
       .act = [](Actor& self) { must(self.heap().release(self.held.front())); },
       .prepare = [](test::Survivor& survivor) { survivor_pushes(survivor, 2 * unit_bytes, 1); }},
  };
}

}  // namespace sluice::verify
