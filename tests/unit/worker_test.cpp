#include "runtime/worker.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <csignal>
#include <map>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct WorkerRig : Rig {
  WorkerRig() : queue(must(create_stream(*lane, "work", 32))), worker(another_lane()) {}

  StreamProducer producer() { return must(StreamProducer::claim(*lane, queue)); }

  /// Push the message `number`: its block holds its pattern from `offset` on.
  void push(StreamProducer& to, std::uint64_t number, std::size_t bytes = 500, std::uint32_t offset = 0) {
    Message message{};
    message.kind = MessageKind::data;
    message.position = number;
    message.offset = offset;
    message.length = static_cast<std::uint32_t>(bytes);
    const auto reference = must(heap().allocate(offset + bytes));
    fill_pattern(heap().bytes(reference).subspan(offset, bytes), number);
    must(to.push(message, reference));
  }

  Expected<WorkerReport> run(const Handler& handler, bool stop = true) {
    const std::atomic<bool> stopping{stop};
    return run_worker(*worker, {.from = {"work"}}, handler, stopping);
  }

  QueueId queue;
  std::unique_ptr<Lane> worker;
};

}  // namespace

TEST_CASE("worker: the handler sees each message once, in order, with its bytes in place", "[runtime]") {
  WorkerRig rig;
  auto producer = rig.producer();
  for (std::uint64_t i = 0; i < 20; ++i) rig.push(producer, i, 100 + i, static_cast<std::uint32_t>(i * 3));
  Message plain{};
  plain.kind = MessageKind::close;
  plain.position = 20;
  must(producer.push(plain));
  std::uint64_t next = 0, bytes = 0;
  bool right = true;
  const auto report = must(rig.run([&](const Delivery& delivery) {
    right &= delivery.message.position == next && !delivery.redelivered;
    right &= next == 20 ? delivery.bytes.empty() && delivery.message.kind == MessageKind::close
                        : delivery.bytes.size() == 100 + next && has_pattern(delivery.bytes, next);
    bytes += delivery.bytes.size();
    ++next;
    return Status::ok;
  }));
  CHECK(right);
  CHECK(next == 21);
  CHECK(report.messages == 21);
  CHECK(report.bytes == bytes);
  CHECK(report.redelivered == 0);
  CHECK(report.ended == Status::ok);
  CHECK(take_census(rig.segment()).live.empty());  // all acknowledged
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("worker: it serves until the stream has ended, sleeping when there is nothing",
          "[runtime][threads]") {
  WorkerRig rig;
  constexpr std::uint64_t count = 300;
  std::atomic<bool> failed{false};
  {
    const std::jthread feeder([&] {
      try {
        auto producer = rig.producer();
        for (std::uint64_t i = 0; i < count;) {
          if (producer.room() == 0) {
            std::this_thread::yield();
            continue;
          }
          rig.push(producer, i++);
          if (i % 100 == 0) std::this_thread::sleep_for(20ms);
        }
        producer.close();
      } catch (const std::exception&) {
        failed = true;
      }
    });
    std::uint64_t next = 0;
    const auto report = must(rig.run(
        [&](const Delivery& delivery) {
          if (delivery.message.position != next || !has_pattern(delivery.bytes, next)) failed = true;
          ++next;
          return Status::ok;
        },
        false));
    CHECK(report.messages == count);
  }
  CHECK_FALSE(failed);
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("worker: what the handler refuses stays, and the next worker is told that it was shown",
          "[runtime]") {
  WorkerRig rig;
  auto producer = rig.producer();
  for (std::uint64_t i = 0; i < 5; ++i) rig.push(producer, i);
  const auto first = must(rig.run([&](const Delivery& delivery) {
    return delivery.message.position < 2 ? Status::ok : Status::io_error;
  }));
  CHECK(first.ended == Status::io_error);
  CHECK(first.messages == 2);
  CHECK(take_census(rig.segment()).live.size() == 3);
  CHECK(audit(rig.segment()).violations.empty());
  std::map<std::uint64_t, bool> shown;
  const auto second = must(rig.run([&](const Delivery& delivery) {
    shown[delivery.message.position] = delivery.redelivered;
    return Status::ok;
  }));
  CHECK(second.messages == 3);
  CHECK(second.redelivered == 1);
  CHECK(shown == std::map<std::uint64_t, bool>{{2, true}, {3, false}, {4, false}});
}

TEST_CASE("worker: what a killed worker had not acknowledged is shown again, marked", "[runtime]") {
  WorkerRig rig;
  rig.worker.reset();
  auto producer = rig.producer();
  for (std::uint64_t i = 0; i < 10; ++i) rig.push(producer, i);
  const auto ended = run_child([&] {
    auto session = must(Session::open(rig.file.path(), "worker"));
    const auto lane = must(session.claim_lane());
    const std::atomic<bool> stop{true};
    must(run_worker(
        *lane, {.from = {"work"}},
        [](const Delivery& delivery) {
          if (delivery.message.position == 4) ::raise(SIGKILL);
          return Status::ok;
        },
        stop));
  });
  REQUIRE(ended.signal == SIGKILL);
  CHECK(rig.session.recover_dead().roles == 1);
  rig.worker = rig.another_lane();
  std::vector<std::uint64_t> shown, again;
  const auto report = must(rig.run([&](const Delivery& delivery) {
    shown.push_back(delivery.message.position);
    if (delivery.redelivered) again.push_back(delivery.message.position);
    return has_pattern(delivery.bytes, delivery.message.position) ? Status::ok : Status::corrupt;
  }));
  CHECK(report.ended == Status::ok);
  CHECK(shown == std::vector<std::uint64_t>{4, 5, 6, 7, 8, 9});
  CHECK(again == std::vector<std::uint64_t>{4});
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("worker: several streams are served in turn, none waits for another's end", "[runtime]") {
  WorkerRig rig;
  const auto other = must(create_stream(*rig.lane, "other", 32));
  auto first = rig.producer();
  auto second = must(StreamProducer::claim(*rig.lane, other));
  for (std::uint64_t i = 0; i < 20; ++i) {
    rig.push(first, i);
    rig.push(second, 100 + i);
  }
  std::vector<std::uint64_t> shown;
  const std::atomic<bool> stop{true};
  const auto report = must(run_worker(
      *rig.worker, {.from = {"work", "other"}, .batch = 4},
      [&](const Delivery& delivery) {
        shown.push_back(delivery.message.position);
        return Status::ok;
      },
      stop));
  CHECK(report.messages == 40);
  const auto begin_of_other = std::ranges::find(shown, 100U) - shown.begin();
  CHECK(begin_of_other <= 4);
  std::vector<std::uint64_t> of_first, of_second;
  for (const auto number : shown) (number < 100 ? of_first : of_second).push_back(number);
  CHECK(std::ranges::is_sorted(of_first));
  CHECK(std::ranges::is_sorted(of_second));
}

TEST_CASE("worker: a stream that is missing or has a worker already is an error that names it", "[runtime]") {
  WorkerRig rig;
  const std::atomic<bool> stop{true};
  const auto nothing = [](const Delivery&) { return Status::ok; };
  const auto missing = run_worker(*rig.worker, {.from = {"nowhere"}}, nothing, stop);
  REQUIRE_FALSE(missing);
  CHECK(missing.error().status == Status::not_found);
  CHECK(missing.error().message.find("nowhere") != std::string::npos);
  const auto consumer = must(StreamConsumer::claim(*rig.lane, rig.queue));
  const auto busy = rig.run(nothing);
  REQUIRE_FALSE(busy);
  CHECK(busy.error().status == Status::busy);
  CHECK(busy.error().message.find("work") != std::string::npos);
}

TEST_CASE("worker: a message that names no live block, or bytes outside of it, is an error, not a crash",
          "[runtime]") {
  WorkerRig rig;
  auto producer = rig.producer();
  rig.push(producer, 0);
  auto& message = message_slot(rig.segment(), queue_row(rig.segment(), rig.queue.index), 0);
  const auto sound = message;
  SECTION("dead block") { message.handle += std::uint64_t{1} << 40; }
  SECTION("no block at all") { message.handle = ~std::uint64_t{0}; }
  SECTION("too long") { message.length = 0xffffffff; }
  SECTION("begins outside") { message.offset = 0xffffffff; }
  SECTION("both") { message.offset = message.length = 0xffffffff; }
  bool shown = false;
  const auto report = rig.run([&](const Delivery&) {
    shown = true;
    return Status::ok;
  });
  CHECK_FALSE(shown);
  REQUIRE_FALSE(report);
  CHECK(report.error().status == Status::corrupt);
  CHECK(report.error().message.find("work") != std::string::npos);
  message = sound;
}

}  // namespace sluice::test
