// The lanes as values: each row read once, checked, and made printable.
#pragma once

#include "ipc/queue_layout.hpp"
#include "shm/segment.hpp"
#include "tools/common/process_table.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::tools {

struct LaneEntry {
  std::uint64_t lane = 0;
  bool active = false;
  std::uint64_t incarnation = 0;
  std::uint64_t process = 0;  // row of the owner
  std::string name;           // escaped
  std::uint64_t thread = 0;
  std::uint64_t sequence = 0;
  std::uint64_t cells_used = 0;
  std::uint64_t cells_moving = 0;  // of these, in the middle of a push or pop
  std::uint64_t cells = 0;         // committed, as far as that can be true
  bool sleeping = false;
  bool operation_open = false;
  OperationLog log{};  // the open operation
  LaneCounters counters{};
};

/// Lanes 1 to lane_count - 1, inactive ones included: entry i is lane i + 1.
std::vector<LaneEntry> read_lane_table(const Segment& segment);

/// Cells of a lane's ledger that may be read: what the row claims, at most what a ledger has.
std::uint64_t readable_cells(const Segment& segment, std::uint64_t lane) noexcept;

/// "take_run: 16 units from 240, cell 12", or "" when no operation is open.
std::string describe_operation(const LaneEntry& lane);
std::string_view to_string(LaneOperation operation) noexcept;

/// "lane 3 (pid 4711 worker-0)"; says so when the lane is free or its process is dead.
std::string lane_title(const std::vector<LaneEntry>& lanes, const std::vector<ProcessEntry>& processes,
                       std::uint64_t lane);

/// A role word as text: "-", lane_title(), or that its holder has gone.
std::string describe_role(const std::vector<LaneEntry>& lanes, const std::vector<ProcessEntry>& processes,
                          std::uint64_t claim);

}  // namespace sluice::tools
