// Steps one operation through all its instructions and has every state judged.
#pragma once

#include "tests/verify/instructions/operation.hpp"

#include <atomic>
#include <cstdint>
#include <string>

namespace sluice::verify {

struct DriveOptions {
  bool is_short = false;     // judge a sample of the states, kill at fewer
  std::uint64_t kills = 24;  // deaths of real processes per operation, spread evenly over its states
  std::string keep_in;       // directory for damaged states
};

/// What was counted. Lives in memory shared with the parent, so that it survives a state that kills the recoverer.
struct Progress {
  std::atomic<std::uint64_t> instructions{0};
  std::atomic<std::uint64_t> states{0};
  std::atomic<std::uint64_t> recovered{0};
  std::atomic<std::uint64_t> failures{0};
  std::atomic<std::uint64_t> address{0};  // of the last instruction before the state that is being judged
  char directory[256] = {};               // what is to be removed if the driver dies
};

/// Drive in this process, which it is best to throw away afterwards. Failures are printed.
void drive(const Operation& operation, const DriveOptions& options, Progress& progress);
/// The recovery of who died in the operation, at each of its states, as an operation of its own.
void drive_recoveries(const Operation& operation, const DriveOptions& options, Progress& progress);
inline constexpr std::string_view recovery_prefix = "recover:";
/// Step once more, and only keep state number `index`.
void keep_state(const Operation& operation, std::uint64_t index, const std::string& path);

/// The same for the creation of a segment, which has no survivors: a name leads to nothing or to a whole file.
inline constexpr std::string_view creation_name = "create a segment";
void drive_creation(const DriveOptions& options, Progress& progress);

std::string kept_path(const DriveOptions& options, std::string_view operation, std::uint64_t step);
void report_failure(std::string_view operation, std::uint64_t step, std::uint64_t address,
                    const Complaints& complaints, const std::string& kept);

}  // namespace sluice::verify
