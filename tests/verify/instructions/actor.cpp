#include "tests/verify/instructions/operation.hpp"

#include <algorithm>
#include <iterator>

namespace sluice::verify {

void Actor::join() {
  session = std::make_unique<Session>(must(Session::open(path, "actor")));
  lane = must(session->claim_lane({.cells = 256, .name = "actor"}));
}

Lane& Actor::second_lane() {
  second = must(session->claim_lane({.cells = 64, .name = "second"}));
  return *second;
}

QueueId Actor::stream() const { return must(find_queue(session->segment(), test::stream_name)); }

void Actor::produce() { producer = must(StreamProducer::claim(*lane, stream())); }

void Actor::consume(Lane& of) { consumer = must(StreamConsumer::claim(of, stream())); }

void Actor::push(std::size_t bytes) { test::push_numbered(*lane, producer, bytes); }

void Actor::hold(std::size_t bytes, int count) {
  for (int i = 0; i < count; ++i) held.push_back(must(lane->heap().allocate(bytes)));
}

void get_ready_to_recover(Actor& self) {
  self.segment = must(Segment::open(self.path));
  self.membership = must(Membership::join(self.segment, "recoverer"));
}

void recover_the_dead(Actor& self) {
  const auto report = recover_dead(self.segment, self.membership);
  must_hold(report.disagreements.empty(), "whoever died is dead");
}

std::vector<Operation> plain_operations() {
  std::vector<Operation> all;
  for (auto* group :
       {heap_operations, stream_operations, work_operations, forward_operations, broadcast_operations,
        durable_operations, shared_operations, extent_operations, store_operations, process_operations})
    std::ranges::move(group(), std::back_inserter(all));
  return all;
}

}  // namespace sluice::verify
