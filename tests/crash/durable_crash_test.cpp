// Deaths of who makes, takes over, reads, changes, parks and ends durable subscriptions.
#include "ipc/broadcast.hpp"
#include "ipc/subscription.hpp"
#include "tests/crash/scenario.hpp"
#include "tests/support/model.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

using enum SubscriberPolicy;

constexpr std::string_view ring_name = "news";
constexpr std::string_view stage_name = "stage";
constexpr std::string_view new_name = "new stage";
constexpr std::uint32_t ring_capacity = 4;
constexpr std::uint32_t rows = 5;
constexpr std::uint64_t stocked = 6;
constexpr std::uint64_t begun = 2;  // where the stage is: at the oldest message

QueueId ring_of(const Segment& segment) { return must(find_queue(segment, ring_name)); }

std::span<SubscriberRow> rows_of(const Segment& segment) {
  return sound_ring(segment, queue_row(segment, ring_of(segment).index))->subscribers;
}

void publish_next(Lane& lane, Publisher& publisher) {
  Message message{};
  message.kind = MessageKind::data;
  message.position = publisher.tail();
  message.length = 100;
  const auto block = must(lane.heap().allocate(message.length));
  fill_pattern(lane.heap().bytes(block).first(message.length), message.position);
  must(publisher.push(message, block));
}

void stock(Stage& stage) {
  const auto ring = must(create_broadcast(*stage.lane, ring_name, {ring_capacity, rows}));
  auto publisher = must(Publisher::claim(*stage.lane, ring));
  for (std::uint64_t i = 0; i < stocked; ++i) publish_next(*stage.lane, publisher);
}

void stock_for(Stage& stage, SubscriberPolicy policy) {
  stock(stage);
  must(ensure_subscription(*stage.lane, ring_of(stage.segment()),
                           {policy, Start::last(ring_capacity), stage_name}));
}

void stock_for_stage(Stage& stage) { stock_for(stage, block); }

// The stage has been passed, or disconnected.
void stock_past(Stage& stage, SubscriberPolicy policy) {
  stock_for(stage, policy);
  auto publisher = must(Publisher::claim(*stage.lane, ring_of(stage.segment())));
  for (std::uint64_t i = 0; i < ring_capacity; ++i) publish_next(*stage.lane, publisher);
}

// --- victims -----------------------------------------------------------------------------------------------

Subscriber join(const Victim& self, SubscriberPolicy policy, std::string_view name = stage_name,
                Start start = Start::at(0)) {
  return must(Subscriber::join(*self.lane, ring_of(self.session.segment()), {policy, start, name}));
}

// `done` are gone past, `published` were shown.
void read_in_place(const std::string& path, Journal& journal) {
  const Victim self(path);
  for (int turn = 0; turn < 2; ++turn) {
    auto subscriber = join(self, block);
    for (int i = 0; i < 2; ++i) {
      const auto* message = subscriber.peek();
      must_hold(message != nullptr && message->position == subscriber.position(), "the next message");
      ++journal.published;
      must(subscriber.advance());
      ++journal.done;
    }
  }
}

void make_and_leave(const std::string& path, Journal&) {
  const Victim self(path);
  auto subscriber = join(self, block, new_name, Start::last(3));
  subscriber.leave();
}

void end_it(const std::string& path, Journal&) {
  const Victim self(path);
  join(self, block).unsubscribe();
}

void end_from_outside(const std::string& path, Journal&) {
  const Victim self(path);
  must(unsubscribe(*self.lane, ring_of(self.session.segment()), stage_name));
}

void take_over_as(const std::string& path, SubscriberPolicy policy) {
  const Victim self(path);
  auto subscriber = join(self, policy);
  must(subscriber.advance());
}

// Two lanes make one name at once, and the second to come has the lower row.
void make_at_once(const std::string& path, Journal&) {
  Victim self(path);
  const auto second = must(self.session.claim_lane());
  const auto ring = ring_of(self.session.segment());
  const SubscriberOptions options{block, Start::last(3), new_name};
  auto winner = must(Subscriber::join(*second, ring));
  act_at("broadcast.join.named", [&] {
    winner.leave();
    winner = must(Subscriber::join(*second, ring, options));
  });
  must_hold(Subscriber::join(*self.lane, ring, options).error() == Status::busy, "the lower row wins");
}

// The victim recovers one that died in the middle of a change.
void die_changing(Stage& stage) {
  stock_past(stage, lose_oldest);
  const auto ended = run_child([&] {
    kill_self_at("broadcast.renew.held");
    take_over_as(stage.path(), block);
  });
  REQUIRE(ended.signal == SIGKILL);
}

void recover(const std::string& path, Journal&) { must(Session::open(path, "recoverer")); }

// --- what must be ------------------------------------------------------------------------------------------

bool is_there(const Stage& stage, std::string_view name) {
  const auto found = find_subscription(rows_of(stage.segment()), name);
  CHECK((!found || subscriber_claim::state(found.claim) == ClaimState::parked));
  return static_cast<bool>(found);
}

// Who comes next under the name, whatever the policy was, reads what is left, in place, and then what is new.
void check_goes_on(Stage& stage, Publisher& publisher, std::string_view name) {
  if (!is_there(stage, name)) return;
  auto subscriber =
      must(Subscriber::join(*stage.lane, ring_of(stage.segment()), {block, Start::at(0), name}));
  CHECK(subscriber.position() >= publisher.floor());
  for (int round = 0; round < 8; ++round) {
    for (; const auto* message = subscriber.peek(); must(subscriber.advance()))
      REQUIRE(is_numbered(stage.segment(), *message, subscriber.position()));
    CHECK(subscriber.position() == publisher.tail());
    publish_next(*stage.lane, publisher);
  }
  subscriber.unsubscribe();
}

void check_ring(Stage& stage) {
  const auto ring = ring_of(stage.segment());
  auto publisher = must(Publisher::claim(*stage.lane, ring));
  for (const auto name : {stage_name, new_name}) check_goes_on(stage, publisher, name);
  std::vector<Subscriber> all;
  for (std::uint32_t i = 0; i < rows; ++i) all.push_back(must(Subscriber::join(*stage.lane, ring)));
  all.clear();
  must(publisher.trim(0));
}

void check_place(Stage& stage, std::string_view point) {
  const auto& row = rows_of(stage.segment())[0];
  REQUIRE(is_there(stage, stage_name));
  const auto done = begun + stage.journal->done + (point == "broadcast.read.advanced" ? 1 : 0);
  const auto shown = begun + stage.journal->published + (point == "broadcast.read.shown" ? 1 : 0);
  CHECK(row.cursor == done + 1);
  auto subscriber = must(Subscriber::join(*stage.lane, ring_of(stage.segment()), {block, {}, stage_name}));
  CHECK(subscriber.position() == done);
  CHECK(subscriber.redelivered() == (shown > done));
  subscriber.leave();
  check_ring(stage);
}

// A name is there from the store of its first cursor to its end.
void check_made(Stage& stage, std::string_view point) {
  const bool is_made = point == "broadcast.join.joined" || point.starts_with("broadcast.park") ||
                       point.starts_with("lane") || point.starts_with("recover");
  if (point.starts_with("broadcast")) CHECK(is_there(stage, new_name) == is_made);
  if (is_there(stage, new_name)) CHECK(rows_of(stage.segment())[0].cursor == stocked - 3 + 1);
  check_ring(stage);
}

void check_ended(Stage& stage, std::string_view point) {
  if (point.starts_with("broadcast.leave")) CHECK_FALSE(is_there(stage, stage_name));
  if (point == "broadcast.resume.claimed") CHECK(is_there(stage, stage_name));
  check_ring(stage);
}

void check_kept(Stage& stage, std::string_view) {
  CHECK(is_there(stage, stage_name));
  check_ring(stage);
}

void check_one(Stage& stage, std::string_view) { check_ring(stage); }

Scenario scenario(std::string name, std::function<void(const std::string&, Journal&)> act,
                  std::function<void(Stage&)> prepare, std::function<void(Stage&, std::string_view)> check) {
  return {.name = std::move(name),
          .act = std::move(act),
          .prepare = std::move(prepare),
          .check = std::move(check),
          .units = 16,
          .own_stream = false};
}

Scenario change(std::string name, SubscriberPolicy from, SubscriberPolicy to) {
  return scenario(
      std::move(name), [to](const std::string& path, Journal&) { take_over_as(path, to); },
      [from](Stage& stage) { from == block ? stock_for_stage(stage) : stock_past(stage, from); }, check_kept);
}

}  // namespace

std::vector<Scenario> durable_scenarios() {
  return {
      scenario("read in place under a name", read_in_place, stock_for_stage, check_place),
      scenario("make a name", make_and_leave, stock, check_made),
      scenario("make a name at once", make_at_once, stock, check_one),
      scenario("end a subscription", end_it, stock_for_stage, check_ended),
      scenario("end a subscription from outside", end_from_outside, stock_for_stage, check_ended),
      change("begin anew", disconnect, disconnect),
      change("hold what may be lost", lose_oldest, block),
      change("lose what was held", block, lose_oldest),
      scenario("recover who changed it", recover, die_changing, check_kept),
  };
}

TEST_CASE("durable: a death at any crash point leaves a subscription where it was, or none", "[ipc][crash]") {
  const auto scenarios = durable_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("durable: victim and recoverer killed at any two points are recovered", "[runtime][crash]") {
  const auto scenarios = durable_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
