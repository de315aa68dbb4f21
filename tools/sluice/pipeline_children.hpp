// The children of a pipeline: their commands, what their exit codes mean, and where they are found.
#pragma once

#include "runtime/supervisor.hpp"
#include "tools/sluice/pipeline_config.hpp"

#include <cstdint>
#include <string>

namespace sluice::tools {

/// Whether the programs of all stages can be started.
/// errors  not_found, permission  naming the stage and the program
Expected<void> check_programs(const PipelineConfig& config);

/// All but `log` and `ready`.
SupervisorOptions supervisor_options(const PipelineConfig& config, std::uint64_t first_flow);

/// "ready: listening on 127.0.0.1:9000, 4 workers, /dev/ublkb0 (disk), segment /dev/shm/demo"
std::string ready_line(const PipelineConfig& config, const PipelineAddresses& addresses);

}  // namespace sluice::tools
