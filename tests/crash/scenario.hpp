// A crash scenario: what a victim does to a segment in which others live. It is run once unharmed to learn the
// crash points that it passes, then again and again, killed at each; after every death the survivors recover
// and the segment is compared with the model in model.hpp and with the victim's journal.
//
// The victim counts in its journal what it finished. Together with the point at which it died that says
// exactly which messages must be in the stream.
#pragma once

#include "ipc/queues.hpp"
#include "ipc/stream.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/survivor.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::test {

/// Operations that returned, counted by who called them.
struct Journal {
  std::atomic<std::uint64_t> pushed{0};
  std::atomic<std::uint64_t> popped{0};
  std::atomic<std::uint64_t> done{0};  // with work queues: pushes or acknowledgements, as the scenario has it
  std::atomic<std::uint64_t> published{0};  // into a broadcast
};

/// The survivors' side, and what the victims tell it.
class Stage : public Survivor {
 public:
  explicit Stage(std::uint64_t units) : Survivor({.segment = small_options(units)}) {}

  /// Push `count` numbered messages as this process.
  void push(std::uint64_t count);

  SharedWithChildren<Journal> journal;
  std::shared_ptr<void> company;  // what a scenario keeps with this process's lane
};

struct Scenario {
  std::string name;
  std::function<void(const std::string& path, Journal&)> act;  // the victim
  std::function<void(Stage&)> prepare = [](Stage&) {};         // before it, in the parent
  std::function<void(Stage&)> meanwhile = [](Stage&) {};       // after the death, before it is recovered
  std::function<void(Stage&, std::string_view point)> check = [](Stage&, std::string_view) {};
  std::uint64_t units = 12;
  bool own_stream = true;     // its pushes and pops are of the stage's stream
  bool acknowledges = false;  // its pops are part of acknowledge(): a death in the release follows the pop
  std::uint64_t batch = 1;    // pushed or popped together, each with a block, before the journal counts them
};

/// What a victim begins with.
struct Victim {
  explicit Victim(const std::string& path, const LaneOptions& options = {.cells = 4096});
  StreamProducer producer(Lane& of) const;
  StreamConsumer consumer(Lane& of) const;

  Session session;
  std::unique_ptr<Lane> lane;
};

/// Push the next numbered message and say so in the journal.
void push_numbered(Lane& lane, StreamProducer& producer, Journal& journal, std::size_t bytes,
                   bool shared = false);

/// false, with a warning that says why, in builds without crash points.
bool crashes_can_be_tested();

/// Kill the victim at each point it passes, at its first and second passing, and check after each.
void survive_every_crash(const Scenario& scenario);
/// Kill the victim at each point, then the one who recovers it at each point, then check. Environment, for
/// tests/verify/points: SLUICE_CRASH_PAIR_STEP takes every nth pair, SLUICE_CRASH_TRIPLE_STEP (0: none) every
/// nth triple, in which the recoverer of the recoverer is killed as well; SLUICE_CRASH_TALLY prints the counts.
void survive_every_pair_of_crashes(const Scenario& scenario);
/// The number of times that an unharmed victim passes each point.
std::vector<std::uint64_t> passes_of(const Scenario& scenario);

std::vector<Scenario> segment_scenarios();
std::vector<Scenario> heap_scenarios();
std::vector<Scenario> run_scenarios();
std::vector<Scenario> join_scenarios();
std::vector<Scenario> queue_scenarios();
std::vector<Scenario> stream_scenarios();
std::vector<Scenario> work_scenarios();
std::vector<Scenario> forward_scenarios();
std::vector<Scenario> broadcast_scenarios();
std::vector<Scenario> durable_scenarios();
std::vector<Scenario> shared_scenarios();
std::vector<Scenario> io_scenarios();
std::vector<Scenario> extents_scenarios();
std::vector<Scenario> extent_store_scenarios();
std::vector<Scenario> recovery_scenarios();

}  // namespace sluice::test
