#include "tests/verify/soak/actor.hpp"

#include <csignal>

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

// For the handler: a process is one actor.
struct HandlerState {
  Witness* witness = nullptr;
  std::uint32_t slot = 0;
  pid_t driver = 0;
};
HandlerState handler_state;

// The parent was in the middle of anything: no lock of the library can be trusted here, so only system calls.
void fork_in_handler(int) {
  auto& journal = handler_state.witness->actors[handler_state.slot];
  const auto into = journal.fork_into.load();
  if (into >= slots_max || journal.fork_in_handler.load() == 0) return;
  const auto pid = fork_sibling(handler_state.witness->actors[into].pid);
  if (pid != 0) {
    journal.fork_into.store(no_fork);
    return;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != handler_state.driver) ::_exit(0);
  handler_state.witness->actors[into].phase.store(Phase::idle);
  // Half of them close what they inherited: that must not take any lock from the parent.
  if (into % 2 == 0) ::close_range(3, ~0U, 0);
  for (;;) ::pause();
}

}  // namespace

void install_fork_handler(const Stage& stage, std::uint32_t slot) {
  handler_state = {stage.witness, slot, stage.driver};
  struct sigaction action{};
  action.sa_handler = fork_in_handler;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGUSR1, &action, nullptr);
}

pid_t fork_sibling(std::atomic<pid_t>& pid) noexcept {
  static_assert(sizeof(pid) == sizeof(pid_t) && std::atomic<pid_t>::is_always_lock_free);
  return static_cast<pid_t>(::syscall(SYS_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, nullptr,
                                      reinterpret_cast<pid_t*>(&pid), nullptr, 0));
}

}  // namespace sluice::verify
