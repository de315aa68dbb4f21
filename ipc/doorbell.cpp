#include "ipc/doorbell.hpp"

#include <ctime>

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <climits>

namespace sluice {

Expected<void> register_waiter() {
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) != 0)
    return fail_errno("membarrier(REGISTER_GLOBAL_EXPEDITED)");
  [[maybe_unused]] static const bool once = [] {
    detail::spin_ns_limit = detail::spin_ns_allowed();
    return true;
  }();
  return {};
}

namespace detail {

namespace {

// Wake who sleeps, for a sleep that was claimed. Returns how many threads slept.
long wake_claimed(Doorbell& doorbell, std::uint32_t claimed) noexcept {
  fetch_add(doorbell.sequence, 1, release);
  const auto woken = ::syscall(SYS_futex, &doorbell.sequence, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  // Last, so that a waker killed before it leaves the duty to the next one; and only this sleep's announcement,
  // not one that the sleeper has made since.
  cas(doorbell.waiting, claimed, 0, relaxed);
  return woken;
}

}  // namespace

void ring_slow(Doorbell& doorbell) noexcept {
  auto sleep = load(doorbell.waiting, relaxed);
  if (sleep == 0) return;
  const auto claimed = doorbell_word::claimed(sleep);
  cas(doorbell.waiting, sleep, claimed, acq_rel);
  wake_claimed(doorbell, claimed);
}

bool ring_for_one(Doorbell& doorbell) noexcept {
  auto sleep = load(doorbell.waiting, relaxed);
  if (sleep == 0) return false;  // rung by another, or not asleep yet: it will look
  if (doorbell_word::is_claimed(sleep)) {
    ring_slow(doorbell);
    return false;
  }
  const auto claimed = doorbell_word::claimed(sleep);
  // D3 -> D4 (cancel_wait)
  return cas(doorbell.waiting, sleep, claimed, acq_rel) && wake_claimed(doorbell, claimed) > 0;
}

std::uint32_t spin_ns_allowed() noexcept {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  // More CPUs than the set has room for are more than one.
  const bool single = ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) == 1;
  return single ? 0 : spin_ns_max;
}

void barrier_all() noexcept { ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0); }

Status futex_sleep(Doorbell& doorbell, std::uint32_t seen, std::chrono::nanoseconds timeout) noexcept {
  const timespec limit{static_cast<time_t>(timeout.count() / 1'000'000'000),
                       static_cast<long>(timeout.count() % 1'000'000'000)};
  // Not FUTEX_PRIVATE: the waker is another process.
  if (::syscall(SYS_futex, &doorbell.sequence, FUTEX_WAIT, seen, &limit, nullptr, 0) == 0) return Status::ok;
  if (errno == ETIMEDOUT) return Status::timeout;
  return errno == EINTR ? Status::interrupted : Status::ok;
}

}  // namespace detail

}  // namespace sluice
