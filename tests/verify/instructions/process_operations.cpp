// Coming and going: the process table and the lanes.
#include "tests/verify/instructions/operation.hpp"

namespace sluice::verify {

namespace {

void open_only(Actor& self) { self.segment = must(Segment::open(self.path)); }

void join_without_lane(Actor& self) {
  self.session = std::make_unique<Session>(must(Session::open(self.path, "actor")));
}

// Something for every step of a lane's end: a push's role, references of each kind, slabs.
void fill_hands(Actor& self) {
  self.join();
  self.produce();
  self.consume(self.second_lane());
  self.push(1000);
  self.push(20480);
  self.hold(300);
  self.hold(20480, 2);
  self.hold(2 * unit_bytes);
}

}  // namespace

std::vector<Operation> process_operations() {
  return {
      {.name = "join",
       .set_up = open_only,
       .act = [](Actor& self) { self.membership = must(Membership::join(self.segment, "actor")); }},
      {.name = "join as recoverer",
       .set_up = open_only,
       .act =
           [](Actor& self) {
             self.membership = must(Membership::join(self.segment, "actor", JoinAs::recoverer));
           }},
      {.name = "open a session", .act = join_without_lane},
      {.name = "leave", .set_up = join_without_lane, .act = [](Actor& self) { self.session->leave(); }},
      {.name = "claim a lane",
       .set_up = join_without_lane,
       .act = [](Actor& self) { self.lane = must(self.session->claim_lane({.cells = 256})); }},
      {.name = "release a lane",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.lane.reset(); }},
      {.name = "release a lane with its hands full",
       .set_up = fill_hands,
       .act = [](Actor& self) { self.lane.reset(); },
       .units = 12},
  };
}

}  // namespace sluice::verify
