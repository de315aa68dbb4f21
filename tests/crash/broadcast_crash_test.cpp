// Deaths of publishers and subscribers of a broadcast.
#include "ipc/broadcast.hpp"
#include "tests/crash/scenario.hpp"
#include "tests/support/model.hpp"

#include <catch2/catch.hpp>

#include <deque>
#include <optional>

namespace sluice::test {

namespace {

constexpr std::string_view ring_name = "news";
constexpr std::uint32_t ring_capacity = 4;
constexpr std::uint32_t rows = 5;         // of subscribers
constexpr std::uint64_t stocked = 6;      // messages of the survivor: the ring is full, two were dropped
constexpr std::uint64_t published = 4;    // by the victim
constexpr std::uint64_t final_tail = 12;  // in the end, by a successor

std::size_t size_of(std::uint64_t number) {
  constexpr std::size_t sizes[] = {100, 0, 5000, 2 * unit_bytes, 64};
  return sizes[number % std::size(sizes)];
}

void publish_next(Lane& lane, Publisher& publisher) {
  const auto number = publisher.tail();
  Message message{};
  message.kind = MessageKind::data;
  message.position = number;
  message.length = static_cast<std::uint32_t>(size_of(number));
  if (message.length == 0) return must(publisher.push(message));
  const auto block = must(lane.heap().allocate(message.length));
  fill_pattern(lane.heap().bytes(block).first(message.length), number);
  must(publisher.push(message, block));
}

QueueId ring_of(const Segment& segment) { return must(find_queue(segment, ring_name)); }

// Read one message, which must be the number, as the subscriber's policy allows.
void read_next(Lane& lane, Subscriber& subscriber, std::uint64_t number) {
  const auto delivery = subscriber.take().value();
  must_hold(is_numbered(lane.segment(), delivery.message, number), "it is the number");
  if (delivery.reference) must(lane.heap().release(delivery.reference));
}

/// The survivors that subscribe. What each has read is below its position.
struct Audience {
  std::deque<Subscriber> subscribers;
};

Audience& audience_of(Stage& stage) {
  if (!stage.company) stage.company = std::make_shared<Audience>();
  return *static_cast<Audience*>(stage.company.get());
}

// Everything that there is, without a gap but those that are told.
void read_all(Stage& stage) {
  for (auto& subscriber : audience_of(stage).subscribers) {
    while (subscriber.has_message()) {
      const auto position = subscriber.position(), lost = subscriber.lost();
      const auto delivery = subscriber.take();
      if (!delivery && delivery.error() == Status::disconnected) break;
      REQUIRE(delivery.has_value());
      CHECK(delivery->message.position == position + subscriber.lost() - lost);
      CHECK(is_numbered(stage.segment(), delivery->message, delivery->message.position));
      if (delivery->reference) must(stage.lane->heap().release(delivery->reference));
    }
  }
}

void stock(Stage& stage) {
  const auto ring = must(create_broadcast(*stage.lane, ring_name, {ring_capacity, rows}));
  auto publisher = must(Publisher::claim(*stage.lane, ring));
  for (std::uint64_t i = 0; i < stocked; ++i) publish_next(*stage.lane, publisher);
}

void subscribe(Stage& stage, SubscriberPolicy policy) {
  audience_of(stage).subscribers.push_back(
      must(Subscriber::join(*stage.lane, ring_of(stage.segment()), {policy, Start::last(ring_capacity)})));
}

void stock_for_laggards(Stage& stage) {
  stock(stage);
  subscribe(stage, SubscriberPolicy::lose_oldest);
  subscribe(stage, SubscriberPolicy::disconnect);
}

void stock_and_subscribe(Stage& stage) {
  stock_for_laggards(stage);
  subscribe(stage, SubscriberPolicy::block);
}

void stock_and_read(Stage& stage) {
  stock_and_subscribe(stage);
  read_all(stage);
}

// --- victims -----------------------------------------------------------------------------------------------

void publish_as_victim(const std::string& path, Journal& journal, std::uint64_t messages) {
  const Victim self(path);
  auto publisher = must(Publisher::claim(*self.lane, ring_of(self.session.segment())));
  for (std::uint64_t i = 0; i < messages; ++i) {
    publish_next(*self.lane, publisher);
    ++journal.published;
  }
  self.lane->heap().flush();
}

// The audience has read everything: round the ring.
void publish_round(const std::string& path, Journal& journal) { publish_as_victim(path, journal, published); }

// The audience holds the oldest message: refused, what was announced is withdrawn.
void publish_until_refused(const std::string& path, Journal&) {
  const Victim self(path);
  auto publisher = must(Publisher::claim(*self.lane, ring_of(self.session.segment())));
  must_hold(publisher.push(Message{}) == Status::full, "somebody holds it");
  must_hold(publisher.trim(1) == Status::full, "somebody holds it");
}

void trim_all(const std::string& path, Journal&) {
  const Victim self(path);
  auto publisher = must(Publisher::claim(*self.lane, ring_of(self.session.segment())));
  must(publisher.trim(1));
  publisher.close();
  self.lane->heap().flush();
}

// Joins, reads, leaves, and joins again: in place, and by clone.
void subscribe_and_read(const std::string& path, Journal&) {
  const Victim self(path);
  const auto ring = ring_of(self.session.segment());
  for (const auto policy : {SubscriberPolicy::block, SubscriberPolicy::lose_oldest}) {
    auto subscriber = must(Subscriber::join(*self.lane, ring, {policy, Start::last(3)}));
    const auto first = subscriber.position();
    const auto* message = subscriber.peek();
    must_hold((message != nullptr) == (policy == SubscriberPolicy::block), "in place");
    if (message != nullptr && message->length != 0)
      must_hold(has_pattern(subscriber.bytes(*message), first), "its bytes");
    must(subscriber.advance());
    read_next(*self.lane, subscriber, first + 1);
    subscriber.leave();
  }
  self.lane->heap().flush();
}

// Both at once: it holds up itself, and those that it leaves behind.
void publish_and_subscribe(const std::string& path, Journal& journal) {
  const Victim self(path);
  const auto ring = ring_of(self.session.segment());
  auto subscriber = must(Subscriber::join(*self.lane, ring));
  auto publisher = must(Publisher::claim(*self.lane, ring));
  for (std::uint64_t i = 0; i < published; ++i) {
    publish_next(*self.lane, publisher);
    ++journal.published;
    read_next(*self.lane, subscriber, stocked + i);
  }
  self.lane->heap().flush();
}

// --- what must be ------------------------------------------------------------------------------------------

std::uint64_t tail_of(const Stage& stage, std::string_view point) {
  const bool is_published =
      point == "stream.push.published" || point == "stream.push.emptied" || point == "stream.push.cleared";
  return stocked + stage.journal->published + (is_published ? 1 : 0);
}

// A successor goes on where the dead stopped: every message is there once, for those who read before and for who
// comes now. Then the ring is emptied, as the scenario's end wants it.
void check_goes_on(Stage& stage, std::string_view point) {
  const auto ring = ring_of(stage.segment());
  const auto& row = queue_row(stage.segment(), ring.index);
  CHECK(pushed_messages(stage.segment(), row) == tail_of(stage, point));
  auto publisher = must(Publisher::claim(*stage.lane, ring));
  REQUIRE(publisher.tail() == tail_of(stage, point));
  CHECK(publisher.tail() - publisher.floor() <= ring_capacity);
  auto late = must(Subscriber::join(*stage.lane, ring, {SubscriberPolicy::block, Start::at(0)}));
  CHECK(late.missed() == publisher.floor());
  read_all(stage);
  while (publisher.tail() < final_tail) {
    while (late.has_message()) read_next(*stage.lane, late, late.position());
    publish_next(*stage.lane, publisher);
    read_all(stage);
  }
  while (late.has_message()) read_next(*stage.lane, late, late.position());
  CHECK(late.position() == final_tail);
  CHECK(late.lost() == 0);
  must(publisher.trim(0));
  publisher.close();
  CHECK(late.ended());
  for (const auto& subscriber : audience_of(stage).subscribers)
    CHECK((subscriber.ended() || subscriber.disconnected()));
}

// No row is left to the dead: as many as there may be can subscribe.
void check_rows(Stage& stage, std::string_view point) {
  const auto ring = ring_of(stage.segment());
  std::vector<Subscriber> all;
  for (auto i = audience_of(stage).subscribers.size(); i < rows; ++i)
    all.push_back(must(Subscriber::join(*stage.lane, ring)));
  all.clear();
  check_goes_on(stage, point);
}

Scenario scenario(std::string name, std::function<void(const std::string&, Journal&)> act,
                  std::function<void(Stage&)> prepare) {
  return {.name = std::move(name),
          .act = std::move(act),
          .prepare = std::move(prepare),
          .check = check_rows,
          .units = 40,
          .own_stream = false};
}

}  // namespace

std::vector<Scenario> broadcast_scenarios() {
  return {
      scenario("publish round the ring", publish_round, stock_and_read),
      scenario("publish past laggards", publish_round, stock_for_laggards),
      scenario("publish until refused", publish_until_refused, stock_and_subscribe),
      scenario("drop history", trim_all, stock),
      scenario("subscribe, read and leave", subscribe_and_read, stock),
      scenario("publish and subscribe", publish_and_subscribe, stock),
  };
}

TEST_CASE("broadcast: a death at any crash point leaves no gap, no double, no leak and no subscription",
          "[ipc][crash]") {
  const auto scenarios = broadcast_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("broadcast: victim and recoverer killed at any two points are recovered", "[runtime][crash]") {
  const auto scenarios = broadcast_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
