// A recovery that was cut short, made whole so that another can begin.
//
// To start one, the driver takes every queue back from the thread that fetched its tags. The driver of Linux 6.12 does
// not expect a queue without such a thread, which a server leaves that was killed after it had started a recovery: with
// none of its queues fetched every further recovery is refused, with some but not all a null pointer is followed. So
// each queue is given a thread that ends at once; queues that have one refuse.
#pragma once

#include "shm/status.hpp"
#include "ublk/ublk_abi.hpp"

#include <cstdint>

namespace sluice {

/// Fetch every tag of the first `queues` queues, where the driver lets us, and leave them as a dead server does. The
/// character device is opened, and may be closed only a moment after this returns.
///
/// errors  busy  a server has it
///         io_error, permission, exhausted  io_uring
Expected<void> fetch_and_abandon(const ublk_abi::DeviceInfo& info, std::uint16_t queues);

/// Whether this driver needs that. Those of Linux 6.16 and newer, known by a feature of theirs, put all queues in order
/// when the character device is closed.
constexpr bool expects_every_queue_fetched(std::uint64_t features) noexcept {
  return (features & ublk_abi::f_quiesce) == 0;
}

}  // namespace sluice
