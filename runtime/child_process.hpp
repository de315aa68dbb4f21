// A child process: started by fork and exec, watched through a pidfd, and never left behind.
//
// The child asks the kernel for a signal when its parent dies, so that a supervisor's SIGKILL orphans nobody
// without telling. It ignores SIGINT and SIGHUP, which a terminal sends to the whole group: the parent
// decides. Its standard output is the parent's standard error.
// Thread safety: none. The thread that starts a child is the one whose death the child is told of.
#pragma once

#include "runtime/unique_fd.hpp"
#include "shm/status.hpp"

#include <csignal>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace sluice {

/// How a child ended.
struct ChildExit {
  bool killed = false;  // by a signal
  int value = 0;        // the signal's number, or the exit code

  bool succeeded() const noexcept { return !killed && value == 0; }
  /// "was killed by SIGKILL", "exited with code 6"
  std::string describe() const;
};

class ChildProcess {
 public:
  /// Start `program`, looked for in PATH unless it has a slash, with `arguments` (the first is the name that it sees
  /// itself by).
  ///
  /// environment   "NAME=value", in place of this process's own where it has the name
  /// kept_fd       stays open in the child under its number; -1: none
  /// death_signal  what the kernel sends the child when its parent dies
  /// errors        not_found, permission, exhausted, io_error  from fork, exec and pidfd_open
  static Expected<ChildProcess> start(const std::string& program, const std::vector<std::string>& arguments,
                                      int kept_fd = -1, int death_signal = SIGTERM,
                                      const std::vector<std::string>& environment = {});
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  /// Kills and reaps the child if it still runs.
  ~ChildProcess();

  pid_t pid() const noexcept { return pid_; }
  /// Readable once the child has ended and the kernel has dropped its locks.
  int pidfd() const noexcept { return pidfd_.get(); }
  void send(int signal) const noexcept;
  /// How it ended, once; nullopt while it runs.
  std::optional<ChildExit> reap() noexcept;

 private:
  ChildProcess(pid_t pid, UniqueFd pidfd) noexcept : pid_(pid), pidfd_(std::move(pidfd)) {}
  void kill_and_reap() noexcept;

  pid_t pid_ = -1;  // -1: none, or reaped
  UniqueFd pidfd_;
};

}  // namespace sluice
