// Recovery of dead processes, by any process that has joined. The order of docs/recovery.md, restartable at
// each step; the lanes' part is ipc's recover_lane().
#pragma once

#include "ipc/lane.hpp"
#include "ipc/processes.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct RecoveryReport {
  std::uint32_t processes = 0;
  std::uint32_t lanes = 0;
  std::uint32_t operations = 0;            // found open
  std::uint32_t moves = 0;                 // pushes and pops found halfway
  std::uint32_t references = 0;            // dropped
  std::uint32_t roles = 0;                 // given up
  std::vector<std::string> disagreements;  // one line each; nothing was done about them
  // Dead processes whose recovery another one has begun: what they held is not given back before that one goes on,
  // or dies. A line each.
  std::vector<std::string> begun_by_others;

  RecoveryReport& operator+=(const RecoveryReport& other);
};

/// Join so as to recover: as a member, or in the row that is kept for it while the dead fill the table. Whom another
/// recoverer keeps out of that row waits for it, at most 5 s; it makes room.
Expected<Membership> join_to_recover(const Segment& segment, std::string_view role);

/// Examine every row of the process table and recover the dead ones.
RecoveryReport recover_dead(const Segment& segment, const Membership& self);

/// Recover one process if the verdict says that it is dead and its row has not changed since.
RecoveryReport recover_process(const Segment& segment, const Membership& self, std::uint64_t row,
                               const ProcessVerdict& verdict);

}  // namespace sluice
