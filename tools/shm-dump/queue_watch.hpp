// `shm-dump queues --watch`: how fast each queue goes.
#pragma once

#include "tools/common/json.hpp"
#include "tools/shm-dump/queue_rates.hpp"

namespace sluice::tools {

void print_changes(const std::vector<QueueChange>& changes);
Json changes_json(const std::vector<QueueChange>& changes);

}  // namespace sluice::tools
