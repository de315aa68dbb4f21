// References to blocks that several hold, and blocks that devices have. All others are dead when a state is judged, so recovery of their lanes
// has replaced the tags that the actor left before it comes to the actor's open operation.
#include "tests/verify/instructions/operation.hpp"

namespace sluice::verify {

namespace {

// What the survivor holds and lets others find; the actor is a fork of who prepares.
std::vector<Handle>& findable() {
  static std::vector<Handle> handles;
  return handles;
}

void share_what_is_kept(test::Survivor& survivor) {
  findable().clear();
  for (const auto& [reference, seed] : survivor.kept) {
    must(survivor.lane->heap().make_findable(reference));
    must(survivor.lane->heap().release(must(survivor.lane->heap().clone(reference))));  // its tag is there
    findable().push_back(reference.handle);
  }
}

void stock_shared(test::Survivor& survivor) {
  auto producer = must(StreamProducer::claim(*survivor.lane, survivor.stream));
  for (const std::size_t bytes : {std::size_t{1000}, 2 * unit_bytes})
    test::push_numbered(*survivor.lane, producer, bytes, true);
}

void find_all(Actor& self) {
  self.join();
  for (const auto handle : findable()) self.held.push_back(must(self.heap().look_up(handle)));
}

void hold_twice(Actor& self, std::size_t bytes) {
  self.join();
  self.hold(bytes);
  self.held.push_back(must(self.heap().clone(self.held.front())));
}

void hold_shared_alone(Actor& self, std::size_t bytes) {
  hold_twice(self, bytes);
  must(self.heap().release(self.held.back()));
  self.held.pop_back();
}

void take_all(Actor& self) {
  self.join();
  self.consume(*self.lane);
  while (self.consumer.peek() != nullptr) self.held.push_back(must(self.consumer.pop()));
}

void clone_each(Actor& self) {
  const auto count = self.held.size();
  for (std::size_t i = 0; i < count; ++i) self.held.push_back(must(self.heap().clone(self.held[i])));
}

void release_each(Actor& self) {
  for (const auto& reference : self.held) must(self.heap().release(reference));
  self.heap().flush();
}

// The actor's second lane has done the last change of the block's count.
void let_second_lane_tag(Actor& self) {
  self.join();
  self.hold(1000);
  must(self.heap().make_findable(self.held.front()));
  auto& second = self.second_lane();
  must(second.heap().release(must(second.heap().look_up(self.held.front().handle))));
}

void lend_first(Actor& self) { must(self.heap().begin_io(self.held.front())); }

// The actor's second lane began it and is gone: the mark stays until the last drop.
void hold_what_a_device_has(Actor& self, std::size_t bytes) {
  self.join();
  self.hold(bytes);
  must(self.heap().make_findable(self.held.front()));
  auto& second = self.second_lane();
  must(second.heap().begin_io(must(second.heap().look_up(self.held.front().handle))));
  self.second.reset();
}

// The survivor's, as a death with a device at work has left it.
void set_aside(test::Survivor& survivor) {
  auto& heap = survivor.lane->heap();
  const auto& segment = survivor.segment();
  for (const std::size_t bytes : {std::size_t{5000}, 2 * unit_bytes}) {
    const auto block = must(heap.allocate(bytes));
    const auto& split = segment.split();
    auto& word = segment.truth_word(split.unit(block.handle), split.slot(block.handle));
    store(word.low, truth::make(split.generation(block.handle), 0, BlockState::quarantined), release);
    store(heap.cell(block.cell).handle, 0, release);
    heap.unreserve_cell(block.cell);
    fetch_add(segment.control().quarantined, 1, relaxed);
  }
}

}  // namespace

std::vector<Operation> shared_operations() {
  return {
      {.name = "clone: the first",
       .set_up = [](Actor& self) { self.join(), self.hold(1000); },
       .act = clone_each},
      {.name = "clone: of a run",
       .set_up = [](Actor& self) { self.join(), self.hold(2 * unit_bytes); },
       .act = clone_each},
      {.name = "clone: over a living lane's tag", .set_up = let_second_lane_tag, .act = clone_each},
      {.name = "clone: of the survivor's blocks",
       .set_up = find_all,
       .act = clone_each,
       .prepare = share_what_is_kept},
      {.name = "look up",
       .set_up = [](Actor& self) { self.join(); },
       .act =
           [](Actor& self) {
             for (const auto handle : findable()) self.held.push_back(must(self.heap().look_up(handle)));
           },
       .prepare = share_what_is_kept},
      {.name = "look up what cannot be found",
       .set_up = [](Actor& self) { self.join(), self.hold(1000); },
       .act =
           [](Actor& self) {
             must_hold(self.heap().look_up(self.held.front().handle).error() == Status::stale,
                       "it is not findable");
           }},
      {.name = "make findable",
       .set_up = [](Actor& self) { self.join(), self.hold(1000); },
       .act = [](Actor& self) { must(self.heap().make_findable(self.held.front())); }},
      {.name = "make findable: of a shared block",
       .set_up = [](Actor& self) { hold_twice(self, 1000); },
       .act = [](Actor& self) { must(self.heap().make_findable(self.held.front())); }},
      {.name = "drop: one of two, then the last, in an own slab",
       .set_up = [](Actor& self) { hold_twice(self, 1000); },
       .act = release_each},
      {.name = "drop: one of two, then the last, of a run",
       .set_up = [](Actor& self) { hold_twice(self, 2 * unit_bytes); },
       .act = release_each},
      {.name = "drop: the survivor keeps the blocks",
       .set_up = find_all,
       .act = release_each,
       .prepare = share_what_is_kept},
      {.name = "drop: the last, in the survivor's slabs",
       .set_up = take_all,
       .act = release_each,
       .prepare = stock_shared},
      {.name = "push a shared reference",
       .set_up =
           [](Actor& self) {
             hold_shared_alone(self, 1000);
             self.produce();
             test::fill_pattern(self.heap().bytes(self.held.front()).first(1000), self.producer.tail());
             self.message.kind = MessageKind::data;
             self.message.position = self.producer.tail();
             self.message.length = 1000;
           },
       .act = [](Actor& self) { must(self.producer.push(self.message, self.held.front())); },
       .pushes = 1},
      {.name = "acknowledge a shared reference",
       .set_up =
           [](Actor& self) {
             self.join();
             self.consume(*self.lane);
             must_hold(self.consumer.peek() != nullptr, "there is a message");
           },
       .act = [](Actor& self) { must(self.consumer.acknowledge()), self.heap().flush(); },
       .prepare = stock_shared,
       .pops = 1},
      {.name = "resize: to a larger class",
       .set_up = [](Actor& self) { self.join(), self.hold(1000); },
       .act = [](Actor& self) { must(self.heap().resize(self.held.front(), 2000)); },
       .writes_blocks = true},
      {.name = "resize: to a run",
       .set_up = [](Actor& self) { self.join(), self.hold(30000); },
       .act = [](Actor& self) { must(self.heap().resize(self.held.front(), 2 * unit_bytes)); },
       .writes_blocks = true},
      {.name = "lend to a device and take back",
       .set_up = [](Actor& self) { self.join(), self.hold(5000); },
       .act =
           [](Actor& self) {
             lend_first(self);
             must(self.heap().end_io(self.held.front()));
           },
       .writes_blocks = true},
      {.name = "lend a shared block to a device",
       .set_up = [](Actor& self) { hold_twice(self, 5000); },
       .act = lend_first,
       .writes_blocks = true},
      {.name = "drop: the last, lent to a device",
       .set_up = [](Actor& self) { hold_what_a_device_has(self, 5000); },
       .act = release_each,
       .writes_blocks = true},
      {.name = "drop: the last of a run, lent to a device",
       .set_up = [](Actor& self) { hold_what_a_device_has(self, 2 * unit_bytes); },
       .act = release_each,
       .writes_blocks = true},
      {.name = "lift a quarantine",
       .set_up = [](Actor& self) { self.join(); },
       .act =
           [](Actor& self) {
             while (self.heap().allocate(2 * unit_bytes)) continue;
           },
       .prepare = set_aside,
       .units = 12,
       .writes_blocks = true},
  };
}

}  // namespace sluice::verify
