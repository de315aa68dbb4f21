// Who waits for nothing uses no processor. What is measured is the time that this process used, not that went by.
#include "ipc/event_bridge.hpp"
#include "runtime/worker.hpp"
#include "tests/unit/waiting_rig.hpp"

#include <catch2/catch.hpp>

#include <ctime>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr double share_max = 0.05;
#else
constexpr double share_max = 0.01;
#endif

std::chrono::nanoseconds used(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

/// The share of one CPU that this process uses while it waits for two seconds.
double share_used_meanwhile() {
  std::this_thread::sleep_for(50ms);  // threads begin
  const auto cpu = used(CLOCK_PROCESS_CPUTIME_ID), time = used(CLOCK_MONOTONIC);
  std::this_thread::sleep_for(2s);
  return static_cast<double>((used(CLOCK_PROCESS_CPUTIME_ID) - cpu).count()) /
         static_cast<double>((used(CLOCK_MONOTONIC) - time).count());
}

}  // namespace

TEST_CASE("idle: consumers of empty queues, and a bridge, use less than a hundredth of a core",
          "[ipc][waiting]") {
  Rig rig;
  const auto work = must(create_work_queue(*rig.lane, "work", {.capacity = 8}));
  const auto stream = must(create_stream(*rig.lane, "stream", 8));
  std::vector<std::unique_ptr<Lane>> lanes;
  for (int i = 0; i < 4; ++i) lanes.push_back(rig.another_lane());
  auto consumer = must(StreamConsumer::claim(*lanes[0], stream));
  auto to_bridge = must(WorkQueue::open(*rig.lane, work));
  const auto bridge = must(EventBridge::start(rig.segment(), rig.session.membership(),
                                              std::vector<WaitSource>{to_bridge.messages()}));
  bridge->arm();
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    const auto source = consumer.messages();
    (void)wait_any(*lanes[0], std::span(&source, 1), 20s);
  });
  for (std::size_t i = 1; i < lanes.size(); ++i)
    threads.emplace_back([&, i] {
      auto queue = must(WorkQueue::open(*lanes[i], work));
      const auto source = queue.messages();
      (void)wait_any(*lanes[i], std::span(&source, 1), 20s);
    });
  CHECK(share_used_meanwhile() < share_max);
  to_bridge.close();
  must(StreamProducer::claim(*rig.lane, stream)).close();
  for (auto& thread : threads) thread.join();
}

TEST_CASE("idle: a worker of which one stream has ended sleeps for the other", "[runtime][waiting]") {
  Rig rig;
  const auto worker = rig.another_lane();
  std::vector<StreamProducer> producers;
  for (const char* name : {"over", "open"})
    producers.push_back(must(StreamProducer::claim(*rig.lane, must(create_stream(*rig.lane, name, 8)))));
  producers[0].close();
  const std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> served{0};
  std::thread thread([&] {
    (void)run_worker(
        *worker, {.from = {"over", "open"}},
        [&](const Delivery&) {
          ++served;
          return Status::ok;
        },
        stop);
  });
  CHECK(share_used_meanwhile() < share_max);
  CHECK(load(worker->counters().sleeps, relaxed) > 0);
  must(producers[1].push(plain_message()));
  producers[1].close();
  thread.join();
  CHECK(served == 1);
}

}  // namespace sluice::test
