// Lost wake-ups, looked for. Many threads, or processes, sleep for each other as often as they can, without looking
// before or during the sleep: one lost wake-up stalls somebody for ten seconds, and the watchdog, which looks at what
// has been done, sees that nothing moves.
#include "tests/support/child.hpp"
#include "tests/unit/waiting_rig.hpp"

#include <catch2/catch.hpp>

#include <functional>
#include <random>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t messages_each = 1000;
#else
constexpr std::uint64_t messages_each = 20'000;
#endif
constexpr std::uint64_t producers = 3, consumers = 3;
constexpr auto sleep_max = 10s;
constexpr auto stall = 6s;  // less than a sleep, and far more than any turn takes on a busy machine

// Also seen by child processes.
struct Progress {
  std::atomic<std::uint64_t> done{0};       // messages taken
  std::atomic<std::uint64_t> producing{0};  // producers that have not ended
  std::atomic<std::uint64_t> faults{0};
  std::atomic<bool> given_up{false};
};

// Until `expected` is done, or nothing moves.
bool watch(Progress& progress, std::uint64_t expected) {
  auto last = progress.done.load();
  auto since = std::chrono::steady_clock::now();
  while (progress.done < expected) {
    std::this_thread::sleep_for(5ms);
    const auto now = std::chrono::steady_clock::now();
    if (progress.done != last) {
      last = progress.done;
      since = now;
    } else if (now - since > stall) {
      progress.given_up = true;
      return false;
    }
  }
  return true;
}

// Now and then a while goes by, so that the others have all gone to sleep.
void pause(std::mt19937& random) {
  const auto chance = random() % 64;
  if (chance == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
  if (chance < 8) std::this_thread::yield();
}

bool wait(Lane& lane, std::span<const WaitSource> sources, Progress& progress) {
  const auto woken = wait_awake(lane, sources, sleep_max);
  if (!woken) ++progress.faults;
  return woken.has_value() && !progress.given_up;
}

void produce_work(Lane& lane, WorkQueue queue, Progress& progress, unsigned seed) {
  std::mt19937 random(seed);
  const auto room = queue.room_source();
  for (std::uint64_t i = 0; i < messages_each;) {
    if (queue.push(plain_message(i)) == Status::ok) {
      ++i;
      pause(random);
    } else if (!wait(lane, std::span(&room, 1), progress)) {
      break;
    }
  }
  if (--progress.producing == 0) queue.close();
}

// One message after each wake-up: what another was woken for is left to it.
void consume_work(Lane& lane, WorkQueue queue, Progress& progress, unsigned seed) {
  std::mt19937 random(seed);
  const auto messages = queue.messages();
  while (!queue.ended()) {
    if (!wait(lane, std::span(&messages, 1), progress)) break;
    const auto lease = queue.take();
    if (!lease) continue;
    pause(random);
    if (queue.acknowledge(*lease) != Status::ok) ++progress.faults;
    ++progress.done;
  }
}

void produce_stream(Lane& lane, StreamProducer& producer, Progress& progress, unsigned seed) {
  std::mt19937 random(seed);
  const auto room = producer.room_source();
  for (std::uint64_t i = 0; i < messages_each;) {
    const auto status = i % 3 == 0 ? producer.push_many(std::vector<Message>(2, plain_message(i))).status
                                   : producer.push(plain_message(i));
    if (status == Status::ok) {
      i += i % 3 == 0 ? 2U : 1U;
      pause(random);
    } else if (!wait(lane, std::span(&room, 1), progress)) {
      break;
    }
  }
  producer.close();
}

// Of all streams and the work queue at once.
void consume_all(Lane& lane, std::vector<StreamConsumer>& streams, WorkQueue& queue, Progress& progress) {
  for (;;) {
    std::vector<WaitSource> sources;
    for (auto& stream : streams)
      if (!stream.ended()) sources.push_back(stream.messages());
    if (!queue.ended()) sources.push_back(queue.messages());
    if (sources.empty() || !wait(lane, sources, progress)) return;
    for (auto& stream : streams) progress.done += stream.acknowledge_many(3);
    if (const auto lease = queue.take(); lease && queue.acknowledge(*lease) == Status::ok) ++progress.done;
  }
}

struct Traffic : Rig {
  Traffic() : work(must(create_work_queue(*lane, "work", {.capacity = 4}))) {}

  OnlyWakeUps only_wake_ups{sleep_max};
  QueueId work;
};

using Body = std::function<void(Lane&)>;

}  // namespace

TEST_CASE("wake-ups: none is lost between threads at both ends of a work queue", "[ipc][waiting][threads]") {
  Traffic traffic;
  Progress progress;
  progress.producing = producers;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < producers + consumers; ++i)
    threads.emplace_back([&, i] {
      const auto mine = traffic.another_lane();
      auto queue = must(WorkQueue::open(*mine, traffic.work));
      i < producers ? produce_work(*mine, std::move(queue), progress, i)
                    : consume_work(*mine, std::move(queue), progress, i);
    });
  CHECK(watch(progress, producers * messages_each));
  for (auto& thread : threads) thread.join();
  CHECK(progress.faults == 0);
  CHECK(progress.done == producers * messages_each);
  const auto& row = queue_row(traffic.segment(), traffic.work.index);
  CAPTURE(row.take_waits, row.push_waits);
  CHECK(row.take_waits + row.push_waits > messages_each / 10);  // else nothing was tried
}

TEST_CASE("wake-ups: none is lost between threads that wait for several queues", "[ipc][waiting][threads]") {
  Traffic traffic;
  Progress progress;
  progress.producing = 1;
  std::vector<StreamConsumer> ends;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<StreamProducer> starts;
  for (const char* name : {"a", "b"}) {
    const auto id = must(create_stream(*traffic.lane, name, 4));
    lanes.push_back(traffic.another_lane());
    ends.push_back(must(StreamConsumer::claim(*traffic.lane, id)));
    starts.push_back(must(StreamProducer::claim(*lanes.back(), id)));
  }
  auto queue = must(WorkQueue::open(*traffic.lane, traffic.work));
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 2; ++i)
      threads.emplace_back([&, i] { produce_stream(*lanes[i], starts[i], progress, i); });
    threads.emplace_back([&] {
      const auto mine = traffic.another_lane();
      produce_work(*mine, must(WorkQueue::open(*mine, traffic.work)), progress, 7);
    });
    threads.emplace_back([&] { consume_all(*traffic.lane, ends, queue, progress); });
    CHECK(watch(progress, 3 * messages_each));
  }
  CHECK(progress.faults == 0);
}

TEST_CASE("wake-ups: none is lost between processes", "[ipc][waiting]") {
  Traffic traffic;
  SharedWithChildren<Progress> progress;
  progress->producing = producers;
  std::vector<std::unique_ptr<Child>> children;
  for (unsigned i = 0; i < producers + consumers; ++i)
    children.push_back(std::make_unique<Child>([&, i](ChildLink&) {
      auto session = must(Session::open(traffic.file.path(), "child"));
      const auto mine = must(session.claim_lane());
      auto queue = must(WorkQueue::open(*mine, traffic.work));
      i < producers ? produce_work(*mine, std::move(queue), *progress, i)
                    : consume_work(*mine, std::move(queue), *progress, i);
    }));
  CHECK(watch(*progress, producers * messages_each));
  for (auto& child : children) CHECK(child->wait().code == 0);
  CHECK(progress->faults == 0);
  CHECK(progress->done == producers * messages_each);
}

}  // namespace sluice::test
