// Decides who is started, killed, stopped and forked, and when all of it is looked at. Decisions follow from the
// seed; what they hit does not.
//
// The driver maps the segment read-only and is no member: nothing that it does can be lost with it.
#pragma once

#include "tests/verify/soak/checker.hpp"
#include "tests/verify/soak/process_set.hpp"

#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace sluice::verify {

struct SoakOptions {
  std::uint64_t kills = 20'000;
  std::uint64_t kills_min = 0;  // fewer are a failure
  double seconds = 0;           // 0: until there are so many kills
  std::uint64_t seed = 1;
  std::uint32_t processes = 16;
  std::uint32_t kills_between_checks = 300;
  std::string directory = "/dev/shm";
};

struct SoakTotals {
  std::uint64_t kills = 0, kills_of_recoverers = 0, kills_while_recovering = 0;
  std::uint64_t stops = 0, forks = 0, started = 0, checks = 0, segments = 0;
  std::uint64_t messages = 0, redelivered = 0, clones = 0, look_ups = 0, blocks = 0, runs = 0, recovered = 0;
  std::uint64_t worked = 0, returned = 0;              // messages of work queues
  std::uint64_t read = 0, lost = 0, disconnected = 0;  // of broadcasts
  std::vector<std::string> failures;
};

class Driver {
 public:
  Driver(const SoakOptions& options, Witness& witness, const std::atomic<bool>& interrupted);
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  SoakTotals run();

 private:
  void create_segment();
  void remove_segment();
  bool is_over() const;

  void step();
  void start_missing();
  void wake_stopped();
  void strike();
  void kill_one(std::uint32_t slot);
  void kill_and_look(std::uint32_t slot);
  void hunt_recoverer();
  void stop_one();
  void fork_one();
  void watch();
  void take_account(const ProcessSet::Ended& ended);
  void count_kill(const ProcessSet::Ended& ended);
  bool holds_claim(pid_t pid) const;
  pid_t claimer_of_any() const;

  void park();
  void desert(bool in_order);
  void hold();
  void kill_recoverers();
  bool wait_all(Order order);
  void check(bool is_deserted);

  void fail(std::string what);
  void show_progress();
  void add_up();
  std::uint64_t random(std::uint64_t below) { return random_() % below; }
  bool chance(std::uint64_t one_in) { return random(one_in) == 0; }

  SoakOptions options_;
  Witness& witness_;
  const std::atomic<bool>& interrupted_;
  std::mt19937_64 random_;
  std::string directory_;
  Segment watched_;  // read-only
  ProcessSet processes_;
  SoakTotals totals_;
  std::uint64_t messages_before_ = 0;  // in segments that are gone
  std::uint64_t redelivered_before_ = 0;
  std::uint64_t messages_seen_ = 0;
  Clock::time_point messages_moved_at_;
  Clock::time_point began_, shown_at_;
};

}  // namespace sluice::verify
