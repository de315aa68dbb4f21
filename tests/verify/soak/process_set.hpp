// The processes of a soak, by slot. All are children of the driver, also those that others have forked; so a pid
// that was not waited for is nobody else's, and every one is waited for.
//
// Thread safety: single-threaded; the driver's.
#pragma once

#include "tests/verify/soak/actor.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sluice::verify {

using Clock = std::chrono::steady_clock;

class ProcessSet {
 public:
  struct Slot {
    enum class State : std::uint8_t { empty, promised, running } state = State::empty;
    pid_t pid = 0;
    Role role = Role::sharer;
    bool is_stopped = false;
    bool is_killed = false;  // SIGKILL is on its way
    std::uint32_t promised_by = 0;
    Clock::time_point wake_at{};   // when a stopped one goes on
    Clock::time_point start_at{};  // when an empty one is filled again
    std::uint64_t steps_at_start = 0;
    std::uint64_t steps_seen = 0;
    Clock::time_point moved_at{};  // when its steps were last seen to grow
  };
  struct Ended {
    std::uint32_t slot = 0;
    pid_t pid = 0;
    Role role = Role::sharer;
    bool was_killed = false;  // by this
    int code = -1;
    int signal = 0;
  };

  ProcessSet(Stage stage, std::uint32_t slots);
  ~ProcessSet() { kill_all(); }
  ProcessSet(const ProcessSet&) = delete;
  ProcessSet& operator=(const ProcessSet&) = delete;

  void start(std::uint32_t slot, Role role, std::uint64_t seed);
  void kill(std::uint32_t slot);
  void stop(std::uint32_t slot, Clock::duration how_long);
  void go_on(std::uint32_t slot);
  /// Have the process in `parent` make a child, which will be in `child`.
  void ask_fork(std::uint32_t parent, std::uint32_t child, bool in_handler);

  /// Who has ended since. Never waits.
  std::vector<Ended> reap();
  /// Wait until a killed one is dead.
  Ended wait_for(std::uint32_t slot);
  /// Kill everybody, also who is born meanwhile.
  std::vector<Ended> kill_all();

  const Slot& operator[](std::uint32_t slot) const { return slots_[slot]; }
  Slot& operator[](std::uint32_t slot) { return slots_[slot]; }
  std::uint64_t births() const noexcept { return births_; }  // of children that were asked for
  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(slots_.size()); }
  /// Slots that run, and on which SIGKILL is not on its way.
  std::vector<std::uint32_t> alive() const;
  bool is_idle(std::uint32_t slot) const { return journal(slot).phase == Phase::idle; }
  ActorJournal& journal(std::uint32_t slot) const { return stage_.witness->actors[slot]; }
  const Stage& stage() const noexcept { return stage_; }

  /// A child outside the slots, which runs `body` and ends with what it returns.
  pid_t start_other(const std::function<int()>& body);

 private:
  void reset_journal(std::uint32_t slot);
  void note_births();
  Ended ended(std::uint32_t slot, int status);

  Stage stage_;
  std::vector<Slot> slots_;
  std::uint64_t births_ = 0;
};

}  // namespace sluice::verify
