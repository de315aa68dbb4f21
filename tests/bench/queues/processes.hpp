// Processes that end by themselves: with their task, with their parent, or when their time is over.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace sluice::bench {

/// Run each body in a process of its own, and wait for all of them. When one fails the others are ended.
/// Returns what went wrong in a sentence; empty: nothing.
std::string run_processes(const std::vector<std::function<void()>>& bodies, unsigned seconds_max);

/// Say it on stderr and end this process, for whom there is nothing else to do.
[[noreturn]] void die(const std::string& sentence);

}  // namespace sluice::bench
