// What a queue's counters say about its capacity.
#pragma once

#include "tools/shm-dump/queue_table.hpp"

#include <cstdint>
#include <string>

namespace sluice::tools {

struct Sizing {
  std::uint64_t capacity = 0;  // that would do, in messages; 0: no better one is known
  std::string advice;          // one sentence; empty: nothing can be said of this kind of queue
};

/// Smaller, where half of the ring or more was never needed in many rounds; larger, where it was full. The row's numbers are somebody's: nothing follows from those that cannot be.
Sizing sizing_of(const QueueEntry& queue);

}  // namespace sluice::tools
