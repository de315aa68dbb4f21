// The process table: joining, leaving, and evidence of death.
//
// A process takes the sidecar's byte lock of its row, then the row. The kernel drops the lock when the process
// dies, and nothing else counts as death by itself: not a time-out, not a state in /proc.
// Thread safety: all functions; one Membership belongs to one process.
#pragma once

#include "ipc/process_layout.hpp"
#include "shm/segment.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

ProcessRow& process_row(const Segment& segment, std::uint64_t row) noexcept;

/// Whose rows to take: the last one is kept for who finds the table full and must recover before joining.
enum class JoinAs : std::uint8_t { member, recoverer };

/// One process's presence in the table, from join to leave.
class Membership {
 public:
  Membership() = default;
  Membership(Membership&& other) noexcept;
  Membership& operator=(Membership&& other) noexcept;
  ~Membership() = default;  // leaving is Session's: it needs lanes to be released first

  /// errors  exhausted  every row is taken (dead ones included: recover them)
  ///         busy       another process is in the recoverer's row
  static Expected<Membership> join(const Segment& segment, std::string_view role, JoinAs as = JoinAs::member);

  /// Free the row and its lock. A row whose lanes have not been released stays as it is until the process ends,
  /// and is recovered then.
  void leave() noexcept;

  /// In the row that is kept for recovery: it cannot claim lanes.
  bool is_recoverer() const noexcept;
  bool joined() const noexcept { return segment_ != nullptr; }
  std::uint64_t row() const noexcept { return row_; }
  std::uint64_t incarnation() const noexcept { return incarnation_; }

 private:
  static Expected<Membership> begin(const Segment& segment, std::uint64_t row, std::uint64_t incarnation,
                                    std::string_view role, const BootId& boot);
  const Segment* segment_ = nullptr;
  std::uint64_t row_ = 0;
  std::uint64_t incarnation_ = 0;
};

enum class Evidence : std::uint8_t { free, alive, dead, disagreement };

/// What the kernel says about the process in a row, for one exact value of the row's word.
struct ProcessVerdict {
  Evidence evidence = Evidence::free;
  std::uint64_t word = 0;  // a claim must CAS from this value
  std::uint64_t pid = 0;
  std::string reason;  // one line
};
ProcessVerdict examine_process(const Segment& segment, std::uint64_t row);

/// What has become of a process that was `pid`, started at `start_ticks`, in this boot and pid namespace. `unknown`:
/// something has that pid, and /proc does not show it (hidepid, or it is mounted for another pid namespace).
enum class PidFate : std::uint8_t { gone, reused, running, unknown };
PidFate fate_of(std::uint64_t pid, std::uint64_t start_ticks) noexcept;
/// A process as a row describes it, read once: the row may be another's by the next look.
struct ProcessStart {
  std::uint64_t pid = 0;
  std::uint64_t start_ticks = 0;
  std::uint64_t time_namespace = 0;
};
ProcessStart start_of(const ProcessRow& row) noexcept;
/// The same for such a process. Also unknown: one of another time namespace.
PidFate fate_of(const ProcessStart& process) noexcept;

/// Whether a process, by any of its threads, maps the segment's file.
enum class Maps : std::uint8_t { yes, no, unknown };
Maps maps_segment(std::uint64_t pid, const Segment& segment);

/// Who has a row's lock.
enum class RowLock : std::uint8_t { free, ours, others };
Expected<RowLock> row_is_locked(const Segment& segment, std::uint64_t row);

/// Start time of a process in clock ticks since boot, 0 if /proc does not tell.
std::uint64_t process_start_ticks(std::uint64_t pid) noexcept;
/// Inode of this process's pid namespace, and of its time namespace; 0 if unknown.
std::uint64_t own_pid_namespace() noexcept;
std::uint64_t own_time_namespace() noexcept;

}  // namespace sluice
