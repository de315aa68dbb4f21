// What became of a queue between two looks at it.
#pragma once

#include "tools/shm-dump/queue_table.hpp"

#include <vector>

namespace sluice::tools {

/// How much each counter grew, and per second. A counter that went back, as only a damaged one does, did not grow.
struct QueueChange {
  QueueEntry now;
  QueueCounters grown;  // high_water: as it is now
  double seconds = 0;

  double per_second(std::uint64_t QueueCounters::* counter) const noexcept {
    return seconds > 0 ? static_cast<double>(grown.*counter) / seconds : 0;
  }
};

/// For each queue of `after`, in its order. One that was not there before, or was another queue in the same row, has
/// grown since it was made.
std::vector<QueueChange> compare_looks(const std::vector<QueueEntry>& before,
                                       const std::vector<QueueEntry>& after, double seconds);

}  // namespace sluice::tools
