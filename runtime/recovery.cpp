#include "runtime/recovery.hpp"

#include "shm/crash_point.hpp"

#include <fmt/format.h>

#include <chrono>
#include <thread>

namespace sluice {

Expected<Membership> join_to_recover(const Segment& segment, std::string_view role) {
  using namespace std::chrono_literals;
  const auto deadline = std::chrono::steady_clock::now() + 5s;
  for (;;) {
    auto member = Membership::join(segment, role);
    if (member || member.error().status != Status::exhausted) return member;
    auto recoverer = Membership::join(segment, role, JoinAs::recoverer);
    if (recoverer || recoverer.error().status != Status::busy) return recoverer;
    if (std::chrono::steady_clock::now() > deadline) return member;
    std::this_thread::sleep_for(1ms);
  }
}

RecoveryReport& RecoveryReport::operator+=(const RecoveryReport& other) {
  processes += other.processes;
  lanes += other.lanes;
  operations += other.operations;
  moves += other.moves;
  references += other.references;
  roles += other.roles;
  disagreements.insert(disagreements.end(), other.disagreements.begin(), other.disagreements.end());
  begun_by_others.insert(begun_by_others.end(), other.begun_by_others.begin(), other.begun_by_others.end());
  return *this;
}

RecoveryReport recover_process(const Segment& segment, const Membership& self, std::uint64_t row,
                               const ProcessVerdict& verdict) {
  RecoveryReport report;
  if (verdict.evidence != Evidence::dead) return report;
  auto& word = process_row(segment, row).word;
  const auto incarnation = process_word::Incarnation::get(verdict.word);
  const auto claimed =
      process_word::make(ProcessState::recovering, incarnation, self.row(), self.incarnation());
  auto expected = verdict.word;  // the evidence was for this value alone
  if (!cas(word, expected, claimed, acq_rel)) return report;
  crash_point("recover.process.claimed");  // recovery: the claimer is dead, its claim is taken over
  // The evidence may be older than the word: stopped in between for as long as 2^25 joins take, we have claimed a
  // living process that has the same incarnation. Now that the word stands still, its lock tells.
  if (const auto locked = row_is_locked(segment, row); !locked || *locked != RowLock::free) {
    expected = claimed;
    cas(word, expected, verdict.word, acq_rel);
    return report;
  }
  ++report.processes;
  for (LaneId lane = 1; lane < segment.lane_count(); ++lane) {
    const auto lane_now = load(segment.lane_row(lane).word, acquire);
    if (lane_word::Active::get(lane_now) == 0 || lane_word::Process::get(lane_now) != row) continue;
    const auto repaired = recover_lane(segment, lane);
    ++report.lanes;
    report.operations += repaired.operation_open ? 1 : 0;
    report.moves += repaired.moves;
    report.references += repaired.references;
    report.roles += repaired.roles;
  }
  // Once more for all its lanes: one may have been released by who died before it was counted.
  fetch_add(segment.control().orphan_generation, 1, release);
  // 6: the row, in its next incarnation.  X2 -> X1 (ExtentWriter::claim): all its lanes are at rest
  const auto next = incarnation == process_word::Incarnation::max ? 1 : incarnation + 1;
  expected = claimed;
  cas(word, expected, process_word::make(ProcessState::free, next), acq_rel);
  crash_point("recover.process.freed");
  return report;
}

RecoveryReport recover_dead(const Segment& segment, const Membership& self) {
  RecoveryReport report;
  for (std::uint64_t row = 0; row < segment.header().process_count; ++row) {
    const auto verdict = examine_process(segment, row);
    if (verdict.evidence == Evidence::disagreement) report.disagreements.push_back(verdict.reason);
    if (verdict.evidence == Evidence::alive &&
        process_word::state(verdict.word) == ProcessState::recovering) {
      const auto claimer = process_word::ClaimerRow::get(verdict.word);
      report.begun_by_others.push_back(fmt::format("row {} (pid {}) is being recovered by row {} (pid {})",
                                                   row, verdict.pid, claimer,
                                                   load(process_row(segment, claimer).pid, relaxed)));
    }
    if (verdict.evidence == Evidence::dead) report += recover_process(segment, self, row, verdict);
  }
  return report;
}

}  // namespace sluice
