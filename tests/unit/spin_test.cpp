#include "ipc/spin.hpp"

#include "ipc/doorbell.hpp"
#include "tests/support/child.hpp"
#include "tests/support/must.hpp"

#include <catch2/catch.hpp>

#include <sched.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

// A wait that is over after so many looks; 0: never.
bool look(Spin& spin, int enough, int* looks = nullptr) {
  int n = 0;
  const bool found = spin.until(1s, [&] { return ++n == enough; });
  if (looks != nullptr) *looks = n;
  return found;
}

// What this machine's CPUs allow, whatever process this runs in.
struct MaySpin {
  MaySpin() { detail::spin_ns_limit = spin_ns_max; }
  ~MaySpin() { detail::spin_ns_limit = before; }
  std::uint32_t before = detail::spin_ns_limit;
};

}  // namespace

TEST_CASE("spin: what is in vain is halved, down to a little, and what was enough is doubled", "[ipc]") {
  const MaySpin may;
  Spin spin;
  CHECK(spin.budget_ns() == spin_ns_max);
  for (auto expected = spin_ns_max / 2; expected > spin_ns_min; expected /= 2) {
    CHECK_FALSE(look(spin, 0));
    CHECK(spin.budget_ns() == expected);
  }
  for (int i = 0; i < 5; ++i) CHECK_FALSE(look(spin, 0));
  CHECK(spin.budget_ns() == spin_ns_min);
  CHECK(look(spin, 2));
  CHECK(spin.budget_ns() == 2 * spin_ns_min);
  for (int i = 0; i < 10; ++i) CHECK(look(spin, 2));
  CHECK(spin.budget_ns() == spin_ns_max);
}

TEST_CASE("spin: what is ready is found at the first look, and teaches nothing", "[ipc]") {
  Spin spin;
  int looks = 0;
  CHECK(look(spin, 1, &looks));
  CHECK(looks == 1);
  CHECK(spin.budget_ns() == spin_ns_max);
}

TEST_CASE("spin: a waiter that has given up tries all now and then", "[ipc]") {
  const MaySpin may;
  using Clock = std::chrono::steady_clock;
  const auto needed = std::chrono::nanoseconds(4 * spin_ns_min);
  bool learned = false;
  for (int tries = 0; tries < 100 && !learned; ++tries) {  // a thread that is put aside learns less
    Spin spin;
    for (int i = 0; i < 15; ++i) CHECK_FALSE(look(spin, 0));
    const auto begin = Clock::now();
    learned =
        spin.until(1s, [&] { return Clock::now() - begin >= needed; }) && spin.budget_ns() > 4 * spin_ns_min;
  }
  CHECK(learned);
}

TEST_CASE("spin: a wait that was cut short by its time limit teaches nothing", "[ipc]") {
  const MaySpin may;
  Spin spin;
  CHECK_FALSE(spin.until(100ns, [] { return false; }));
  CHECK_FALSE(spin.until(0ns, [] { return false; }));
  CHECK(spin.budget_ns() == spin_ns_max);
}

TEST_CASE("spin: with a single CPU nobody spins", "[ipc]") {
  const auto ended = run_child([] {
    cpu_set_t cpus;
    if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) ::_exit(1);
    std::size_t first = 0;
    while (!CPU_ISSET(first, &cpus)) ++first;
    const bool had_several = CPU_COUNT(&cpus) > 1;
    if (detail::spin_ns_allowed() != (had_several ? spin_ns_max : 0)) ::_exit(2);
    CPU_ZERO(&cpus);
    CPU_SET(first, &cpus);
    if (::sched_setaffinity(0, sizeof cpus, &cpus) != 0) ::_exit(3);
    if (detail::spin_ns_allowed() != 0) ::_exit(4);
  });
  CHECK(ended.code == 0);
  const MaySpin may;
  detail::spin_ns_limit = 0;
  Spin spin;
  int looks = 0;
  for (int i = 0; i < 40; ++i) {
    CHECK_FALSE(look(spin, 0, &looks));
    CHECK(looks == 1);
  }
}

}  // namespace sluice::test
