// The worker loop between two queues of any kind: what goes on, what does not, and what is shown again.
#include "runtime/worker.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <map>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct Stages : Rig {
  Stages() : worker(another_lane()), last(another_lane()) {}

  void create(std::string_view kind, std::string_view name, std::uint32_t capacity,
              QueuePolicy policy = QueuePolicy::block) const {
    if (kind == "stream") must(create_stream(*lane, name, capacity, policy));
    if (kind == "work") must(create_work_queue(*lane, name, {.capacity = capacity, .policy = policy}));
    if (kind == "broadcast") must(create_broadcast(*lane, name, {.capacity = capacity}));
  }
  /// Publish messages 0 to `count` - 1, with a block each, and close the queue.
  void fill(std::string_view name, std::uint64_t count, std::size_t bytes = 100) const {
    auto producer = must(Producer::open(*lane, name));
    for (std::uint64_t i = 0; i < count; ++i) {
      auto block = must(producer.allocate(bytes));
      fill_pattern(block.bytes(), i);
      Message message{};
      message.position = message.flow = i;
      must(producer.publish(std::move(block), message, 5s));
    }
    producer.close();
  }
  WorkerReport run(const Handler& handler, std::vector<std::string> into, bool stopping = false) const {
    const std::atomic<bool> stop{stopping};
    return must(run_worker(*worker, {.from = {"from"}, .into = std::move(into)}, handler, stop));
  }
  void check_sound() {
    for (auto* of : {&lane, &worker, &last}) (*of)->heap().flush();
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::unique_ptr<Lane> worker, last;
};

Verdict pass(Delivery&) { return Verdict::pass(); }

}  // namespace

TEST_CASE("stage: a message goes on with the same block, changed in place, from any kind into any",
          "[runtime][stage]") {
  const std::string from = GENERATE("stream", "work", "broadcast");
  const std::string into = GENERATE("stream", "work", "broadcast");
  CAPTURE(from, into);
  Stages stages;
  stages.create(from, "from", 8);
  stages.create(into, "into", 8);
  auto consumer = must(Consumer::open(*stages.last, "into"));
  std::map<std::uint64_t, std::uint64_t> blocks;
  const std::atomic<bool> stop{false};
  Expected<WorkerReport> report;
  std::atomic<bool> open{false};  // a subscriber must be there before what it is to read
  std::thread serving([&] {
    report = run_worker(
        *stages.worker, {.from = {"from"}, .into = {"into"}, .opened = [&] { open = true; }},
        [&](Delivery& delivery) {
          blocks[delivery.message.position] = delivery.message.handle;
          if (const auto bytes = delivery.writable(); !bytes.empty())
            fill_pattern(bytes, delivery.message.position + 1000);
          delivery.onward.detail = 7;
          return Verdict::pass();
        },
        stop);
  });
  while (!open) std::this_thread::yield();
  stages.fill("from", 6);
  serving.join();
  CHECK(must(report).messages == 6);
  CHECK(must(report).bytes == 600);
  for (std::uint64_t i = 0; i < 6; ++i) {
    auto received = must(consumer.receive(5s));
    CHECK(received.message().position == i);
    CHECK(received.message().detail == 7);
    CHECK(received.message().handle == blocks[i]);
    CHECK(has_pattern(received.bytes(), from == "broadcast" ? i : i + 1000));
    must(received.acknowledge());
  }
  stages.check_sound();
}

TEST_CASE("stage: a flow keeps to one of several streams, and what concerns all flows goes into all",
          "[runtime][stage]") {
  Stages stages;
  stages.create("work", "from", 16);
  for (const auto* name : {"s.0", "s.1", "s.2"}) stages.create("stream", name, 16);
  {
    auto queue = must(Producer::open(*stages.lane, "from"));
    Message restart{};
    restart.kind = MessageKind::restart;
    restart.flow = 1;
    must(queue.publish(restart));
  }
  stages.fill("from", 9);
  CHECK(stages.run(pass, {"s.0", "s.1", "s.2"}).messages == 10);
  for (std::uint64_t i = 0; i < 3; ++i) {
    auto consumer = must(Consumer::open(*stages.last, "s." + std::to_string(i)));
    CHECK(must(consumer.receive(0s)).message().kind == MessageKind::restart);
    must(must(consumer.receive(0s)).acknowledge());
    for (std::uint64_t flow = i; flow < 9; flow += 3) {
      auto received = must(consumer.receive(0s));
      CHECK(received.message().flow == flow);
      must(received.acknowledge());
    }
    CHECK(consumer.try_receive().error() == Status::empty);
  }
  stages.check_sound();
}

TEST_CASE("stage: where the next queue does not wait, what finds no room is done, and counted",
          "[runtime][stage]") {
  Stages stages;
  const std::string into = GENERATE("stream", "work");
  stages.create("work", "from", 16);
  stages.create(into, "into", 4, QueuePolicy::fail);
  stages.fill("from", 10);
  const auto report = stages.run(pass, {"into"});
  CHECK(report.messages == 10);
  CHECK(report.refused == 6);
  const auto& row = queue_row(stages.segment(), must(find_queue(stages.segment(), "into")).index);
  CHECK(load(row.refused, relaxed) == 6);
  stages.check_sound();
}

TEST_CASE("stage: one that is to stop does not wait for room for ever, and loses nothing",
          "[runtime][stage]") {
  Stages stages;
  const std::string from = GENERATE("stream", "work");
  stages.create(from, "from", 16);
  stages.create("work", "into", 2);
  stages.fill("from", 5);
  const auto report = stages.run(pass, {"into"}, true);
  CHECK(report.ended == Status::full);
  CHECK(report.messages == 2);
  std::uint64_t left = 0;
  auto consumer = must(Consumer::open(*stages.last, "from"));
  for (;; ++left) {
    auto next = consumer.try_receive();
    if (!next) break;
    must(next->acknowledge());
  }
  CHECK(left == 3);
  stages.check_sound();
}

TEST_CASE("stage: done ends a message here, again brings it back until its limit", "[runtime][stage]") {
  Stages stages;
  must(create_work_queue(*stages.lane, "dead", {.capacity = 8}));
  must(create_work_queue(*stages.lane, "from", {.capacity = 8, .deliveries_max = 3, .dead_letter = "dead"}));
  stages.create("work", "into", 8);
  stages.fill("from", 3);
  std::map<std::uint64_t, std::uint32_t> shown;
  const auto report = stages.run(
      [&](Delivery& delivery) {
        CHECK(delivery.deliveries == shown[delivery.message.position]++);
        if (delivery.message.position == 0) return Verdict::done();
        return delivery.message.position == 1 ? Verdict::again() : Verdict::pass();
      },
      {"into"});
  CHECK(report.messages == 2);
  CHECK(shown[1] == 3);
  CHECK(must(Consumer::open(*stages.last, "into")).receive(0s)->message().position == 2);
  CHECK(must(Consumer::open(*stages.last, "dead")).receive(0s)->message().position == 1);
  stages.check_sound();
}

TEST_CASE("stage: a second producer of a stream is an error that names it", "[runtime][stage]") {
  Stages stages;
  stages.create("work", "from", 8);
  stages.create("stream", "into", 8);
  const auto first = must(Producer::open(*stages.last, "into"));
  const std::atomic<bool> stop{true};
  const auto report = run_worker(*stages.worker, {.from = {"from"}, .into = {"into"}}, pass, stop);
  REQUIRE_FALSE(report);
  CHECK(report.error().status == Status::busy);
  CHECK(report.error().message.find("queue into") != std::string::npos);
}

}  // namespace sluice::test
