#include "tools/common/process_table.hpp"

#include "shm/sidecar.hpp"
#include "tools/common/format.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

// The sidecar, opened for reading; `fd` is -1 and `reason` says why when its locks cannot be asked.
class SidecarProbe {
 public:
  explicit SidecarProbe(const Segment& segment) {
    const auto path = sidecar_path(segment.path());
    const auto known =
        known_sidecar(path);  // in a process that has joined, closing another descriptor unlocks its row
    is_ours_ = !known;
    fd_ = known ? known->fd : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd_ < 0) {
      reason_ = fmt::format("its lock cannot be asked ({})", std::strerror(errno));
      return;
    }
    struct stat info{};
    const auto& identity = segment.identity();
    if (::fstat(fd_, &info) != 0 || info.st_ino != load(identity.sidecar_inode, relaxed) ||
        info.st_dev != load(identity.sidecar_device, relaxed)) {
      reason_ = "its lock file was replaced";
      if (is_ours_) ::close(fd_);
      fd_ = -1;
    }
  }
  SidecarProbe(const SidecarProbe&) = delete;
  SidecarProbe& operator=(const SidecarProbe&) = delete;
  ~SidecarProbe() {
    if (fd_ >= 0 && is_ours_) ::close(fd_);
  }
  bool usable() const noexcept { return fd_ >= 0; }
  const std::string& reason() const noexcept { return reason_; }
  Expected<pid_t> holder(std::uint64_t row) const { return byte_lock_holder(fd_, row); }

 private:
  int fd_ = -1;
  bool is_ours_ = true;
  std::string reason_;
};

struct Verdict {
  Presence presence;
  std::string reason;
};

// What the kernel knows of the process that a row names.
struct Evidence {
  bool same_boot = false;
  bool same_namespace = false;
  PidFate fate = PidFate::gone;  // where boot and namespace are the same
};

// Whether a running process still maps the segment decides what a free lock means.
Verdict judge_without_lock(const ProcessEntry& process, const Segment& segment) {
  switch (maps_segment(process.pid, segment)) {
    case Maps::yes: return {Presence::disagreement, "its lock is free, but it runs and maps the segment"};
    case Maps::no: return {Presence::dead, "its lock is free and it does not map the segment"};
    case Maps::unknown: break;
  }
  return {Presence::unknown, "its lock is free, but it runs and cannot be looked at"};
}

Verdict judge_lock(const ProcessEntry& process, const Evidence& evidence, pid_t holder,
                   const Segment& segment) {
  if (holder == 0) return {Presence::alive, "holds its lock, in another pid namespace"};
  // While joining, the lock precedes the fields: they may still be a predecessor's.
  if (holder > 0 && process.pid != static_cast<std::uint64_t>(holder) && evidence.same_namespace)
    return {Presence::alive, fmt::format("pid {} holds its lock", holder)};
  if (holder > 0) return {Presence::alive, "holds its lock"};
  if (process.state == ProcessState::recovering)
    return {Presence::dead, fmt::format("its lock is free, row {} recovers it", process.claimer_row)};
  if (process.state == ProcessState::joining) return {Presence::dead, "it died while joining"};
  if (!evidence.same_boot) return {Presence::dead, "of an earlier boot"};
  if (!evidence.same_namespace)
    return {Presence::unknown, "its lock is free, but it is in another pid namespace"};
  switch (evidence.fate) {
    case PidFate::running: return judge_without_lock(process, segment);
    case PidFate::unknown:
      return {Presence::disagreement,
              "its lock is free, but something has its pid and it cannot be seen from here what"};
    case PidFate::reused: return {Presence::dead, "its lock is free and the pid is another process"};
    case PidFate::gone: break;
  }
  return {Presence::dead, "its lock is free and the pid is gone"};
}

Verdict judge_pid(const Evidence& evidence, const std::string& why_no_lock) {
  if (!evidence.same_boot) return {Presence::dead, "of an earlier boot"};
  if (!evidence.same_namespace)
    return {Presence::unknown, fmt::format("it is in another pid namespace, and {}", why_no_lock)};
  if (evidence.fate == PidFate::running) return {Presence::alive, fmt::format("it runs; {}", why_no_lock)};
  if (evidence.fate == PidFate::unknown)
    return {Presence::unknown,
            fmt::format("something has its pid and it cannot be seen from here what; {}", why_no_lock)};
  return {Presence::dead, fmt::format("no such process; {}", why_no_lock)};
}

Evidence gather_evidence(const ProcessRow& row, const BootId& boot) {
  Evidence evidence;
  evidence.same_boot = std::memcmp(row.boot_id, boot.bytes, sizeof boot.bytes) == 0;
  evidence.same_namespace = load(row.pid_namespace, relaxed) == own_pid_namespace();
  if (!evidence.same_boot || !evidence.same_namespace) return evidence;
  evidence.fate = fate_of(start_of(row));
  return evidence;
}

}  // namespace

std::vector<ProcessEntry> read_process_table(const Segment& segment) {
  const SidecarProbe sidecar(segment);
  const auto boot = current_boot_id();
  const bool this_boot =
      boot && std::memcmp(segment.identity().boot_id, boot->bytes, sizeof boot->bytes) == 0;

  const auto judge = [&](const ProcessEntry& process, const ProcessRow& row) -> Verdict {
    if (process.state == ProcessState::free) return {Presence::free, ""};
    if (segment.is_copy()) return {Presence::dead, "a copied file: its processes have the original"};
    if (!boot) return {Presence::unknown, boot.error().message};
    if (!this_boot) return {Presence::dead, "the system was started anew since"};
    const auto evidence = gather_evidence(row, *boot);
    if (!sidecar.usable()) return judge_pid(evidence, sidecar.reason());
    const auto holder = sidecar.holder(process.row);
    return holder ? judge_lock(process, evidence, *holder, segment)
                  : judge_pid(evidence, holder.error().message);
  };

  std::vector<ProcessEntry> table(segment.header().process_count);
  for (std::uint64_t i = 0; i < table.size(); ++i) {
    const auto& row = process_row(segment, i);
    const auto word = load(row.word, acquire);
    auto& process = table[i];
    process.row = i;
    process.state = process_word::state(word);
    process.incarnation = process_word::Incarnation::get(word);
    process.claimer_row = process_word::ClaimerRow::get(word);
    process.pid = load(row.pid, relaxed);
    process.joined_ns = load(row.joined_ns, relaxed);
    process.role = field_text(row.role);
    auto verdict = judge(process, row);
    process.presence = verdict.presence;
    process.reason = std::move(verdict.reason);
  }
  return table;
}

bool may_be_live(const ProcessEntry& process) noexcept {
  return process.presence != Presence::free && process.presence != Presence::dead;
}

std::string_view to_string(ProcessState state) noexcept {
  switch (state) {
    case ProcessState::free: return "free";
    case ProcessState::joining: return "joining";
    case ProcessState::alive: return "joined";
    case ProcessState::leaving: return "leaving";
    case ProcessState::recovering: return "recovering";
  }
  return "invalid";
}

std::string_view to_string(Presence presence) noexcept {
  switch (presence) {
    case Presence::free: return "free";
    case Presence::alive: return "alive";
    case Presence::dead: return "dead";
    case Presence::disagreement: return "disagreement";
    case Presence::unknown: return "unknown";
  }
  return "invalid";
}

std::string process_name(const ProcessEntry& process) {
  return process.role.empty() ? fmt::format("pid {}", process.pid)
                              : fmt::format("pid {} {}", process.pid, process.role);
}

}  // namespace sluice::tools
