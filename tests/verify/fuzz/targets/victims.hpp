// Processes that die in the middle of their work, for the fuzzers' segment.
#pragma once

#include <string>

namespace sluice::fuzz {

/// Leave five dead processes in the segment at `path`: killed while pushing, popping, taking and freeing a run, and
/// cloning a reference.
void leave_victims(const std::string& path);

}  // namespace sluice::fuzz
