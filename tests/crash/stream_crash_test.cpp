// Deaths while messages move into a stream or out of it.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

constexpr std::size_t sizes[] = {100, 0, 5000, 2 * unit_bytes, 0, 64};

void produce(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto producer = self.producer(*self.lane);
  for (const auto bytes : sizes) push_numbered(*self.lane, producer, journal, bytes);
}

void stock(Stage& stage) {
  auto producer = must(StreamProducer::claim(*stage.lane, stage.stream));
  for (const auto bytes : sizes) push_numbered(*stage.lane, producer, *stage.journal, bytes);
}

void consume_by_pop(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  std::vector<Reference> taken;  // held until the end: the ledger is full of them at most points
  while (consumer.peek() != nullptr) {
    taken.push_back(must(consumer.pop()));
    ++journal.popped;
  }
  for (const auto& reference : taken)
    if (reference) must(self.lane->heap().release(reference));
}

void consume_by_acknowledge(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  for (int i = 0; i < 3; ++i) {
    must_hold(consumer.peek() != nullptr, "there is a message");
    must(consumer.acknowledge());
    ++journal.popped;
  }
  self.lane->heap().flush();
}

constexpr std::size_t batch_sizes[] = {100, 300, 5000};

void produce_batch(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto producer = self.producer(*self.lane);
  std::vector<Message> messages;
  std::vector<Reference> references;
  for (const auto bytes : batch_sizes) {
    Message message{};
    message.kind = MessageKind::data;
    message.position = producer.tail() + messages.size();
    message.length = static_cast<std::uint32_t>(bytes);
    references.push_back(must(self.lane->heap().allocate(bytes)));
    fill_pattern(self.lane->heap().bytes(references.back()).first(bytes), message.position);
    messages.push_back(message);
  }
  must(producer.push_many(messages, references).status);
  journal.pushed += messages.size();
}

void stock_batch(Stage& stage) {
  auto producer = must(StreamProducer::claim(*stage.lane, stage.stream));
  for (const auto bytes : batch_sizes) push_numbered(*stage.lane, producer, *stage.journal, bytes);
  push_numbered(*stage.lane, producer, *stage.journal, 64);
}

void pop_batch(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  Reference taken[std::size(batch_sizes)];
  must_hold(consumer.pop_many(taken) == std::size(taken), "there are so many");
  journal.popped += std::size(taken);
  for (const auto& reference : taken) must(self.lane->heap().release(reference));
}

void acknowledge_batch(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  must_hold(consumer.acknowledge_many(std::size(batch_sizes)) == std::size(batch_sizes), "there are so many");
  journal.popped += std::size(batch_sizes);
  self.lane->heap().flush();
}

void peek_ahead(const std::string& path, Journal& /*journal*/) {
  const Victim self(path);
  auto consumer = self.consumer(*self.lane);
  must_hold(consumer.peek(2) != nullptr, "there is a third message");
}

void check_redelivery_ahead(Stage& stage, std::string_view point) {
  if (point != "stream.peek.marked") return;
  auto consumer = must(StreamConsumer::claim(*stage.lane, stage.stream));
  CHECK(consumer.redelivered(2));
  CHECK_FALSE(consumer.redelivered(3));
}

// What was shown and not acknowledged is marked as such for the successor, and nothing else is.
void check_redelivery(Stage& stage, std::string_view point) {
  if (point != "stream.peek.marked") return;
  auto consumer = must(StreamConsumer::claim(*stage.lane, stage.stream));
  REQUIRE(consumer.peek() != nullptr);
  CHECK(consumer.redelivered());
  must(consumer.acknowledge());
  REQUIRE(consumer.peek() != nullptr);
  CHECK_FALSE(consumer.redelivered());
}

}  // namespace

std::vector<Scenario> stream_scenarios() {
  return {
      {.name = "produce", .act = produce, .units = 16},
      {.name = "consume by pop",
       .act = consume_by_pop,
       .prepare = stock,
       .check = check_redelivery,
       .units = 16},
      {.name = "consume by acknowledge",
       .act = consume_by_acknowledge,
       .prepare = stock,
       .check = check_redelivery,
       .units = 16,
       .acknowledges = true},
      {.name = "produce a batch", .act = produce_batch, .units = 16, .batch = std::size(batch_sizes)},
      {.name = "pop a batch",
       .act = pop_batch,
       .prepare = stock_batch,
       .units = 16,
       .batch = std::size(batch_sizes)},
      {.name = "acknowledge a batch",
       .act = acknowledge_batch,
       .prepare = stock_batch,
       .units = 16,
       .acknowledges = true,
       .batch = std::size(batch_sizes)},
      {.name = "peek ahead",
       .act = peek_ahead,
       .prepare = stock,
       .check = check_redelivery_ahead,
       .units = 16},
  };
}

TEST_CASE("stream: a death at any crash point leaves no gap, no double and no leak", "[ipc][crash]") {
  const auto scenarios = stream_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

}  // namespace sluice::test
