#include "tests/crash/scenario.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"

#include <catch2/catch.hpp>

#include <csignal>

namespace sluice::test {

namespace {

// Under a sanitizer a fork costs thirty times as much: there every seventh pair is taken.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t pair_step = 7;
#else
constexpr std::size_t pair_step = 1;
#endif

constexpr std::size_t kept_sizes[] = {64, 1000, 4096, 20000, 100'000};

bool is_one_of(std::string_view point, std::initializer_list<std::string_view> points) {
  return std::find(points.begin(), points.end(), point) != points.end();
}

std::uint64_t tail_expected(const Journal& journal, std::string_view point) {
  const bool published =
      is_one_of(point, {"stream.push.published", "stream.push.emptied", "stream.push.cleared"});
  return journal.pushed + (published ? 1 : 0);
}

std::uint64_t head_expected(const Scenario& scenario, const Journal& journal, std::string_view point) {
  const bool advanced = is_one_of(point, {"stream.pop.advanced", "stream.pop.cleared"});
  const bool releasing = scenario.acknowledges && point == "block.free_remote.freeing";
  return journal.popped + (advanced || releasing ? 1 : 0);
}

void check_nothing_left_to_recover(Stage& stage) {
  const auto again = stage.session.recover_dead();
  CHECK(again.processes == 0);
  CHECK(again.lanes == 0);
  CHECK(again.references == 0);
  CHECK(again.moves == 0);
  CHECK(again.roles == 0);
  CHECK(again.disagreements.empty());
}

void check_sound(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit: " << violation.what);
  for (const auto& line : take_census(segment).contradictions()) FAIL_CHECK("census: " << line);
}

// Before anybody recovers the dead the audit already tells the truth: nobody moves.
void check_sound_but_dead(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit of the dead: " << violation.what);
}

// Everything live is what the survivor holds and what waits in the stream, and nothing more.
void check_model(Stage& stage, std::uint64_t messages_with_block) {
  const auto census = take_census(stage.session.segment());
  CHECK(census.live.size() == stage.kept.size() + messages_with_block);
  for (const auto& [reference, seed] : stage.kept)
    CHECK(has_pattern(stage.lane->heap().bytes(reference), seed));
}

std::uint64_t count_blocks_in_stream(const Stage& stage) {
  const auto& segment = stage.session.segment();
  const auto& row = queue_row(segment, stage.stream.index);
  std::uint64_t count = 0;
  const auto tail = pushed_messages(segment, row);
  for (auto position = row.head; position < tail; ++position)
    if (message_slot(segment, row, position).handle != 0) ++count;
  return count;
}

// Takes over as consumer, and finds each number once, in order, with its bytes.
void drain_stream(Stage& stage) {
  const auto& segment = stage.session.segment();
  const auto& row = queue_row(segment, stage.stream.index);
  const auto tail = pushed_messages(segment, row);
  auto consumer = must(StreamConsumer::claim(*stage.lane, stage.stream));
  auto number = row.head;
  while (const auto* message = consumer.peek()) {
    CHECK(is_numbered(segment, *message, number));
    must(consumer.acknowledge());
    ++number;
  }
  CHECK(number == tail);
}

void check_all_bytes_usable(Stage& stage) {
  for (const auto& [reference, seed] : stage.kept) must(stage.lane->heap().release(reference));
  stage.kept.clear();
  const auto& segment = stage.session.segment();
  for (const std::size_t bytes : {std::size_t{20480}, std::size_t{64}, std::size_t{unit_bytes}}) {
    CAPTURE(bytes);
    const auto expected = capacity_expected(segment, bytes);
    if (expected < stage.lane->heap().cells_free()) CHECK(capacity_for(*stage.lane, bytes) == expected);
  }
  const auto longest = stage.lane->heap().allocate(longest_stretch(segment) * unit_bytes);
  CHECK(longest.has_value());
  if (longest) must(stage.lane->heap().release(*longest));
  CHECK(take_census(segment).live.empty());
}

void check_recovered(Stage& stage, const Scenario& scenario, std::string_view point) {
  check_sound_but_dead(stage.session.segment());
  scenario.meanwhile(stage);
  check_sound_but_dead(stage.session.segment());
  const auto recovered = stage.session.recover_dead();
  CHECK(recovered.disagreements.empty());
  check_nothing_left_to_recover(stage);
  check_sound(stage.session.segment());
  const auto& row = queue_row(stage.session.segment(), stage.stream.index);
  CHECK(pushed_messages(stage.session.segment(), row) == tail_expected(*stage.journal, point));
  CHECK(row.head == head_expected(scenario, *stage.journal, point));
  check_model(stage, count_blocks_in_stream(stage));
  scenario.check(stage, point);
  drain_stream(stage);
  check_all_bytes_usable(stage);
  check_sound(stage.session.segment());
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
  check_recovered(stage, scenario, point);
}

void survive_pair(const Scenario& scenario, std::string_view point, std::string_view point_of_recovery) {
  CAPTURE(scenario.name, point, point_of_recovery);
  Stage stage(scenario.units);
  scenario.prepare(stage);
  REQUIRE(run_victim(stage, scenario, point, 1).signal == SIGKILL);
  recover_in_child(stage, [&] { kill_self_at(point_of_recovery); });
  check_recovered(stage, scenario, point);
}

}  // namespace

Stage::Stage(std::uint64_t units)
    : file(small_options(units)),
      session(must(Session::open(file.path(), "survivor"))),
      lane(must(session.claim_lane({.cells = 32768, .name = "survivor"}))),
      stream(must(create_stream(*lane, stream_name, stream_capacity))) {
  for (const auto bytes : kept_sizes) {
    kept.emplace_back(must(lane->heap().allocate(bytes)), kept.size());
    fill_pattern(lane->heap().bytes(kept.back().first), kept.back().second);
  }
}

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
  const auto number = producer.tail();
  Message message{};
  message.kind = MessageKind::data;
  message.position = number;
  message.length = static_cast<std::uint32_t>(bytes);
  if (bytes == 0) {
    must(producer.push(message));
  } else {
    const auto reference = must(lane.heap().allocate(bytes));
    fill_pattern(lane.heap().bytes(reference).first(bytes), number);
    if (shared) {
      const auto second = must(lane.heap().clone(reference));
      must(lane.heap().release(reference));
      must(producer.push(message, second));
    } else {
      must(producer.push(message, reference));
    }
  }
  ++journal.pushed;
}

bool is_numbered(const Segment& segment, const Message& message, std::uint64_t number) {
  if (message.position != number || message.kind != MessageKind::data) return false;
  if (message.length == 0) return message.handle == 0;
  const auto block = find_block(segment, Handle{message.handle});
  return block && block->bytes >= message.length && has_pattern(block->span().first(message.length), number);
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
  const auto passes = passes_of(scenario);
  std::size_t pairs = 0;
  for (std::size_t point = 0; point < passes.size(); ++point) {
    if (passes[point] == 0) continue;
    const auto of_recovery = passes_of_recovery(scenario, crash_point_names[point]);
    for (std::size_t second = 0; second < of_recovery.size(); ++second)
      if (of_recovery[second] != 0 && pairs++ % pair_step == 0)
        survive_pair(scenario, crash_point_names[point], crash_point_names[second]);
  }
}

}  // namespace sluice::test
