// The slots of a work queue as values: each stamp read once, checked, and put in order of position.
#pragma once

#include "ipc/work_layout.hpp"
#include "shm/segment.hpp"

#include <cstdint>
#include <functional>
#include <vector>

namespace sluice::tools {

struct QueueEntry;

/// A slot that is not empty.
struct WorkSlot {
  std::uint64_t position = 0;
  WorkState state = WorkState::empty;
  std::uint64_t lane = 0;        // writing, leased: whose it is
  std::uint64_t deliveries = 0;  // times that it was delivered before; 255: or more
  std::uint64_t handle = 0;      // 0: no block, or it is being written
  std::uint64_t bytes = 0;       // that the message tells of
  std::uint64_t receive_ns = 0;  // as QueuedBlock
};

/// What one lane has leased.
struct WorkLeases {
  std::uint64_t lane = 0;
  std::uint64_t count = 0;
  WorkSlot oldest;
};

struct WorkSlots {
  std::uint64_t waiting = 0;
  std::uint64_t leased = 0;
  std::uint64_t writing = 0;
  std::uint64_t parked = 0;      // of those that wait: delivered as often as the limit allows
  std::uint64_t unreadable = 0;  // stamps that cannot be
  std::uint64_t span = 0;  // positions from the oldest slot in use to tail; as many as slots: it is full
  std::vector<WorkLeases> leases;
  std::vector<WorkSlot> redelivered;  // messages that were delivered before, waiting or leased
  WorkSlot oldest;                    // slot in use, if any is
  WorkSlot oldest_waiting;            // if any waits

  std::uint64_t in_use() const noexcept { return waiting + leased + writing; }
};

/// Call `visit` for each slot in use of a work queue that is not broken, by position. Returns how many stamps cannot
/// be: of no state, of another slot's positions, or too far from tail.
std::uint64_t visit_work_slots(const Segment& segment, const QueueEntry& queue,
                               const std::function<void(const WorkSlot&)>& visit);

WorkSlots read_work_slots(const Segment& segment, const QueueEntry& queue);

}  // namespace sluice::tools
