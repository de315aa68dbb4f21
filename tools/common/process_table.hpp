// The process table as somebody sees it who has not joined: each row with the kernel's evidence.
//
// examine_process() needs the sidecar's descriptor of an open segment. Here the sidecar is opened for reading,
// asked, and closed again; a process that has joined must never do that, because the close would drop its own
// lock. So this is for tools only, before they join.
// Thread safety: none needed; the snapshot is a value.
#pragma once

#include "ipc/processes.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

enum class Presence : std::uint8_t {
  free,  // the row is not in use
  alive,
  dead,          // recovery will free the row
  disagreement,  // the evidence contradicts itself: recovery will do nothing
  unknown,       // it cannot be seen from here
};

struct ProcessEntry {
  std::uint64_t row = 0;
  ProcessState state = ProcessState::free;
  std::uint64_t incarnation = 0;
  std::uint64_t claimer_row = 0;  // while recovering
  std::uint64_t pid = 0;          // as its own pid namespace numbers it
  std::uint64_t joined_ns = 0;    // CLOCK_REALTIME
  std::string role;               // escaped
  Presence presence = Presence::free;
  std::string reason;  // why `presence` is what it is
};

/// Every row of the table, free ones included: entry i is row i.
std::vector<ProcessEntry> read_process_table(const Segment& segment);

/// Whether somebody may be changing the segment: alive, or not known to be dead.
bool may_be_live(const ProcessEntry& process) noexcept;

std::string_view to_string(ProcessState state) noexcept;
std::string_view to_string(Presence presence) noexcept;

/// "pid 4711 worker-0": how messages and tables name a process.
std::string process_name(const ProcessEntry& process);

}  // namespace sluice::tools
