// Deaths while a message goes on from one queue to another, for every pair of kinds between which that is one step.
#include "ipc/audit.hpp"
#include "runtime/consumer.hpp"
#include "tests/crash/scenario.hpp"
#include "tests/support/stages.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <csignal>

namespace sluice::test {

namespace {

constexpr std::uint64_t stocked = 5, forwarded = 4;
constexpr std::size_t from_streams = 3;  // the first pairs

void forward_all(const std::string& path, Journal& journal, const StagePair& pair) {
  const Victim self(path);
  Forwarder forwarder(*self.lane, pair);
  for (std::uint64_t i = 0; i < forwarded; ++i) {
    must(forwarder.forward_next());
    ++journal.done;
  }
  self.lane->heap().flush();
}

bool has_moved(std::string_view point) {
  constexpr std::string_view behind[] = {"stream.push.published", "work.push.published",
                                         "queue.forward.moved", "queue.forward.left",
                                         "queue.forward.cleared"};
  return std::ranges::find(behind, point) != std::end(behind);
}

void check_numbers(const std::vector<StagedMessage>& found, std::uint64_t first, std::uint64_t end) {
  REQUIRE(found.size() == end - first);
  for (std::uint64_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].number == first + i);
    CHECK(found[i].is_whole);
  }
}

// Each is in one of both, the one that was under way too; what was at hand comes again, and says so.
void check_forwarded(Stage& stage, std::string_view point) {
  const auto done = stage.journal->done + (has_moved(point) ? 1 : 0);
  check_numbers(drain_stage(*stage.lane, to_name), 0, done);
  const auto left = drain_stage(*stage.lane, from_name);
  check_numbers(left, done, stocked);
  for (std::size_t i = 1; i < left.size(); ++i) CHECK(left[i].deliveries == 0);
}

// A lane's only message that is under way is the one that its cells speak of.
void die_forwarding(Stage& stage, const StagePair& pair, std::string_view point) {
  make_stages(*stage.lane, pair, stocked);
  const auto ended = run_child([&] {
    const Victim self(stage.path());
    Forwarder forwarder(*self.lane, pair);
    must(forwarder.forward_next());
    kill_self_at(point);
    must(forwarder.forward_next());
  });
  REQUIRE(ended.signal == SIGKILL);
  stage.journal->done = has_moved(point) ? 2 : 1;
}

void open_and_leave(const std::string& path, Journal&) { must(Session::open(path, "recoverer")); }

}  // namespace

std::vector<Scenario> forward_scenarios() {
  std::vector<Scenario> scenarios;
  for (const auto& pair : stage_pairs)
    scenarios.push_back(
        {.name = std::string(pair.name),
         .act = [&](const std::string& path, Journal& journal) { forward_all(path, journal, pair); },
         .prepare = [&](Stage& stage) { make_stages(*stage.lane, pair, stocked); },
         .check = check_forwarded,
         .units = 14,
         .own_stream = false});
  for (const auto* point : {"queue.forward.announced", "queue.forward.moved"})
    scenarios.push_back({.name = std::string("recover a stream's forwarder that died at ") + point,
                         .act = open_and_leave,
                         .prepare = [=](Stage& stage) { die_forwarding(stage, stage_pairs[1], point); },
                         .check = [](Stage& stage, std::string_view) { check_forwarded(stage, {}); },
                         .units = 14,
                         .own_stream = false});
  return scenarios;
}

TEST_CASE("forward: a death at any crash point leaves each message once, in one queue",
          "[ipc][crash][queue]") {
  const auto scenarios = forward_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("forward: a recoverer killed at any crash point is continued by the next, from a stream",
          "[ipc][crash][queue]") {
  const auto scenarios = forward_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, from_streams));
  survive_every_pair_of_crashes(scenarios[index]);
}

TEST_CASE("forward: a recoverer killed at any crash point is continued by the next, from a work queue",
          "[ipc][crash][queue]") {
  const auto scenarios = forward_scenarios();
  const auto index = GENERATE_REF(range(from_streams, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

// Published and then passed: in both until a subscriber that begins there again has passed it as well.
TEST_CASE("forward: a death leaves what a broadcast's subscriber was forwarding there, and perhaps in both",
          "[runtime][crash][queue]") {
  if (!crashes_can_be_tested()) return;
  const auto [point, copies] =
      GENERATE(table<std::string_view, std::size_t>({{"stream.push.announced", 0},
                                                     {"stream.push.filled", 0},
                                                     {"stream.push.published", 1},
                                                     {"stream.push.cleared", 1},
                                                     {"broadcast.read.advanced", 1}}));
  CAPTURE(point);
  Stage stage(14);
  make_stages(*stage.lane, {QueueKind::broadcast, QueueKind::stream, {}}, stocked);
  const auto ended = run_child([&] {
    const Victim self(stage.path());
    auto from = must(Consumer::open(*self.lane, from_name, {.start = Start::at(0)}));
    auto to = must(Producer::open(*self.lane, to_name));
    auto received = must(from.try_receive());
    kill_self_at(point);
    must(received.forward(to, {}));
  });
  REQUIRE(ended.signal == SIGKILL);
  for (const auto& violation : audit(stage.segment()).violations) FAIL_CHECK("audit: " << violation.what);
  CHECK(stage.session.recover_dead().disagreements.empty());
  for (const auto& violation : audit(stage.segment()).violations) FAIL_CHECK("audit: " << violation.what);
  CHECK(drain_stage(*stage.lane, to_name).size() == copies);
  check_numbers(drain_stage(*stage.lane, from_name), 0, stocked);
}

}  // namespace sluice::test
