// How long a waiter looks before it sleeps. A sleep costs both sides system calls, and the sleeper the time to get a
// CPU back; looking costs the CPU meanwhile. Looking for as long as a sleep costs is never worse than twice the best.
// So that is the most, and how much of it is used is learned: twice as much after it was enough, half after it was in
// vain. Every sixteenth time in vain all of it is tried, or a waiter that had given up would not see that times have
// changed. docs/performance.md#waiting has the figures.
// Thread safety: one Spin belongs to one thread.
// source: Karlin, Manasse, McGeoch, Owicki 1991; halt polling of KVM
#pragma once

#include "shm/atomic.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstdint>

namespace sluice {

inline constexpr std::uint32_t spin_ns_min = 1'000;
inline constexpr std::uint32_t spin_ns_max = 20'000;

namespace detail {
/// What a process that has the CPUs of the calling thread may spin: nothing with a single one, because whoever it
/// waits for cannot run meanwhile.
std::uint32_t spin_ns_allowed() noexcept;
/// As found when this process registered to wait. Threads that are pinned later do not change it.
inline std::atomic<std::uint32_t> spin_ns_limit{spin_ns_max};
}  // namespace detail

class Spin {
 public:
  /// Look until `ready()` is true, at most for the time that looking has been worth, or `limit`.
  template <std::predicate Ready>
  bool until(std::chrono::nanoseconds limit, Ready&& ready) noexcept {
    if (ready()) return true;
    const std::chrono::nanoseconds mine(this_time());
    const auto budget = std::min(mine, limit);
    if (budget <= std::chrono::nanoseconds::zero()) return false;
    const auto begin = Clock::now();
    auto now = begin;
    do {
      for (int i = 0; i < looks_per_clock; ++i) {
        cpu_relax();
        if (!ready()) continue;
        was_enough(now - begin);
        return true;
      }
      now = Clock::now();
    } while (now - begin < budget);
    if (budget == mine) was_in_vain();
    return false;
  }

  /// What it would look for next, but for the times that try all.
  std::uint32_t budget_ns() const noexcept { return budget_ns_; }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int looks_per_clock = 8;  // a look and a pause take some 50 ns, reading the clock 30
  static constexpr std::uint32_t try_all_every = 16;

  std::uint32_t this_time() const noexcept {
    const auto allowed = detail::spin_ns_limit.load(relaxed);
    return std::min(allowed, in_vain_ % try_all_every == try_all_every - 1 ? spin_ns_max : budget_ns_);
  }
  // At least twice what it took: a try of all may have taken many times the budget.
  void was_enough(std::chrono::nanoseconds took) noexcept {
    const auto needed = static_cast<std::uint32_t>(std::min<std::int64_t>(took.count(), spin_ns_max));
    budget_ns_ = std::min(2 * std::max(budget_ns_, needed), spin_ns_max);
    in_vain_ = 0;
  }
  void was_in_vain() noexcept {
    budget_ns_ = std::max(budget_ns_ / 2, spin_ns_min);
    ++in_vain_;
  }

  std::uint32_t budget_ns_ = spin_ns_max;
  std::uint32_t in_vain_ = 0;  // times, one after the other
};

}  // namespace sluice
