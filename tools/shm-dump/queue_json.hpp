// A queue as a member of the JSON document of `shm-dump queues`: everything that is known of it.
#pragma once

#include "tools/common/json.hpp"
#include "tools/shm-dump/queue_ends.hpp"

namespace sluice::tools {

Json queue_json(const QueueEntry& queue, const QueueView& view);

}  // namespace sluice::tools
