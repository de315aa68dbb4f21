// How the driver hurts: kills, kills of who is recovering, stops, forks.
#include "tests/verify/soak/driver.hpp"

#include <algorithm>
#include <chrono>
#include <ranges>

namespace sluice::verify {

using namespace std::chrono_literals;

void Driver::strike() {
  const auto alive = processes_.alive();
  if (alive.empty()) return;
  const auto one = alive[random(alive.size())];
  const auto what = random(100);
  if (what < 62) return kill_one(one);
  if (what < 82) return hunt_recoverer();
  if (what < 86) {  // several at once
    for (const auto slot : alive)
      if (chance(3)) kill_one(slot);
    return;
  }
  if (what < 94) return stop_one();
  fork_one();
}

// Who is stopped in the middle of a recovery dies in it; of others it is not known.
void Driver::kill_one(std::uint32_t slot) {
  if (processes_[slot].is_stopped && holds_claim(processes_[slot].pid)) ++totals_.kills_while_recovering;
  processes_.kill(slot);
}

// Kill and see at once whether it has died with a claim on somebody's row.
void Driver::kill_and_look(std::uint32_t slot) {
  processes_.kill(slot);
  const auto ended = processes_.wait_for(slot);
  if (holds_claim(ended.pid)) ++totals_.kills_while_recovering;
  take_account(ended);
}

// Somebody dies; who comes to recover him dies over it, or is stopped over it.
void Driver::hunt_recoverer() {
  const auto alive = processes_.alive();
  kill_one(alive[random(alive.size())]);
  // Without giving up the processor: a recovery takes some microseconds.
  const auto deadline = Clock::now() + 4ms;
  pid_t claimer = 0;
  while ((claimer = claimer_of_any()) == 0 && Clock::now() < deadline) continue;
  if (claimer == 0) return;
  for (auto spins = random(100); spins != 0; --spins) cpu_relax();
  for (const auto slot : processes_.alive()) {
    if (processes_[slot].pid != claimer || processes_[slot].is_stopped) continue;
    if (!chance(2)) return kill_and_look(slot);
    ++totals_.stops;
    return processes_.stop(slot, std::chrono::milliseconds(5 + random(150)));
  }
}

void Driver::stop_one() {
  std::vector<std::uint32_t> candidates;
  for (const auto slot : processes_.alive())
    if (!processes_[slot].is_stopped && !processes_.is_idle(slot)) candidates.push_back(slot);
  // Somebody goes on working.
  if (candidates.size() <= options_.processes / 2) return;
  ++totals_.stops;
  processes_.stop(candidates[random(candidates.size())], std::chrono::milliseconds(5 + random(150)));
}

void Driver::fork_one() {
  for (std::uint32_t child = options_.processes; child < processes_.size(); ++child) {
    if (processes_[child].state != ProcessSet::Slot::State::empty) continue;
    const auto alive = processes_.alive();
    const auto parent = alive[random(alive.size())];
    const auto& journal = processes_.journal(parent);
    const bool is_asked =
        std::ranges::any_of(std::views::iota(0U, processes_.size()), [&](std::uint32_t slot) {
          return processes_[slot].state == ProcessSet::Slot::State::promised &&
                 processes_[slot].promised_by == parent;
        });
    // A process that has not begun has no handler yet.
    if (is_asked || processes_.is_idle(parent) || journal.steps == processes_[parent].steps_at_start) return;
    processes_.ask_fork(parent, child, chance(2));
    return;
  }
}

namespace {

std::uint64_t word_of(const Segment& segment, std::uint64_t row) noexcept {
  return load(process_row(segment, row).word, acquire);
}

// The pid in the row that a RECOVERING word names, or 0.
pid_t claimer_in(const Segment& segment, std::uint64_t word) noexcept {
  if (process_word::state(word) != ProcessState::recovering) return 0;
  const auto row = process_word::ClaimerRow::get(word);
  if (row >= segment.header().process_count) return 0;
  const auto incarnation = process_word::Incarnation::get(word_of(segment, row));
  if (incarnation != process_word::ClaimerIncarnation::get(word)) return 0;
  return static_cast<pid_t>(load(process_row(segment, row).pid, relaxed));
}

}  // namespace

bool Driver::holds_claim(pid_t pid) const {
  for (std::uint64_t row = 0; row < watched_.header().process_count; ++row)
    if (claimer_in(watched_, word_of(watched_, row)) == pid) return true;
  return false;
}

pid_t Driver::claimer_of_any() const {
  for (std::uint64_t row = 0; row < watched_.header().process_count; ++row)
    if (const auto pid = claimer_in(watched_, word_of(watched_, row)); pid != 0) return pid;
  return 0;
}

}  // namespace sluice::verify
