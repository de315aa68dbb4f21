// Work queues with many threads at once: each message is done once, whoever comes and goes.
#include "tests/unit/work_rig.hpp"

#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t messages_each = 3000;
#else
constexpr std::uint64_t messages_each = 30'000;
#endif

struct Crowd : WorkRig {
  explicit Crowd(std::uint64_t producer_count)
      : WorkRig({.capacity = 32}), producers(producer_count), done(producer_count * messages_each) {}

  // The number's upper half is the producer.
  void produce(std::uint64_t self) {
    const auto mine = another_lane();
    auto by = open(*mine);
    for (std::uint64_t i = 0; i < messages_each;) {
      const auto number = self * messages_each + i;
      const auto status = i % 3 == 0 ? push_block(by, *mine, number, 64) : by.push(work_message(number));
      if (status == Status::ok)
        ++i;
      else
        wait(*mine, by.room_source());
    }
    if (--producers == 0) by.close();
  }

  // Most are done; some are given back, and now and then the lane goes with leases in hand.
  void consume(unsigned seed) {
    std::mt19937 random(seed);
    while (true) {
      const auto mine = another_lane();
      auto by = open(*mine);
      for (int life = 0; life < 2000; ++life) {
        const auto lease = by.take();
        if (!lease) {
          if (by.ended()) return;
          wait(*mine, by.messages());
          continue;
        }
        const auto number = by.message(*lease)->position;
        const auto chance = random() % 16;
        if (chance == 0) {
          if (by.reject(*lease) != Status::ok) ++faults;
        } else if (chance == 1) {
          const auto block = by.keep(*lease);
          if (!block) ++faults;
          ++done[number];
          if (*block && mine->heap().release(*block) != Status::ok) ++faults;
        } else if (chance != 2 || life < 1998) {
          const auto bytes = by.bytes(*lease);
          if (!bytes.empty() && !has_pattern(bytes, number)) ++faults;
          if (by.acknowledge(*lease) != Status::ok) ++faults;
          ++done[number];
        }
      }
    }
  }

  void wait(Lane& by, const WaitSource& source) {
    const auto woken = wait_any(by, std::span(&source, 1), 10s);
    if (!woken && woken.error() == Status::timeout) ++faults;
  }

  std::atomic<std::uint64_t> producers;
  std::vector<std::atomic<std::uint32_t>> done;
  std::atomic<std::uint64_t> faults{0};
};

}  // namespace

TEST_CASE("work: many threads, each message is done once", "[ipc][work][threads]") {
  Crowd crowd(2);
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 2; ++i) threads.emplace_back([&, i] { crowd.produce(i); });
  for (unsigned i = 0; i < 3; ++i) threads.emplace_back([&, i] { crowd.consume(i); });
  for (auto& thread : threads) thread.join();
  CHECK(crowd.faults == 0);
  std::uint64_t wrong = 0;
  for (const auto& times : crowd.done) wrong += times == 1 ? 0U : 1U;
  CHECK(wrong == 0);
  crowd.check_sound();
  CHECK(take_census(crowd.segment()).live.empty());
}

TEST_CASE("work: one consumer sees the messages of each producer in order", "[ipc][work][threads]") {
  WorkRig rig({.capacity = 256});
  const auto lanes = {rig.another_lane(), rig.another_lane()};
  std::vector<std::thread> threads;
  std::uint64_t self = 0;
  for (const auto& lane : lanes)
    threads.emplace_back([&, by = rig.open(*lane), self = self++]() mutable {
      for (std::uint64_t i = 0; i < messages_each;)
        if (by.push(work_message(self << 32 | i)) == Status::ok) ++i;
    });
  std::uint64_t next[2] = {}, wrong = 0;
  while (next[0] + next[1] < 2 * messages_each) {
    const auto lease = rig.peer.take();
    if (!lease) continue;
    const auto number = rig.peer.message(*lease)->position;
    wrong += next[number >> 32]++ == (number & 0xffffffff) ? 0U : 1U;
    must(rig.peer.acknowledge(*lease));
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("work: producers that wait for room get it in turns", "[ipc][work][threads]") {
  WorkRig rig({.capacity = 4});
  for (std::uint64_t i = 0; i < 4; ++i) must(rig.queue.push(work_message(99)));
  constexpr std::uint64_t rounds = 60;
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> pushed[3] = {};
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 3; ++i) lanes.push_back(rig.another_lane());
  for (std::uint64_t i = 0; i < 3; ++i)
    threads.emplace_back([&, i] {
      auto by = rig.open(*lanes[i]);
      const auto source = by.room_source();
      while (!over) {
        if (by.push(work_message(i)) == Status::ok)
          ++pushed[i];
        else
          (void)wait_any(*lanes[i], std::span(&source, 1), 50ms);
      }
    });
  const auto all_sleep = [&] {
    for (const auto& lane : lanes)
      if (load(lane->row().doorbell.waiting, seq_cst) == 0) return false;
    return true;
  };
  // One place at a time, and only when all three wait for it.
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const auto before = pushed[0] + pushed[1] + pushed[2];
    while (!all_sleep()) std::this_thread::yield();
    must(rig.queue.acknowledge(must(rig.queue.take())));
    while (pushed[0] + pushed[1] + pushed[2] == before) std::this_thread::yield();
  }
  over = true;
  rig.queue.close();
  for (auto& thread : threads) thread.join();
  for (const auto& count : pushed) CHECK(count >= 2);  // of 60, a fair share is 20; who starves has none
}

}  // namespace sluice::test
