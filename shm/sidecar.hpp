// The sidecar: a small file beside the segment (`PATH.lock`) on which each process holds one POSIX byte lock.
// The kernel drops the lock when the process dies, whatever it was doing: that is the evidence of death.
//
// Any close of the file by a process drops all its locks on it. So a process opens a sidecar once, through
// this registry, and never closes it; two mappings of one segment in a process share the descriptor.
// Thread safety: all functions.
#pragma once

#include "shm/status.hpp"

#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

namespace sluice {

std::string sidecar_path(const std::string& segment_path);

struct SidecarFile {
  int fd = -1;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};

/// Open (and if `create`, make) the sidecar at `path`. Refuses network file systems, whose locks are no
/// evidence. Descriptors are kept for the process's life.
Expected<SidecarFile> open_sidecar(const std::string& path, bool create, std::uint32_t mode = 0600);

/// The sidecar at `path`, if this process has it open: who opens it again, and closes that, drops all its locks.
std::optional<SidecarFile> known_sidecar(const std::string& path);

/// Take the lock of byte `index`. false: another process has it.
Expected<bool> lock_byte(int fd, std::uint64_t index);
void unlock_byte(int fd, std::uint64_t index) noexcept;
/// The pid (as this pid namespace sees it, 0 if it cannot) of the process that locks byte `index`, or -1 if
/// nobody else does. The caller's own locks are invisible to it.
Expected<pid_t> byte_lock_holder(int fd, std::uint64_t index);

/// Exclusive use of the sidecar for creating, adopting or removing its segment: one byte lock far above the
/// rows', freed by death, and a mutex among the threads of this process. Not flock(): a forked child shares that.
class SidecarClaim {
 public:
  /// errors  busy  somebody else has had it for 5 s
  static Expected<SidecarClaim> take(int fd, const std::string& path);
  SidecarClaim(SidecarClaim&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  SidecarClaim& operator=(SidecarClaim&&) = delete;
  ~SidecarClaim();

 private:
  explicit SidecarClaim(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace sluice
