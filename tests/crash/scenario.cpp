#include "tests/crash/scenario.hpp"

#include "ipc/audit.hpp"
#include "tests/support/model.hpp"

#include <catch2/catch.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

namespace sluice::test {

namespace {

// Under a sanitizer a fork costs thirty times as much: there every seventh pair is taken.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t pair_step_default = 7;
#else
constexpr std::size_t pair_step_default = 1;
#endif

std::size_t step_from(const char* variable, std::size_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoul(text, nullptr, 10);
}

// What was survived, said at the end where tests/verify/points asks for it.
struct Tally {
  std::size_t deaths = 0, pairs = 0, triples = 0;
  std::vector<bool> points = std::vector<bool>(crash_point_names.size());

  ~Tally() {
    if (std::getenv("SLUICE_CRASH_TALLY") == nullptr) return;
    fmt::print("points: {} of {} points, {} deaths, {} pairs, {} triples",
               std::count(points.begin(), points.end(), true), points.size(), deaths, pairs, triples);
  }
} tally;

bool is_one_of(std::string_view point, std::initializer_list<std::string_view> points) {
  return std::find(points.begin(), points.end(), point) != points.end();
}

// Of a batch, the nth passing of a point of the push is that of its nth message.
std::uint64_t tail_expected(const Scenario& scenario, const Journal& journal, std::string_view point,
                            std::uint64_t nth) {
  const bool published =
      scenario.own_stream &&
      is_one_of(point, {"stream.push.published", "stream.push.emptied", "stream.push.cleared"});
  const bool in_batch = scenario.batch > 1 && point.starts_with("stream.push.");
  return journal.pushed + (in_batch ? nth - 1 : 0) + (published ? 1 : 0);
}

// A batch is popped as a whole.
std::uint64_t head_expected(const Scenario& scenario, const Journal& journal, std::string_view point) {
  const bool advanced =
      scenario.own_stream && is_one_of(point, {"stream.pop.advanced", "stream.pop.cleared"});
  const bool releasing = scenario.acknowledges && point == "block.free_remote.freeing";
  return journal.popped + (advanced || releasing ? scenario.batch : 0);
}

void check_recovered(Stage& stage, const Scenario& scenario, std::string_view point, std::uint64_t nth = 1) {
  Complaints complaints;
  const auto& segment = stage.segment();
  // Before anybody recovers the dead the audit already tells the truth: nobody moves.
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit of the dead: " << violation.what);
  scenario.meanwhile(stage);
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit of the dead: " << violation.what);
  for (const auto& line : stage.session.recover_dead().disagreements) complaints.push_back(line);
  check_nothing_left_to_recover(stage.session, complaints);
  check_sound(segment, complaints);
  const auto& row = queue_row(segment, stage.stream.index);
  CHECK(pushed_messages(segment, row) == tail_expected(scenario, *stage.journal, point, nth));
  CHECK(row.head == head_expected(scenario, *stage.journal, point));
  check_live(stage, count_blocks_in_queues(segment), complaints);
  scenario.check(stage, point);
  check_drained(*stage.lane, stage.stream, complaints);
  for (const auto& [reference, seed] : stage.kept) must(stage.lane->heap().release(reference));
  stage.kept.clear();
  check_all_bytes_usable(*stage.lane, complaints);
  check_sound(segment, complaints);
  for (const auto& line : complaints) FAIL_CHECK(line);
}

Exit run_victim(Stage& stage, const Scenario& scenario, std::string_view point, std::uint64_t nth) {
  return run_child([&] {
    kill_self_at(point, nth);
    scenario.act(stage.path(), *stage.journal);
  });
}

void recover_in_child(const Stage& stage, const std::function<void()>& set_hook) {
  const auto ended = run_child([&] {
    set_hook();
    must(Session::open(stage.path(), "second"));
  });
  CHECK_FALSE(ended.timed_out);
  CHECK((ended.code == 0 || ended.signal == SIGKILL));
}

std::vector<std::uint64_t> to_vector(const CrashPasses& passes) {
  return {passes.count.begin(), passes.count.end()};
}

// The points that recovering from this death passes.
std::vector<std::uint64_t> passes_of_recovery(const Scenario& scenario, std::string_view point) {
  Stage stage(scenario.units);
  scenario.prepare(stage);
  run_victim(stage, scenario, point, 1);
  SharedWithChildren<CrashPasses> passes;
  recover_in_child(stage, [&] { count_passes(*passes); });
  return to_vector(*passes);
}

void survive_crash(const Scenario& scenario, std::string_view point, std::uint64_t nth) {
  CAPTURE(scenario.name, point, nth);
  Stage stage(scenario.units);
  scenario.prepare(stage);
  const auto ended = run_victim(stage, scenario, point, nth);
  REQUIRE(ended.signal == SIGKILL);  // else the point was not reached
  tally.points[crash_point_index(point)] = true;
  ++tally.deaths;
  check_recovered(stage, scenario, point, nth);
}

void survive_pair(const Scenario& scenario, std::string_view point, std::string_view point_of_recovery) {
  CAPTURE(scenario.name, point, point_of_recovery);
  Stage stage(scenario.units);
  scenario.prepare(stage);
  REQUIRE(run_victim(stage, scenario, point, 1).signal == SIGKILL);
  recover_in_child(stage, [&] { kill_self_at(point_of_recovery); });
  ++tally.pairs;
  check_recovered(stage, scenario, point);
}

// The recoverer of the recoverer is killed too.
void survive_triple(const Scenario& scenario, std::string_view point, std::string_view second,
                    std::string_view third) {
  CAPTURE(scenario.name, point, second, third);
  Stage stage(scenario.units);
  scenario.prepare(stage);
  REQUIRE(run_victim(stage, scenario, point, 1).signal == SIGKILL);
  recover_in_child(stage, [&] { kill_self_at(second); });
  recover_in_child(stage, [&] { kill_self_at(third); });
  ++tally.triples;
  check_recovered(stage, scenario, point);
}

}  // namespace

void Stage::push(std::uint64_t count) {
  auto producer = must(StreamProducer::claim(*lane, stream));
  for (std::uint64_t i = 0; i < count; ++i) push_numbered(*lane, producer, *journal, 20000);
}

Victim::Victim(const std::string& path, const LaneOptions& options)
    : session(must(Session::open(path, "victim"))), lane(must(session.claim_lane(options))) {}

StreamProducer Victim::producer(Lane& of) const {
  return must(StreamProducer::claim(of, must(find_queue(session.segment(), stream_name))));
}

StreamConsumer Victim::consumer(Lane& of) const {
  return must(StreamConsumer::claim(of, must(find_queue(session.segment(), stream_name))));
}

void push_numbered(Lane& lane, StreamProducer& producer, Journal& journal, std::size_t bytes, bool shared) {
  push_numbered(lane, producer, bytes, shared);
  ++journal.pushed;
}

bool crashes_can_be_tested() {
  if (!has_crash_points) WARN("skipped: this build has no crash points (SLUICE_CRASH_POINTS)");
  return has_crash_points;
}

std::vector<std::uint64_t> passes_of(const Scenario& scenario) {
  CAPTURE(scenario.name);
  Stage stage(scenario.units);
  scenario.prepare(stage);
  SharedWithChildren<CrashPasses> passes;
  const auto ended = run_child([&] {
    count_passes(*passes);
    scenario.act(stage.path(), *stage.journal);
  });
  REQUIRE(ended.code == 0);
  return to_vector(*passes);
}

void survive_every_crash(const Scenario& scenario) {
  if (!crashes_can_be_tested()) return;
  const auto passes = passes_of(scenario);
  for (std::size_t point = 0; point < passes.size(); ++point)
    for (std::uint64_t nth = 1; nth <= std::min<std::uint64_t>(passes[point], 2); ++nth)
      survive_crash(scenario, crash_point_names[point], nth);
}

void survive_every_pair_of_crashes(const Scenario& scenario) {
  if (!crashes_can_be_tested()) return;
  static const auto pair_step = step_from("SLUICE_CRASH_PAIR_STEP", pair_step_default);
  static const auto triple_step = step_from("SLUICE_CRASH_TRIPLE_STEP", 0);
  const auto passes = passes_of(scenario);
  std::size_t pairs = 0, triples = 0;
  for (std::size_t point = 0; point < passes.size(); ++point) {
    if (passes[point] == 0) continue;
    const auto of_recovery = passes_of_recovery(scenario, crash_point_names[point]);
    for (std::size_t second = 0; second < of_recovery.size(); ++second) {
      if (of_recovery[second] == 0) continue;
      if (pairs++ % pair_step == 0)
        survive_pair(scenario, crash_point_names[point], crash_point_names[second]);
      for (std::size_t third = 0; third < of_recovery.size() && triple_step != 0; ++third)
        if (of_recovery[third] != 0 && triples++ % triple_step == 0)
          survive_triple(scenario, crash_point_names[point], crash_point_names[second],
                         crash_point_names[third]);
    }
  }
}

}  // namespace sluice::test
