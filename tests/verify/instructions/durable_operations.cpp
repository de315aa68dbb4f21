// What is done with durable subscriptions: making, taking over, reading in place, changing, parking, ending.
#include "ipc/subscription.hpp"
#include "tests/verify/instructions/operation.hpp"

namespace sluice::verify {

namespace {

using enum SubscriberPolicy;

constexpr std::string_view ring_name = "news";
constexpr std::string_view stage_name = "stage";
constexpr std::uint32_t ring_capacity = 4;

QueueId ring_of(const Segment& segment) { return must(find_queue(segment, ring_name)); }

SubscriberRow& row_of(const Segment& segment) {
  return sound_ring(segment, queue_row(segment, ring_of(segment).index)).value().subscribers[0];
}

void publish(Publisher& publisher, std::uint64_t messages) {
  for (std::uint64_t i = 0; i < messages; ++i) {
    Message message{};
    message.kind = MessageKind::user;
    message.position = publisher.tail();
    must(publisher.push(message));
  }
}

// A full ring, and a parked subscription at its oldest message; or one that has been passed since.
void make_ring(test::Survivor& survivor, SubscriberPolicy policy, bool is_passed) {
  const auto ring = must(create_broadcast(*survivor.lane, ring_name, {ring_capacity, 3}));
  auto publisher = must(Publisher::claim(*survivor.lane, ring));
  must(ensure_subscription(*survivor.lane, ring, {policy, {}, stage_name}));
  publish(publisher, is_passed ? 2 * ring_capacity : ring_capacity);
}

void make_held(test::Survivor& survivor) { make_ring(survivor, block, false); }

void make_nameless(test::Survivor& survivor) {
  const auto ring = must(create_broadcast(*survivor.lane, ring_name, {ring_capacity, 3}));
  auto publisher = must(Publisher::claim(*survivor.lane, ring));
  publish(publisher, ring_capacity);
}

void join_ring(Actor& self, SubscriberPolicy policy) {
  self.subscriber = must(
      Subscriber::join(*self.lane, ring_of(self.session->segment()), {policy, Start::at(0), stage_name}));
}

void get_ready_to_read(Actor& self) {
  self.join();
  join_ring(self, block);
}

std::uint64_t is_there(const Segment& segment) {
  const auto& row = row_of(segment);
  return load(row.claim, acquire) != 0 && is_durable(row) && load(row.cursor, acquire) != 0 ? 1 : 0;
}

// Who comes next under the name finds the ring's messages from where it stands, in place, and what is new.
void check_stage(const Recovered& recovered) {
  const auto ring = ring_of(recovered.session.segment());
  auto publisher = must(Publisher::claim(recovered.lane, ring));
  const auto& row = row_of(recovered.session.segment());
  const bool is_made = is_there(recovered.session.segment()) != 0;
  recovered.expect(load(row.claim, acquire) == (is_made ? subscriber_claim::parked(row.joins) : 0),
                   "the row is neither parked nor free");
  auto next = must(Subscriber::join(recovered.lane, ring, {block, Start::at(0), stage_name}));
  recovered.expect(next.position() >= publisher.floor(), "it begins at a message that is gone");
  for (int i = 0; i < 2; ++i) {
    for (; const auto* message = next.peek(); must(next.advance()))
      recovered.expect(message->position == next.position(), "a message is not the one that was published");
    recovered.expect(next.position() == publisher.tail(), "all was read");
    publish(publisher, 1);
  }
  next.unsubscribe();
  must(publisher.trim(0));
}

Operation operation(std::string_view name, std::function<void(test::Survivor&)> prepare,
                    std::function<void(Actor&)> set_up, std::function<void(Actor&)> act) {
  return {.name = name,
          .set_up = std::move(set_up),
          .act = std::move(act),
          .prepare = std::move(prepare),
          .happened = is_there,
          .check = check_stage,
          .units = 14};
}

Operation change(std::string_view name, SubscriberPolicy from, SubscriberPolicy to) {
  auto changing = operation(
      name, [from](test::Survivor& survivor) { make_ring(survivor, from, from != block); },
      [](Actor& self) { self.join(); }, [to](Actor& self) { join_ring(self, to); });
  if (from != block) {  // it becomes another subscription of the row
    changing.happened = [](const Segment& segment) { return load(row_of(segment).joins, acquire); };
    changing.happens = 1;
  }
  return changing;
}

}  // namespace

std::vector<Operation> durable_operations() {
  const auto join = [](Actor& self) { self.join(); };
  auto make = operation("make a durable subscription", make_nameless, join,
                        [](Actor& self) { join_ring(self, block); });
  make.happens = 1;
  auto show = operation("show a message", make_held, get_ready_to_read,
                        [](Actor& self) { must_hold(self.subscriber.peek() != nullptr, "there is one"); });
  show.happened = [](const Segment& segment) { return load(row_of(segment).shown, acquire); };
  show.happens = 1;
  auto advance = operation("advance a durable subscription", make_held, get_ready_to_read,
                           [](Actor& self) { must(self.subscriber.advance()); });
  advance.happened = [](const Segment& segment) { return load(row_of(segment).cursor, acquire); };
  advance.happens = 1;
  const auto is_gone = [](const Segment& segment) { return 1 - is_there(segment); };
  auto end = operation("end a durable subscription", make_held, get_ready_to_read,
                       [](Actor& self) { self.subscriber.unsubscribe(); });
  end.happened = is_gone;
  end.happens = 1;
  auto end_parked = operation("end a parked subscription", make_held, join, [](Actor& self) {
    must(unsubscribe(*self.lane, ring_of(self.session->segment()), stage_name));
  });
  end_parked.happened = is_gone;
  end_parked.happens = 1;
  return {
      std::move(make),
      operation("take a subscription over", make_held, join, [](Actor& self) { join_ring(self, block); }),
      std::move(show),
      std::move(advance),
      operation("park a subscription", make_held, get_ready_to_read,
                [](Actor& self) { self.subscriber.leave(); }),
      change("begin a subscription anew", disconnect, disconnect),
      change("make a subscription hold", lose_oldest, block),
      change("make a subscription lose", block, lose_oldest),
      std::move(end),
      std::move(end_parked),
  };
}

}  // namespace sluice::verify
