// All of one queue as text: `shm-dump queues SEGMENT NAME`.
#pragma once

#include "tools/shm-dump/queue_ends.hpp"

namespace sluice::tools {

/// Fields, then of a broadcast its subscribers; of a work queue who leases what, and which messages have been
/// delivered before.
void print_queue_detail(const Segment& segment, const QueueEntry& queue, const QueueView& view);

}  // namespace sluice::tools
