#include "ipc/doorbell.hpp"

#include <ctime>

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <climits>

namespace sluice {

Expected<void> register_waiter() {
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) != 0)
    return fail_errno("membarrier(REGISTER_GLOBAL_EXPEDITED)");
  return {};
}

namespace detail {

void ring_slow(Doorbell& doorbell) noexcept {
  auto sleep = load(doorbell.waiting, relaxed);
  fetch_add(doorbell.sequence, 1, release);
  ::syscall(SYS_futex, &doorbell.sequence, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  // Last, so that a waker killed before it leaves the duty to the next one; and only this sleep's announcement,
  // not one that the sleeper has made since.
  cas(doorbell.waiting, sleep, 0, relaxed);
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
