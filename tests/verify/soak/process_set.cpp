#include "tests/verify/soak/process_set.hpp"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::verify {

ProcessSet::ProcessSet(Stage stage, std::uint32_t slots) : stage_(std::move(stage)), slots_(slots) {}

void ProcessSet::reset_journal(std::uint32_t slot) {
  auto& reset = journal(slot);
  begin_life(reset);
  reset.pid = 0;
  reset.phase = Phase::starting;
  reset.held = 0;
  reset.leases = 0;
  reset.order = Order::run;
  reset.fork_into = no_fork;
  reset.failure[0] = '\0';
}

pid_t ProcessSet::start_other(const std::function<int()>& body) {
  std::fflush(nullptr);
  const auto pid = ::fork();
  if (pid < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
  if (::getppid() != stage_.driver) ::_exit(0);
  ::_exit(body());
}

void ProcessSet::start(std::uint32_t slot, Role role, std::uint64_t seed) {
  reset_journal(slot);
  const auto pid = start_other([&]() -> int { Actor(stage_, slot, role, seed).run(); });
  journal(slot).pid = pid;
  slots_[slot] = {.state = Slot::State::running,
                  .pid = pid,
                  .role = role,
                  .steps_at_start = journal(slot).steps,
                  .moved_at = Clock::now()};
}

void ProcessSet::ask_fork(std::uint32_t parent, std::uint32_t child, bool in_handler) {
  reset_journal(child);
  slots_[child] = {.state = Slot::State::promised,
                   .role = slots_[parent].role,
                   .promised_by = parent,
                   .steps_at_start = journal(child).steps};
  journal(parent).fork_in_handler = in_handler ? 1 : 0;
  journal(parent).fork_into = child;
  if (in_handler) ::kill(slots_[parent].pid, SIGUSR1);
}

void ProcessSet::kill(std::uint32_t slot) {
  slots_[slot].is_killed = true;
  journal(slot).life |= life_word::Doomed::make(1);
  ::kill(slots_[slot].pid, SIGKILL);
}

void ProcessSet::stop(std::uint32_t slot, Clock::duration how_long) {
  slots_[slot].is_stopped = true;
  slots_[slot].wake_at = Clock::now() + how_long;
  ::kill(slots_[slot].pid, SIGSTOP);
}

void ProcessSet::go_on(std::uint32_t slot) {
  slots_[slot].is_stopped = false;
  slots_[slot].moved_at = Clock::now();
  ::kill(slots_[slot].pid, SIGCONT);
}

void ProcessSet::note_births() {
  for (std::uint32_t slot = 0; slot < size(); ++slot) {
    auto& each = slots_[slot];
    if (each.state != Slot::State::promised) continue;
    if (const auto pid = journal(slot).pid.load(); pid > 0) {
      each.state = Slot::State::running;
      each.pid = pid;
      ++births_;
      each.moved_at = Clock::now();
    }
  }
}

ProcessSet::Ended ProcessSet::ended(std::uint32_t slot, int status) {
  const auto& each = slots_[slot];
  const Ended result{.slot = slot,
                     .pid = each.pid,
                     .role = each.role,
                     .was_killed = each.is_killed,
                     .code = WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                     .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0};
  // What it was in the middle of may have happened.
  auto& hands = stage_.witness->hands[slot];
  if (const auto queue = hands.pushing_to.exchange(0); queue != 0)
    ++stage_.witness->work[queue - 1].deaths_in_push;
  if (const auto queue = hands.taking_from.exchange(0); queue != 0)
    ++stage_.witness->work[queue - 1].deaths_in_take;
  note_births();  // the last moment for a child of this one to be known by its pid
  for (auto& child : slots_)
    if (child.state == Slot::State::promised && child.promised_by == slot) child = {};
  slots_[slot] = {};
  journal(slot).phase =
      Phase::starting;  // who was killed may have obeyed before it died, and holds nothing now
  return result;
}

std::vector<ProcessSet::Ended> ProcessSet::reap() {
  note_births();
  std::vector<Ended> all;
  for (std::uint32_t slot = 0; slot < size(); ++slot) {
    int status = 0;
    if (slots_[slot].state == Slot::State::running && ::waitpid(slots_[slot].pid, &status, WNOHANG) > 0)
      all.push_back(ended(slot, status));
  }
  return all;
}

ProcessSet::Ended ProcessSet::wait_for(std::uint32_t slot) {
  int status = 0;
  while (::waitpid(slots_[slot].pid, &status, 0) < 0 && errno == EINTR) continue;
  return ended(slot, status);
}

std::vector<std::uint32_t> ProcessSet::alive() const {
  std::vector<std::uint32_t> all;
  for (std::uint32_t slot = 0; slot < size(); ++slot)
    if (slots_[slot].state == Slot::State::running && !slots_[slot].is_killed) all.push_back(slot);
  return all;
}

std::vector<ProcessSet::Ended> ProcessSet::kill_all() {
  std::vector<Ended> all;
  // A child may be born while its parent is being killed: again, until nobody is left.
  for (bool is_left = true; is_left;) {
    is_left = false;
    note_births();
    for (std::uint32_t slot = 0; slot < size(); ++slot)
      if (slots_[slot].state == Slot::State::running) kill(slot);
    for (std::uint32_t slot = 0; slot < size(); ++slot)
      if (slots_[slot].state == Slot::State::running) {
        all.push_back(wait_for(slot));
        is_left = true;
      }
  }
  return all;
}

}  // namespace sluice::verify
