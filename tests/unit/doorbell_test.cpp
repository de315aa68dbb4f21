#include "ipc/doorbell.hpp"

#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include <sched.h>
#include <sys/time.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

/// Two threads take turns, sleeping for each other. sleep_until() wakes by itself now and then, so a lost wake-up
/// would only be slow there; here the sleep is long, and one that ends by time is a loss.
struct Turns {
  Doorbell bells[2] = {};
  alignas(64) std::uint64_t turn = 0;  // even: thread 0's
  std::atomic<std::uint64_t> lost{0};
  std::atomic<std::uint64_t> slept{0};

  void play(std::uint64_t self, std::uint64_t rounds) {
    for (std::uint64_t i = 0; i < rounds && lost == 0; ++i) {
      await(self, 2 * i + self);
      store(turn, 2 * i + self + 1, relaxed);
      ring(bells[1 - self]);
    }
  }

  void await(std::uint64_t self, std::uint64_t wanted) {
    auto& bell = bells[self];
    // Mostly sleep at once: that is where a wake-up can be lost.
    for (std::uint64_t spin = wanted % 7 * 30; spin > 0; --spin)
      if (load(turn, relaxed) == wanted) return;
    while (load(turn, relaxed) != wanted) {
      const auto seen = prepare_wait(bell);
      if (load(turn, relaxed) == wanted) return cancel_wait(bell);
      ++slept;
      const auto ended = detail::futex_sleep(bell, seen, 10s);
      cancel_wait(bell);
      if (ended == Status::timeout) ++lost;
      if (lost != 0) return;
    }
  }
};

/// On the nth CPU of those that this process may use: two threads on one CPU do not race.
void stay_on(std::size_t nth) {
  cpu_set_t all, one;
  if (::sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) <= static_cast<int>(nth)) return;
  CPU_ZERO(&one);
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &all) && nth-- == 0) CPU_SET(cpu, &one);
  ::sched_setaffinity(0, sizeof one, &one);
}

/// The one race that matters, again and again: a waker makes the condition true and looks for a sleeper while a
/// sleeper announces itself and looks at the condition. That both miss each other is what must not be.
class Race {
 public:
  void wake() {
    for (std::uint64_t round = 1; meet(); ++round) {
      stagger(round * 0x9e3779b97f4a7c15);
      touch(
          round);  // as a producer's message: its lines were the consumer's, and what follows waits behind them
      store(condition_, round, relaxed);
      ring(bell_);
      if (!meet()) return;
    }
  }

  void sleep(std::uint64_t rounds, steady_clock::time_point deadline) {
    for (std::uint64_t round = 1; round <= rounds && steady_clock::now() < deadline && meet(); ++round) {
      touch(round);
      stagger(round * 0xc2b2ae3d27d4eb4f);
      const auto seen = prepare_wait(bell_);
      const bool saw_condition = load(condition_, relaxed) == round;
      if (!meet()) return;
      const bool was_rung = load(bell_.sequence, relaxed) != seen;
      if (!saw_condition && !was_rung) ++lost;
      (saw_condition ? seen_first : rung_first) += 1;
      cancel_wait(bell_);
    }
    over_ = true;
  }

  std::uint64_t lost = 0, seen_first = 0, rung_first = 0;

 private:
  void touch(std::uint64_t round) {
    for (auto& line : lines_) store(line.word, round, relaxed);
  }

  // Without it one side is always the first, by a cache line's way: now the one, now the other.
  static void stagger(std::uint64_t hash) {
    for (auto steps = hash >> 54; steps > 0; --steps) std::atomic_signal_fence(seq_cst);
  }

  // Both sides leave this at nearly the same time; false when the race is over.
  bool meet() {
    const auto arrived = arrived_.fetch_add(1) + 1;
    const auto both = (arrived + 1) / 2 * 2;
    for (int spins = 0; arrived_.load(std::memory_order_acquire) < both; ++spins) {
      if (over_) return false;
      if (spins > 1000) std::this_thread::yield();
    }
    return true;
  }

  struct alignas(128) Line {
    std::uint64_t word = 0;
  };
  Line lines_[16];
  alignas(128) Doorbell bell_ = {};
  alignas(128) std::uint64_t condition_ = 0;
  alignas(128) std::atomic<std::uint64_t> arrived_{0};
  std::atomic<bool> over_{false};
};

template <class Ready>
Status wait_for(Doorbell& bell, std::chrono::nanoseconds timeout, Ready&& ready) {
  Spin spin;
  return wait_until(spin, bell, timeout, ready);
}

}  // namespace

TEST_CASE("doorbell: a waker and a sleeper never both miss each other", "[ipc][threads]") {
  must(register_waiter());
  Race race;
  {
    const std::jthread waker([&] { stay_on(0), race.wake(); });
    const std::jthread sleeper([&] { stay_on(1), race.sleep(30'000, steady_clock::now() + 4s); });
  }
  CAPTURE(race.seen_first, race.rung_first);
  CHECK(race.lost == 0);
  CHECK(race.seen_first + race.rung_first > 0);
}

TEST_CASE("doorbell: no wake-up is lost between two threads that sleep for each other", "[ipc][threads]") {
  must(register_waiter());
  Turns turns;
  constexpr std::uint64_t rounds = 10'000;
  {
    const std::jthread first([&] { turns.play(0, rounds); });
    const std::jthread second([&] { turns.play(1, rounds); });
  }
  CHECK(turns.lost == 0);
  CHECK(load(turns.turn, relaxed) == 2 * rounds);
  CHECK(turns.slept > 0);
}

TEST_CASE("doorbell: a condition that is true already does not sleep", "[ipc]") {
  must(register_waiter());
  Doorbell bell{};
  const auto begin = steady_clock::now();
  CHECK(wait_for(bell, 10s, [] { return true; }) == Status::ok);
  CHECK(steady_clock::now() - begin < 1s);
  CHECK(load(bell.waiting, relaxed) == 0);
}

TEST_CASE("doorbell: a wait ends at its time when nothing happens, and not before", "[ipc]") {
  must(register_waiter());
  for (const auto timeout : {0ms, 1ms, 60ms, 250ms}) {
    Doorbell bell{};
    const auto begin = steady_clock::now();
    CHECK(wait_for(bell, timeout, [] { return false; }) == Status::timeout);
    const auto took = steady_clock::now() - begin;
    CHECK(took >= timeout);
    CHECK(took < timeout + 2s);
    CHECK(load(bell.waiting, relaxed) == 0);
  }
}

TEST_CASE("doorbell: a signal interrupts the wait", "[ipc]") {
  must(register_waiter());
  struct sigaction action{}, before{};
  action.sa_handler = [](int) {};
  REQUIRE(::sigaction(SIGALRM, &action, &before) == 0);
  // Again and again, because the first one may come before the sleep.
  const itimerval timer{.it_interval = {0, 30'000}, .it_value = {0, 30'000}};
  REQUIRE(::setitimer(ITIMER_REAL, &timer, nullptr) == 0);
  Doorbell bell{};
  const auto ended = wait_for(bell, 20s, [] { return false; });
  const itimerval off{};
  ::setitimer(ITIMER_REAL, &off, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  CHECK(ended == Status::interrupted);
}

TEST_CASE("doorbell: ringing wakes the sleeper at once", "[ipc][threads]") {
  must(register_waiter());
  Doorbell bell{};
  std::uint64_t there = 0;
  const std::jthread ringer([&] {
    while (load(bell.waiting, acquire) == 0) std::this_thread::yield();
    std::this_thread::sleep_for(20ms);
    store(there, 1, release);
    ring(bell);
  });
  const auto begin = steady_clock::now();
  CHECK(wait_for(bell, 20s, [&] { return load(there, acquire) == 1; }) == Status::ok);
  CHECK(steady_clock::now() - begin < 10s);
}

TEST_CASE("doorbell: whoever sees the mark of a sleep finds it announced", "[ipc]") {
  must(register_waiter());
  Doorbell bell{};
  bool was_announced = false;
  (void)prepare_wait(bell, [&] { was_announced = bell.waiting == doorbell_word::asleep(0); });
  CHECK(was_announced);
}

TEST_CASE("doorbell: a sleep is claimed once, also by a waker that died before it rang", "[ipc]") {
  Doorbell bell{};
  CHECK_FALSE(detail::ring_for_one(bell));
  (void)prepare_wait(bell);
  const auto asleep = bell.waiting;
  CHECK_FALSE(detail::ring_for_one(bell));  // announced, but nobody was there to be woken
  CHECK(bell.sequence == 1);
  CHECK(bell.waiting == 0);
  (void)prepare_wait(bell);
  CHECK(bell.waiting != asleep);
  bell.waiting = doorbell_word::claimed(bell.waiting);  // here a waker died
  CHECK_FALSE(detail::ring_for_one(bell));
  CHECK(bell.sequence == 2);  // its duty was done
  CHECK(bell.waiting == 0);
  // A waker that was slow does not clear what the sleeper has announced since.
  (void)prepare_wait(bell);
  const auto slow = bell.waiting;
  cancel_wait(bell);
  ++bell.sequence;
  (void)prepare_wait(bell);
  auto expected = slow;
  CHECK_FALSE(cas(bell.waiting, expected, doorbell_word::claimed(slow), acq_rel));
}

TEST_CASE("doorbell: ringing where nobody sleeps changes nothing", "[ipc]") {
  Doorbell bell{};
  for (int i = 0; i < 10; ++i) ring(bell);
  CHECK(bell.sequence == 0);
  CHECK(bell.waiting == 0);
}

}  // namespace sluice::test
