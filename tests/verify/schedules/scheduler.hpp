// Runs one schedule: runs the actors in turns, as the seed says, and kills.
//
// Its unit is the event: an actor's instructions up to the next one that touches a word of the segment that others
// change too. What lies between two such instructions nobody else can see, so that no order is left out; and what
// differs from run to run (a pid's digits, a time) lies there, so that a seed is the same schedule each time.
#pragma once

#include "tests/verify/schedules/actor.hpp"
#include "tests/verify/schedules/touch.hpp"
#include "tests/verify/support/memory_operand.hpp"

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace sluice::verify {

struct Counts {
  std::uint64_t instructions = 0, events = 0, preemptions = 0, kills = 0;
};

/// One event, for people. `address` of the code, or 0 where an operation begins.
struct Event {
  std::size_t actor = 0;
  std::uint64_t address = 0;
  std::string what;
};

class Scheduler {
 public:
  /// Actors are forks of the caller. `trace`: keep what happened last.
  Scheduler(Board& board, const Plan& plan, std::string path, const Segment& view, const Traps& traps,
            bool trace);

  /// Until all actors have finished or died. Failures are on the board.
  void run();
  /// SIGKILL to all that are left.
  void kill_all();

  Counts counts;
  std::uint64_t hash = 0;  // of the order of events: the same for the same seed
  std::deque<Event> trace;

 private:
  struct Actor {
    std::unique_ptr<Stepper> stepper;
    std::uint64_t at = 0;  // the instruction that it stands before, where that has a breakpoint
    std::int64_t priority = 0;
    std::uint64_t pending = 0;       // offset of the shared word that its next instruction touches; 0: none
    bool yields = false;             // it asked for others to run
    bool changed = false;            // its last event changed a word that others change
    bool frozen = false;             // until nobody else is left
    std::uint64_t doomed_at = 0;     // not 0: it stands still until this event, then it dies
    std::uint64_t instructions = 0;  // of its operation
  };

  void start(bool joined);
  bool is_over(std::size_t index) const;
  std::size_t choose();
  void change_if_due();
  void kill_if_due();
  bool is_in_the_middle(std::size_t index) const;
  void kill(std::size_t index);
  void advance(std::size_t index, std::uint64_t own_max = ~std::uint64_t{0});
  bool run_on(std::size_t index);
  void begin_operation(std::size_t index);
  Touch touch(std::size_t index, const user_regs_struct& registers, std::uint64_t& offset) const;
  std::uint64_t word_at(std::uint64_t offset) const;
  void note(std::size_t index, std::uint64_t address, std::uint64_t offset, std::string what);

  Board& board_;
  const Plan& plan_;
  std::string path_;
  const Segment& view_;
  const Traps& traps_;
  bool tracing_;
  Random random_;
  std::vector<Actor> actors_;
  std::vector<std::uint64_t> change_at_, kill_at_;
  std::size_t running_ = 0;
  std::int64_t lowest_ = 0;
  std::uint32_t replacements_due_ = 0;
  bool wants_victim_ = false;  // the next actor that is in the middle of something
};

}  // namespace sluice::verify
