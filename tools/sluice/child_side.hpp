// What `sluice ingress` and `sluice worker` share: they may be children of a supervisor, or stand alone.
#pragma once

#include "runtime/stage.hpp"

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// Name the process as ps and top show it.
void name_process(const std::string& name);

/// The signals that ask to stop: SIGTERM, and SIGINT unless it is ignored, as a supervisor has it.
std::vector<int> stop_signals();

/// Set by the first of stop_signals(), from now on; for a process with one thread.
const std::atomic<bool>& stop_on_signal();

/// The other way round than split_names().
std::string join_names(const std::vector<std::string>& names);

}  // namespace sluice::tools
