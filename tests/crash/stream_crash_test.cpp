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
  };
}

TEST_CASE("stream: a death at any crash point leaves no gap, no double and no leak", "[ipc][crash]") {
  const auto scenarios = stream_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

}  // namespace sluice::test
