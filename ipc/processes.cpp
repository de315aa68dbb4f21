#include "ipc/processes.hpp"

#include "ipc/doorbell.hpp"
#include "shm/crash_point.hpp"
#include "shm/fork.hpp"
#include "shm/sidecar.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace sluice {

namespace {

// Rows that this process has locked. A process cannot see its own byte locks, so it remembers them: by the segment,
// because descriptors are reused. A child made by fork has inherited this list but not the locks.
struct OwnRow {
  std::uint64_t device, inode;  // of the segment
  std::uint64_t row;
  bool operator==(const OwnRow&) const noexcept = default;
};
class OwnRows {
 public:
  bool has(const OwnRow& row) {
    const std::lock_guard guard(mutex_);
    only_ours();
    return std::ranges::find(rows_, row) != rows_.end();
  }
  /// false: it is there already
  bool add(const OwnRow& row) {
    const std::lock_guard guard(mutex_);
    only_ours();
    if (std::ranges::find(rows_, row) != rows_.end()) return false;
    rows_.push_back(row);
    return true;
  }
  void remove(const OwnRow& row) {
    const std::lock_guard guard(mutex_);
    only_ours();
    std::erase(rows_, row);
  }

 private:
  void only_ours() {
    if (owner_ == this_process()) return;
    owner_ = this_process();
    rows_.clear();
  }

  ForkMutex mutex_;
  ProcessToken owner_;
  std::vector<OwnRow> rows_;
};

OwnRows& own_rows() {
  static auto* instance = new OwnRows;
  return *instance;
}

OwnRow own_row(const Segment& segment, std::uint64_t row) noexcept {
  const auto& identity = segment.identity();
  return {load(identity.device, acquire), load(identity.inode, acquire), row};
}

std::uint64_t next_incarnation(std::uint64_t incarnation) noexcept {
  const auto next = (incarnation + 1) & process_word::Incarnation::max;
  return next == 0 ? 1 : next;
}

// The last row is for a process that finds the table full, to recover the dead and then join properly.
std::uint64_t recoverer_row(const Segment& segment) noexcept { return segment.header().process_count - 1; }

// Field 22 of a stat file of /proc.
std::uint64_t read_start_ticks(const char* path) noexcept {
  std::array<char, 1024> text{};
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return 0;
  const auto length = std::fread(text.data(), 1, text.size() - 1, file);
  std::fclose(file);
  // The command name may hold anything, spaces and parentheses too: count from the last ')'.
  const std::string_view line(text.data(), length);
  auto at = line.rfind(')');
  if (at == std::string_view::npos) return 0;
  for (int field = 2; field < 22 && at != std::string_view::npos; ++field) at = line.find(' ', at + 1);
  return at == std::string_view::npos ? 0 : std::strtoull(line.data() + at + 1, nullptr, 10);
}

// Whether /proc numbers processes as this process's pid namespace does.
bool proc_is_ours() noexcept {
  std::array<char, 32> text{};
  const auto length = ::readlink("/proc/self", text.data(), text.size() - 1);
  return length > 0 && std::strtoll(text.data(), nullptr, 10) == ::getpid();
}

void describe_self(ProcessRow& row, std::string_view role, const BootId& boot) noexcept {
  store(row.pid, static_cast<std::uint64_t>(::getpid()), relaxed);
  // Not by pid: /proc may be another pid namespace's.
  store(row.start_ticks, read_start_ticks("/proc/self/stat"), relaxed);
  store(row.pid_namespace, own_pid_namespace(), relaxed);
  store(row.time_namespace, own_time_namespace(), relaxed);
  std::memcpy(row.boot_id, boot.bytes, sizeof row.boot_id);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  store(row.joined_ns,
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()),
        relaxed);
  std::memset(row.role, 0, sizeof row.role);
  role.copy(row.role, sizeof row.role - 1);
}

// " device inode " of the segment as /proc/PID/maps writes it: read from our own, because on some file systems
// (btrfs, overlayfs) stat() tells another device.
std::string mapping_name(const Segment& segment) {
  const auto address = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(segment.base()));
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (!line.starts_with(address)) continue;
    std::istringstream fields(line);
    std::string range, access, offset, device, inode;
    fields >> range >> access >> offset >> device >> inode;
    return fmt::format(" {} {} ", device, inode);
  }
  return {};
}

// Whether a file that lists mappings has one of the segment; unknown if it cannot be read.
Maps maps_of(const std::string& path, const std::string& wanted) {
  std::ifstream maps(path);
  if (!maps) return ::access(path.c_str(), F_OK) == 0 ? Maps::unknown : Maps::no;  // it has ended meanwhile
  for (std::string line; std::getline(maps, line);)
    if (line.find(wanted) != std::string::npos) return Maps::yes;
  return maps.bad() ? Maps::unknown : Maps::no;
}

// Lock a row and make it JOINING, from exactly `word`. Returns the incarnation, or 0 if somebody else has it.
Expected<std::uint64_t> take_row(const Segment& segment, std::uint64_t index, std::uint64_t word) {
  const auto self = own_row(segment, index);
  const int sidecar = segment.sidecar_fd();
  if (!own_rows().add(self)) return 0;
  const auto give_up = [&] {
    unlock_byte(sidecar, index);
    own_rows().remove(self);
    return 0;
  };
  const auto locked = lock_byte(sidecar, index);
  if (!locked || !*locked) own_rows().remove(self);
  if (!locked) return std::unexpected(locked.error());
  if (!*locked) return 0;
  crash_point("process.join.locked");
  const auto before = process_word::Incarnation::get(word);
  const auto incarnation = process_word::state(word) == ProcessState::free
                               ? std::max<std::uint64_t>(before, 1)
                               : next_incarnation(before);
  if (!cas(process_row(segment, index).word, word, process_word::make(ProcessState::joining, incarnation),
           acq_rel))
    return give_up();
  crash_point("process.join.joining");  // recovery: JOINING with a free lock is dead by that alone
  return incarnation;
}

bool has_lanes(const Segment& segment, std::uint64_t row) noexcept {
  for (std::uint64_t lane = 1; lane < segment.header().lane_count; ++lane) {
    const auto word = load(segment.lane_row(lane).word, acquire);
    if (lane_word::Active::get(word) != 0 && lane_word::Process::get(word) == row) return true;
  }
  return false;
}

ProcessVerdict verdict(Evidence evidence, std::uint64_t word, std::uint64_t pid, std::string reason) {
  return {evidence, word, pid, std::move(reason)};
}

}  // namespace

ProcessRow& process_row(const Segment& segment, std::uint64_t row) noexcept {
  return *segment.at<ProcessRow>(RegionKind::processes, row);
}

std::uint64_t process_start_ticks(std::uint64_t pid) noexcept {
  return read_start_ticks(fmt::format("/proc/{}/stat", pid).c_str());
}

ProcessStart start_of(const ProcessRow& row) noexcept {
  return {load(row.pid, relaxed), load(row.start_ticks, relaxed), load(row.time_namespace, relaxed)};
}

PidFate fate_of(const ProcessStart& process) noexcept {
  const auto fate = fate_of(process.pid, process.start_ticks);
  // Start times are told in the time namespace of who asks: of another one they say nothing.
  return fate == PidFate::reused && process.time_namespace != own_time_namespace() ? PidFate::unknown : fate;
}

PidFate fate_of(std::uint64_t pid, std::uint64_t start_ticks) noexcept {
  // The kernel itself, not /proc, says that nobody has the pid.
  const auto gone = [&] {
    return pid == 0 || pid > std::uint64_t{std::numeric_limits<pid_t>::max()} ||
           (::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH);
  };
  if (gone()) return PidFate::gone;
  if (!proc_is_ours()) return PidFate::unknown;
  const auto found = process_start_ticks(pid);
  if (found == 0) return gone() ? PidFate::gone : PidFate::unknown;
  if (start_ticks == 0) return PidFate::unknown;  // /proc told nothing when it joined
  return found == start_ticks ? PidFate::running : PidFate::reused;
}

namespace {
std::uint64_t namespace_inode(const char* path) noexcept {
  struct stat info{};
  return ::stat(path, &info) == 0 ? info.st_ino : 0;
}
}  // namespace

std::uint64_t own_pid_namespace() noexcept { return namespace_inode("/proc/self/ns/pid"); }
std::uint64_t own_time_namespace() noexcept { return namespace_inode("/proc/self/ns/time"); }

Maps maps_segment(std::uint64_t pid, const Segment& segment) {
  const auto wanted = mapping_name(segment);
  if (wanted.empty()) return Maps::unknown;
  // By thread: when the first one has ended the process's own file is empty, while others go on.
  std::error_code error;
  std::filesystem::directory_iterator tasks(fmt::format("/proc/{}/task", pid), error);
  if (error) return error == std::errc::no_such_file_or_directory ? Maps::no : Maps::unknown;
  for (; !error && tasks != std::filesystem::directory_iterator(); tasks.increment(error))
    if (const auto found = maps_of(tasks->path().string() + "/maps", wanted); found != Maps::no) return found;
  return error && error != std::errc::no_such_file_or_directory && error != std::errc::no_such_process
             ? Maps::unknown
             : Maps::no;
}

Membership::Membership(Membership&& other) noexcept { *this = std::move(other); }

Membership& Membership::operator=(Membership&& other) noexcept {
  segment_ = std::exchange(other.segment_, nullptr);
  row_ = other.row_;
  incarnation_ = other.incarnation_;
  return *this;
}

Expected<Membership> Membership::join(const Segment& segment, std::string_view role, JoinAs as) {
  if (segment.read_only())
    return fail(Status::read_only, fmt::format("{}: mapped read-only, cannot be joined", segment.path()));
  if (auto registered = register_waiter(); !registered) return std::unexpected(registered.error());
  const auto boot = current_boot_id();
  if (!boot) return std::unexpected(boot.error());
  const auto reserved = recoverer_row(segment);
  if (as == JoinAs::recoverer) {
    // A recoverer that died here has no lanes, and its claims end with its incarnation: the row itself can be
    // taken over, or a full table of the dead could never be entered again.
    const auto found = examine_process(segment, reserved);
    const bool vacant = found.evidence == Evidence::free || found.evidence == Evidence::dead;
    auto taken = vacant ? take_row(segment, reserved, found.word) : Expected<std::uint64_t>(0);
    if (!taken) return std::unexpected(taken.error());
    if (*taken != 0) return begin(segment, reserved, *taken, role, *boot);
    return fail(Status::busy,
                fmt::format("{}: the row for recoverers is taken by pid {}", segment.path(), found.pid));
  }
  for (std::uint64_t index = 0; index < reserved; ++index) {
    const auto word = load(process_row(segment, index).word, acquire);
    if (process_word::state(word) != ProcessState::free) continue;
    const auto taken = take_row(segment, index, word);
    if (!taken) return std::unexpected(taken.error());
    if (*taken != 0) return begin(segment, index, *taken, role, *boot);
  }
  return fail(Status::exhausted, fmt::format("{}: all {} process rows are taken", segment.path(), reserved));
}

Expected<Membership> Membership::begin(const Segment& segment, std::uint64_t row, std::uint64_t incarnation,
                                       std::string_view role, const BootId& boot) {
  auto& shared = process_row(segment, row);
  describe_self(shared, role, boot);
  auto joining = process_word::make(ProcessState::joining, incarnation);
  if (!cas(shared.word, joining, process_word::make(ProcessState::alive, incarnation),
           acq_rel)) {  // P1 -> P2 (examine_process)
    unlock_byte(segment.sidecar_fd(), row);
    own_rows().remove(own_row(segment, row));
    return fail(Status::busy,
                fmt::format("{}: row {} was taken from this process while it joined: its lock was not seen",
                            segment.path(), row));
  }
  crash_point("process.join.alive");
  Membership membership;
  membership.segment_ = &segment;
  membership.row_ = row;
  membership.incarnation_ = incarnation;
  return membership;
}

bool Membership::is_recoverer() const noexcept { return joined() && row_ == recoverer_row(*segment_); }

void Membership::leave() noexcept {
  if (segment_ == nullptr) return;
  if (!segment_->is_ours()) {  // a child made by fork has neither the mapping nor the lock
    segment_ = nullptr;
    return;
  }
  const auto self = own_row(*segment_, row_);
  // A row whose lanes are still claimed stays, locked:
  // without it nobody would ever recover them. It is dead when this process is.
  if (own_rows().has(self) && !has_lanes(*segment_, row_)) {
    auto& row = process_row(*segment_, row_);
    store(row.word, process_word::make(ProcessState::leaving, incarnation_), release);
    crash_point("process.leave.leaving");
    store(row.word, process_word::make(ProcessState::free, next_incarnation(incarnation_)), release);
    crash_point("process.leave.freed");
    unlock_byte(segment_->sidecar_fd(), row_);
    own_rows().remove(self);
  }
  segment_ = nullptr;
}

Expected<RowLock> row_is_locked(const Segment& segment, std::uint64_t row) {
  if (own_rows().has(own_row(segment, row))) return RowLock::ours;
  const auto holder = byte_lock_holder(segment.sidecar_fd(), row);
  if (!holder) return std::unexpected(holder.error());
  return *holder >= 0 ? RowLock::others : RowLock::free;
}

ProcessVerdict examine_process(const Segment& segment, std::uint64_t index) {
  const auto& row = process_row(segment, index);
  const auto word = load(row.word, acquire);  // P2 <- P1 (join): the fields belong to this word
  const auto state = process_word::state(word);
  const auto process = start_of(row);
  const auto pid = process.pid;
  if (state == ProcessState::free) return verdict(Evidence::free, word, 0, "free");
  if (state == ProcessState::recovering) {
    const auto claimer = process_word::ClaimerRow::get(word);
    const auto claimer_incarnation = process_word::ClaimerIncarnation::get(word);
    if (claimer >= segment.header().process_count || claimer == index)
      return verdict(Evidence::dead, word, pid, fmt::format("its recoverer, row {}, cannot be", claimer));
    const auto found = load(process_row(segment, claimer).word, acquire);
    if (process_word::Incarnation::get(found) != claimer_incarnation ||
        process_word::state(found) == ProcessState::free ||
        process_word::state(found) == ProcessState::recovering)
      return verdict(Evidence::dead, word, pid, fmt::format("its recoverer, row {}, is gone", claimer));
    const auto recoverer = examine_process(segment, claimer);
    if (recoverer.evidence == Evidence::dead)
      return verdict(Evidence::dead, word, pid, fmt::format("its recoverer died: {}", recoverer.reason));
    return verdict(recoverer.evidence, word, pid, fmt::format("being recovered by row {}", claimer));
  }
  const auto locked = row_is_locked(segment, index);
  if (!locked) return verdict(Evidence::disagreement, word, pid, locked.error().message);
  if (*locked != RowLock::free)
    return verdict(Evidence::alive, word, pid, *locked == RowLock::ours ? "this process" : "holds its lock");
  // The lock is free from here on.
  if (load(row.word, acquire) != word)
    return verdict(Evidence::alive, word, pid, "changed while it was examined");
  if (state == ProcessState::joining)
    return verdict(Evidence::dead, word, pid, "was joining, its lock is free");
  BootId boot;
  std::memcpy(boot.bytes, row.boot_id, sizeof boot.bytes);
  const auto boot_now = current_boot_id();
  if (!boot_now) return verdict(Evidence::disagreement, word, pid, boot_now.error().message);
  if (boot != *boot_now) return verdict(Evidence::dead, word, pid, "of an earlier boot");
  const auto pid_namespace = own_pid_namespace();
  if (pid_namespace == 0 || load(row.pid_namespace, relaxed) != pid_namespace)
    return verdict(
        Evidence::disagreement, word, pid,
        fmt::format("row {} (pid {} of pid namespace {}): its lock is free, but it cannot be seen from here; "
                    "recover in its own namespace",
                    index, pid, load(row.pid_namespace, relaxed)));
  switch (fate_of(process)) {
    case PidFate::gone: return verdict(Evidence::dead, word, pid, "its lock is free and the pid is gone");
    case PidFate::reused:
      return verdict(Evidence::dead, word, pid, "its lock is free and the pid is another process");
    case PidFate::unknown:
      return verdict(
          Evidence::disagreement, word, pid,
          fmt::format("row {} (pid {}): its lock is free, but something has that pid, and from here "
                      "it cannot be seen what",
                      index, pid));
    case PidFate::running: break;
  }
  if (pid == static_cast<std::uint64_t>(::getpid()))
    return verdict(Evidence::dead, word, pid, "this process, before it called exec");
  const auto maps = maps_segment(pid, segment);
  // It may have been waited for meanwhile: then its maps could not be read any more, or were another process's.
  if (maps != Maps::no) {
    const auto by_now = fate_of(process);
    if (by_now == PidFate::gone || by_now == PidFate::reused)
      return verdict(Evidence::dead, word, pid, "its lock is free and the pid is gone by now");
  }
  // Somebody else may have recovered it by now, and the row be another's.
  if (load(row.word, acquire) != word)
    return verdict(Evidence::alive, word, pid, "changed while it was examined");
  switch (maps) {
    case Maps::no:
      return verdict(Evidence::dead, word, pid, "its lock is free and it no longer maps the segment");
    case Maps::yes:
      return verdict(
          Evidence::disagreement, word, pid,
          fmt::format("row {} (pid {}): its lock is free, but it still maps the segment", index, pid));
    case Maps::unknown: break;
  }
  return verdict(
      Evidence::disagreement, word, pid,
      fmt::format("row {} (pid {}): its lock is free, but the process is there and cannot be looked at",
                  index, pid));
}

}  // namespace sluice
