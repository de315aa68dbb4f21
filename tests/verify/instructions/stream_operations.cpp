// What is done with streams: both ends, their roles, and the directory.
#include "tests/verify/instructions/operation.hpp"

#include <array>
#include <cstring>

namespace sluice::verify {

namespace {

constexpr std::size_t three_slots = 20480;

void stock(test::Survivor& survivor) {
  auto producer = must(StreamProducer::claim(*survivor.lane, survivor.stream));
  for (const std::size_t bytes : {three_slots, std::size_t{0}, std::size_t{1000}})
    test::push_numbered(*survivor.lane, producer, bytes);
}

void stock_without_block(test::Survivor& survivor) {
  auto producer = must(StreamProducer::claim(*survivor.lane, survivor.stream));
  for (int i = 0; i < 2; ++i) test::push_numbered(*survivor.lane, producer, 0);
}

// A message and its block lie ready.
void get_ready_to_push(Actor& self, std::size_t bytes) {
  self.join();
  self.produce();
  self.message.kind = MessageKind::data;
  self.message.position = self.producer.tail();
  self.message.length = static_cast<std::uint32_t>(bytes);
  if (bytes == 0) return;
  self.hold(bytes);
  test::fill_pattern(self.heap().bytes(self.held.front()).first(bytes), self.producer.tail());
}

void get_three_ready_to_push(Actor& self) {
  self.join();
  self.produce();
  self.hold(1000, 3);
  auto number = self.producer.tail();
  for (const auto& reference : self.held)
    test::fill_pattern(self.heap().bytes(reference).first(1000), number++);
}

void push_three(Actor& self) {
  std::array<Message, 3> messages{};
  auto number = self.producer.tail();
  for (auto& message : messages) {
    message.kind = MessageKind::data;
    message.position = number++;
    message.length = 1000;
  }
  must(self.producer.push_many(messages, self.held).status);
}

void look(Actor& self) {
  self.join();
  self.consume(*self.lane);
  must_hold(self.consumer.peek() != nullptr, "there is a message");
}

// The name is free or leads to a whole queue: a message goes through it.
void check_name(const Recovered& recovered, std::string_view name, std::uint32_t capacity) {
  const auto id = must(find_or_create_stream(recovered.lane, name, capacity));
  auto producer = must(StreamProducer::claim(recovered.lane, id));
  auto consumer = must(StreamConsumer::claim(recovered.lane, id));
  recovered.expect(consumer.peek() == nullptr, "a new stream is not empty");
  Message message{};
  message.kind = MessageKind::user;
  must(producer.push(message));
  recovered.expect(consumer.peek() != nullptr && consumer.peek()->kind == MessageKind::user,
                   "a message does not pass the new stream");
  must(consumer.acknowledge());
  must_hold(capacity == producer.capacity(), "the stream has its capacity");
}

void dirty_the_next_storage(Actor& self) {
  self.join();
  self.hold(unit_bytes);
  const auto bytes = self.heap().bytes(self.held.front());
  for (std::size_t slot = 0; slot < 8; ++slot) {  // with the very stamps of a stream's first messages
    const std::uint64_t stamp = slot + 1;
    std::memcpy(bytes.data() + slot * sizeof(Message) + offsetof(Message, stamp), &stamp, sizeof stamp);
  }
  must(self.heap().release(self.held.front()));
}

}  // namespace

std::vector<Operation> stream_operations() {
  return {
      {.name = "push",
       .set_up = [](Actor& self) { get_ready_to_push(self, 1000); },
       .act = [](Actor& self) { must(self.producer.push(self.message, self.held.front())); },
       .pushes = 1},
      {.name = "push behind others",
       .set_up = [](Actor& self) { get_ready_to_push(self, three_slots); },
       .act = [](Actor& self) { must(self.producer.push(self.message, self.held.front())); },
       .prepare = stock,
       .pushes = 1},
      {.name = "push without a block",
       .set_up = [](Actor& self) { get_ready_to_push(self, 0); },
       .act = [](Actor& self) { must(self.producer.push(self.message)); },
       .pushes = 1},
      {.name = "push three at once", .set_up = get_three_ready_to_push, .act = push_three, .pushes = 3},
      {.name = "peek",
       .set_up = [](Actor& self) { self.join(), self.consume(*self.lane); },
       .act = [](Actor& self) { must_hold(self.consumer.peek() != nullptr, "there is a message"); },
       .prepare = stock},
      {.name = "pop",
       .set_up = look,
       .act = [](Actor& self) { self.held.push_back(must(self.consumer.pop())); },
       .prepare = stock,
       .pops = 1},
      {.name = "pop without a block",
       .set_up = look,
       .act = [](Actor& self) { must(self.consumer.pop()); },
       .prepare = stock_without_block,
       .pops = 1},
      {.name = "acknowledge",
       .set_up = look,
       .act = [](Actor& self) { must(self.consumer.acknowledge()), self.heap().flush(); },
       .prepare = stock,
       .pops = 1},
      {.name = "acknowledge its own",
       .set_up = [](Actor& self) { self.join(), self.produce(), self.push(1000), self.consume(*self.lane); },
       .act = [](Actor& self) { must(self.consumer.acknowledge()); },
       .pops = 1},
      {.name = "peek at the third",
       .set_up = [](Actor& self) { self.join(), self.consume(*self.lane); },
       .act = [](Actor& self) { must_hold(self.consumer.peek(2) != nullptr, "there is a third message"); },
       .prepare = stock},
      {.name = "pop three at once",
       .set_up = look,
       .act =
           [](Actor& self) {
             self.held.resize(3);
             must_hold(self.consumer.pop_many(self.held) == 3, "there are three messages");
           },
       .prepare = stock,
       .pops = 3},
      {.name = "acknowledge three at once",
       .set_up = look,
       .act =
           [](Actor& self) {
             must_hold(self.consumer.acknowledge_many(3) == 3, "there are three messages");
             self.heap().flush();
           },
       .prepare = stock,
       .pops = 3},
      {.name = "claim the producer's end",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.produce(); },
       .prepare = stock},
      {.name = "give up the producer's end",
       .set_up = [](Actor& self) { self.join(), self.produce(), self.push(1000); },
       .act = [](Actor& self) { self.producer = {}; }},
      {.name = "close the producer's end",
       .set_up = [](Actor& self) { self.join(), self.produce(), self.push(1000); },
       .act = [](Actor& self) { self.producer.close(); }},
      {.name = "claim the consumer's end",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { self.consume(*self.lane); },
       .prepare = stock},
      {.name = "give up the consumer's end",
       .set_up = look,
       .act = [](Actor& self) { self.consumer = {}; },
       .prepare = stock},
      {.name = "create a stream",
       .set_up = dirty_the_next_storage,
       .act = [](Actor& self) { must(create_stream(*self.lane, "another", 16)); },
       .check = [](const Recovered& recovered) { check_name(recovered, "another", 16); }},
      {.name = "create a stream of two units",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { must(create_stream(*self.lane, "another", 2048)); },
       .check = [](const Recovered& recovered) { check_name(recovered, "another", 2048); }},
      {.name = "create a stream that exists",
       .set_up = [](Actor& self) { self.join(); },
       .act =
           [](Actor& self) {
             must_hold(!create_stream(*self.lane, test::stream_name, 16), "the name is taken");
           },
       .prepare = stock},
  };
}

}  // namespace sluice::verify
