// One schedule from its seed to its judgement.
#pragma once

#include "tests/verify/schedules/scheduler.hpp"

#include <string>

namespace sluice::verify {

/// What is left of a schedule; in memory that its process shares with who counts.
struct Outcome {
  Counts counts;
  std::uint64_t hash = 0;
  bool failed = false;
  char kept[256] = {};       // the damaged file
  char directory[256] = {};  // to be removed, should the schedule's process die
};

struct ScheduleOptions {
  bool trace = false;   // print the end of the interleaving
  std::string keep_in;  // directory for damaged files
  std::string replay;   // the command that runs this schedule again
};

/// Run it in this process, which it is best to throw away afterwards. A failure is printed.
void run_schedule(const Plan& plan, const Traps& traps, const ScheduleOptions& options, Outcome& outcome);

}  // namespace sluice::verify
