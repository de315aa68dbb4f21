// Deaths while a named queue is made: the name is free again or leads to a whole queue.
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

constexpr std::string_view small_name = "small";
constexpr std::string_view large_name = "large";
constexpr std::uint32_t large_capacity = 3000;  // four units of ring

void create_queues(const std::string& path, Journal&) {
  const Victim self(path);
  must(create_stream(*self.lane, small_name, 8));
  must(create_stream(*self.lane, large_name, large_capacity));
}

void check_names(Stage& stage, std::string_view) {
  for (const auto name : {small_name, large_name}) {
    CAPTURE(name);
    const auto id = must(find_or_create_stream(*stage.lane, name, large_capacity));
    auto producer = must(StreamProducer::claim(*stage.lane, id));
    auto consumer = must(StreamConsumer::claim(*stage.lane, id));
    Message message{};
    message.kind = MessageKind::user;
    must(producer.push(message));
    REQUIRE(consumer.peek() != nullptr);
    CHECK(consumer.peek()->kind == MessageKind::user);
    must(consumer.acknowledge());
  }
}

}  // namespace

std::vector<Scenario> queue_scenarios() {
  return {{.name = "create queues", .act = create_queues, .check = check_names, .units = 20}};
}

TEST_CASE("queue: a death at any crash point of creation leaves the name usable and no storage lost",
          "[ipc][crash]") {
  survive_every_crash(queue_scenarios().front());
}

}  // namespace sluice::test
