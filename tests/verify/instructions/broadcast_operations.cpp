// What is done with broadcasts: publishing, dropping, joining, reading, leaving.
#include "tests/verify/instructions/operation.hpp"

namespace sluice::verify {

namespace {

constexpr std::string_view ring_name = "news";
constexpr std::uint32_t ring_capacity = 4;
constexpr std::size_t block_bytes = 1000;

QueueId ring_of(const Segment& segment) { return must(find_queue(segment, ring_name)); }
QueueRow& row_of(const Segment& segment) { return queue_row(segment, ring_of(segment).index); }

void publish(Lane& lane, Publisher& publisher) {
  Message message{};
  message.kind = MessageKind::data;
  message.position = publisher.tail();
  message.length = block_bytes;
  const auto block = must(lane.heap().allocate(block_bytes));
  test::fill_pattern(lane.heap().bytes(block).first(block_bytes), message.position);
  must(publisher.push(message, block));
}

void make_ring(test::Survivor& survivor, std::uint64_t messages) {
  const auto ring = must(create_broadcast(*survivor.lane, ring_name, {ring_capacity, 3}));
  auto publisher = must(Publisher::claim(*survivor.lane, ring));
  for (std::uint64_t i = 0; i < messages; ++i) publish(*survivor.lane, publisher);
}

void make_full(test::Survivor& survivor) { make_ring(survivor, ring_capacity + 1); }

void join_ring(Actor& self, SubscriberPolicy policy, Start start) {
  self.subscriber = must(Subscriber::join(*self.lane, ring_of(self.session->segment()), {policy, start}));
}

void get_ready_to_publish(Actor& self) {
  self.join();
  self.publisher = must(Publisher::claim(*self.lane, ring_of(self.session->segment())));
  self.hold(block_bytes);
  self.message.kind = MessageKind::data;
  self.message.position = self.publisher.tail();
  self.message.length = block_bytes;
  test::fill_pattern(self.heap().bytes(self.held.front()).first(block_bytes), self.publisher.tail());
}

void get_ready_to_read(Actor& self, SubscriberPolicy policy) {
  self.join();
  join_ring(self, policy, Start::last(2));
}

std::uint64_t published(const Segment& segment) { return pushed_messages(segment, row_of(segment)); }

// All that the ring has can be read, a successor goes on, and nothing of the dead is in the way of emptying it.
void check_ring(const Recovered& recovered) {
  const auto ring = ring_of(recovered.session.segment());
  auto publisher = must(Publisher::claim(recovered.lane, ring));
  auto reader = must(Subscriber::join(recovered.lane, ring, {SubscriberPolicy::block, Start::at(0)}));
  recovered.expect(reader.position() == publisher.floor(), "the ring begins at its floor");
  for (int i = 0; i < 2; ++i) {
    for (auto next = reader.position(); reader.has_message(); ++next) {
      const auto delivery = reader.take();
      must_hold(delivery.has_value(), "a message can be taken");
      recovered.expect(test::is_numbered(recovered.session.segment(), delivery->message, next),
                       "a message is not the one that was published");
      must(recovered.lane.heap().release(delivery->reference));
    }
    if (i == 0) publish(recovered.lane, publisher);
  }
  recovered.expect(reader.position() == publisher.tail(), "all was read");
  must(publisher.trim(0));
}

Operation operation(std::string_view name, std::function<void(Actor&)> set_up,
                    std::function<void(Actor&)> act) {
  return {.name = name,
          .set_up = std::move(set_up),
          .act = std::move(act),
          .prepare = make_full,
          .happened = published,
          .check = check_ring,
          .units = 14};
}

}  // namespace

std::vector<Operation> broadcast_operations() {
  const auto push = [](Actor& self) { must(self.publisher.push(self.message, self.held.front())); };
  auto into_free = operation("publish", get_ready_to_publish, push);
  into_free.prepare = [](test::Survivor& survivor) { make_ring(survivor, 1); };
  into_free.happens = 1;
  auto over_oldest = operation("publish over the oldest", get_ready_to_publish, push);
  over_oldest.happens = 1;
  const auto pass_laggard = [](Actor& self) {
    get_ready_to_publish(self);
    join_ring(self, SubscriberPolicy::disconnect, Start::at(0));
  };
  auto past_laggard = operation("publish past a laggard", pass_laggard, push);
  past_laggard.prepare = [](test::Survivor& survivor) { make_ring(survivor, ring_capacity); };
  past_laggard.happens = 1;
  return {
      std::move(into_free),
      std::move(over_oldest),
      std::move(past_laggard),
      operation(
          "publish, refused",
          [](Actor& self) {
            get_ready_to_publish(self);
            join_ring(self, SubscriberPolicy::block, Start::at(0));
          },
          [](Actor& self) { must_hold(self.publisher.push(self.message) == Status::full, "it is held"); }),
      operation("drop history", get_ready_to_publish, [](Actor& self) { must(self.publisher.trim(2)); }),
      operation(
          "claim the publisher's role", [](Actor& self) { self.join(); },
          [](Actor& self) {
            self.publisher = must(Publisher::claim(*self.lane, ring_of(self.session->segment())));
          }),
      operation(
          "subscribe", [](Actor& self) { self.join(); },
          [](Actor& self) { join_ring(self, SubscriberPolicy::block, Start::last(3)); }),
      operation(
          "unsubscribe", [](Actor& self) { get_ready_to_read(self, SubscriberPolicy::block); },
          [](Actor& self) { self.subscriber.leave(); }),
      operation(
          "take what was published",
          [](Actor& self) { get_ready_to_read(self, SubscriberPolicy::lose_oldest); },
          [](Actor& self) { must_hold(self.subscriber.take().has_value(), "there is a message"); }),
      operation(
          "advance", [](Actor& self) { get_ready_to_read(self, SubscriberPolicy::block); },
          [](Actor& self) { must(self.subscriber.advance()); }),
  };
}

}  // namespace sluice::verify
