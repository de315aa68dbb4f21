// From queues and stages by name to a plan, if it can run: everything is connected, nothing has two owners where it can
// have one, and nobody can wait for himself.
#pragma once

#include "runtime/pipeline_plan.hpp"
#include "tools/sluice/pipeline_devices.hpp"
#include "tools/sluice/pipeline_topology.hpp"

#include <optional>
#include <string>
#include <vector>

namespace sluice::tools {

struct Topology {
  std::vector<QueueSettings> queues;
  std::vector<StageSettings> stages;
  std::vector<DeviceSettings> devices;
  std::optional<std::string> ingress_into;  // none: there is no ingress
  std::uint32_t queue_capacity = 4096;      // of queues that do not say it
};

/// The plan's queues and stages are those of the topology, in its order; behind its queues come the streams that devices
/// publish into, in the order of the devices.
/// errors  bad_argument  a graph that cannot run: names file, line and table, what was found, and what was expected
Expected<PipelinePlan> plan_of(const Topology& topology);

/// Index in the plan of the queue that device `device` publishes into, if it does.
std::optional<std::size_t> published_queue(const Topology& topology, std::size_t device);

}  // namespace sluice::tools
