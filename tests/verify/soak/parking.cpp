// When all of it is looked at: everybody killed, everybody gone in order, or everybody holding still.
#include "tests/verify/soak/driver.hpp"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <thread>

#include <sys/wait.h>

namespace sluice::verify {

using namespace std::chrono_literals;

namespace {
constexpr auto patience = 60s;
}

void Driver::park() {
  const auto how = random(10);
  if (how < 4)
    hold();
  else
    desert(how < 7);
  if (!totals_.failures.empty() || interrupted_) return;
  if (how >= 4 && chance(3)) {  // a new one, which grows again, and in which nothing was created yet
    remove_segment();
    create_segment();
  }
  messages_moved_at_ = Clock::now();
}

void Driver::desert(bool in_order) {
  if (in_order && !wait_all(Order::leave)) return;
  for (const auto& ended : processes_.kill_all()) take_account(ended);
  if (!totals_.failures.empty()) return;
  if (!in_order) kill_recoverers();
  check(true);
}

// Several in a row begin to recover all the dead, and die over it.
void Driver::kill_recoverers() {
  for (auto left = random(12); left != 0; --left) {
    const auto pid = processes_.start_other([&]() -> int {
      const auto session = Session::open(processes_.stage().path, "recoverer");
      return session ? 0 : exit_failed;
    });
    ++totals_.started;
    // Half of them once they have begun, the others at any time, also while they join.
    const auto deadline = Clock::now() + (chance(2) ? 50ms : std::chrono::microseconds(random(3000)));
    int status = 0;
    bool has_ended = false;
    while (!has_ended && claimer_of_any() != pid && Clock::now() < deadline)
      has_ended = ::waitpid(pid, &status, WNOHANG) > 0;
    for (auto spins = random(2000); spins != 0; --spins) cpu_relax();
    if (!has_ended) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
      ++totals_.kills;
      ++totals_.kills_of_recoverers;
      if (holds_claim(pid)) ++totals_.kills_while_recovering;
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      return fail("a recoverer of the deserted segment could not open it");
    }
  }
}

void Driver::hold() {
  if (!wait_all(Order::hold)) return;
  check(false);
  for (const auto slot : processes_.alive()) processes_.journal(slot).order = Order::run;
}

// Give everybody that order, and wait until all have obeyed. false: it was a failure.
bool Driver::wait_all(Order order) {
  const auto deadline = Clock::now() + patience;
  // Twice: a child that was born just before its parent obeyed is known the second time.
  for (int calm = 0; calm < 2;) {
    for (const auto& ended : processes_.reap()) take_account(ended);
    if (!totals_.failures.empty() || interrupted_) return false;
    std::string late;
    for (std::uint32_t slot = 0; slot < processes_.size(); ++slot) {
      const auto& each = processes_[slot];
      if (each.state != ProcessSet::Slot::State::running) continue;
      if (each.is_stopped && !each.is_killed) processes_.go_on(slot);
      processes_.journal(slot).order = order;
      // Who is being killed may still be at it.
      const bool is_dying = each.is_killed;
      const bool has_obeyed = processes_.is_idle(slot) ||
                              (order == Order::hold && processes_.journal(slot).phase == Phase::holding);
      if (is_dying || !has_obeyed)
        late += fmt::format(" {} in slot {} (pid {}{})", to_string(each.role), slot, each.pid,
                            is_dying ? ", killed" : "");
    }
    calm = late.empty() ? calm + 1 : 0;
    if (Clock::now() > deadline) {
      fail(fmt::format("stuck, told to {}:{}", order == Order::leave ? "leave" : "hold still", late));
      return false;
    }
    std::this_thread::sleep_for(500us);
  }
  return true;
}

void Driver::check(bool is_deserted) {
  const bool is_thorough = !chance(3);
  const auto slots = processes_.size();
  const auto pid = processes_.start_other([&]() -> int {
    const auto complaints = is_deserted ? check_deserted(processes_.stage(), is_thorough)
                                        : check_holding(processes_.stage(), slots);
    for (const auto& line : complaints) fmt::print(stderr, "soak: check: {}\n", line);
    return complaints.empty() ? 0 : exit_failed;
  });
  ++totals_.checks;
  const auto deadline = Clock::now() + patience;
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      return fail("a check did not end");
    }
    std::this_thread::sleep_for(500us);
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  const auto* what = is_deserted ? "with everybody gone" : "with everybody holding still";
  if (WIFSIGNALED(status))
    fail(fmt::format("a check {} was ended by signal {}", what, WTERMSIG(status)));
  else
    fail(fmt::format("a check {} found what is above", what));
}

}  // namespace sluice::verify
