#include "tests/verify/schedules/schedule.hpp"

#include <fmt/format.h>

#include <cstdio>

namespace sluice::verify {

using test::Complaints;
using test::must;

namespace {

SegmentOptions segment_options(const Plan& plan) {
  auto options = test::small_options(plan.units);
  options.lanes = 2 * lanes_max + 4;
  options.processes = actors_max + 2;
  options.queues = streams_max + work_queues_max + 1;
  options.cells_per_lane = 512;
  return options;
}

// Each step of setting up and judging is a process of its own: the driver joins nothing, so its forks hold nothing.
template <class Body>
void in_child(Board& board, const char* what, Body&& body) {
  const auto ended = test::run_child([&] { body(); });
  if (ended.code != 0)
    board.fail(fmt::format("{}: the process ended with signal {}, code {}", what, ended.signal, ended.code));
}

void tell(Board& board, const char* when, const Complaints& complaints) {
  std::string text;
  for (const auto& line : complaints) text += fmt::format("{}{}", text.empty() ? "" : "; ", line);
  if (!text.empty()) board.fail(fmt::format("{}: {}", when, text));
}

void set_up(Board& board, const Plan& plan, const std::string& path) {
  auto session = must(Session::open(path, "set up"));
  const auto lane = must(session.claim_lane({.cells = 64}));
  for (std::uint32_t i = 0; i < plan.streams; ++i)
    board.streams[i].id = must(create_stream(*lane, fmt::format("stream {}", i), plan.capacity));
  auto& work = board.work.queues;
  if (plan.work_queues != 0) {
    const auto create = [&](std::uint32_t queue, const WorkOptions& options) {
      work[queue].id = must(create_work_queue(*lane, fmt::format("work {}", queue), options));
    };
    create(0, {.capacity = plan.capacity});
    create(2, {.capacity = plan.capacity});
    work[1].limit = 2;
    work[1].dead_letter = 2;
    create(1, {.capacity = plan.capacity, .deliveries_max = 2, .dead_letter = "work 2"});
    work[3].drops = true;
    create(3, {.capacity = plan.capacity, .policy = QueuePolicy::drop_oldest});
  }
  if (plan.broadcasts != 0)
    board.broadcast.id =
        must(create_broadcast(*lane, "broadcast", {.capacity = plan.capacity, .subscribers_max = 3}));
}

// Everybody stands between two operations, or is dead.
void judge_alive(Board& board, const Plan& plan, const std::string& path) {
  Complaints complaints;
  auto session = must(Session::open(path, "judge"));
  test::check_nothing_left_to_recover(session, complaints);
  test::check_sound(session.segment(), complaints);
  check_holdings(board, session.segment(), complaints);
  check_owners_told(session.segment(), complaints);
  for (std::uint32_t i = 0; i < plan.work_queues; ++i) check_work(board, i, session.segment(), complaints);
  if (plan.broadcasts != 0) check_broadcast(board, session.segment(), complaints);
  tell(board, "all have finished", complaints);
}

void check_stream(const StreamModel& model, Lane& lane, Complaints& complaints) {
  auto consumer = must(StreamConsumer::claim(lane, model.id));
  auto number = model.popped;
  for (; const auto* message = consumer.peek(); ++number) {
    if (message->position != number || message->handle != model.handles[number % model.handles.size()])
      complaints.push_back(fmt::format("message {} is not the one that was pushed", number));
    const auto block = find_block(lane.segment(), Handle{message->handle});
    if (message->handle != 0 && !(block && is_marked(block->span(), message->handle)))
      complaints.push_back(fmt::format("message {}: its block has other bytes", number));
    must(consumer.acknowledge());
  }
  if (number != model.pushed)
    complaints.push_back(fmt::format("the stream ends at {}, expected {}", number, model.pushed));
}

// Everybody is dead.
void judge_dead(Board& board, const Plan& plan, const std::string& path) {
  Complaints complaints;
  auto session = must(Session::open(path, "judge"));
  test::check_nothing_left_to_recover(session, complaints);
  test::check_sound(session.segment(), complaints);
  check_holdings(board, session.segment(), complaints);
  const auto lane = must(session.claim_lane({.cells = 512}));
  for (std::uint32_t i = 0; i < plan.streams; ++i) check_stream(board.streams[i], *lane, complaints);
  for (std::uint32_t i = 0; i < plan.work_queues; ++i) check_work(board, i, session.segment(), complaints);
  if (plan.work_queues != 0) drain_work(board, *lane, complaints);
  if (plan.broadcasts != 0) drain_broadcast(board, *lane, complaints);
  test::check_all_bytes_usable(*lane, complaints);
  test::check_sound(session.segment(), complaints);
  tell(board, "all are dead", complaints);
}

void report(const Plan& plan, const ScheduleOptions& options, const Board& board, const std::string& kept) {
  std::string text = fmt::format("FAILED seed {}: {}\n", plan.seed, static_cast<const char*>(board.failure));
  if (!kept.empty()) text += fmt::format("    the file is kept in {}\n", kept);
  if (!options.replay.empty()) text += fmt::format("    again, with its interleaving: {}\n", options.replay);
  std::fputs(text.c_str(), stdout);
}

void print_trace(const Scheduler& scheduler) {
  for (const auto& event : scheduler.trace) {
    if (event.address == 0)
      fmt::print("actor {}: {}\n", event.actor, event.what);
    else
      fmt::print("actor {}:     {:<22} {}\n", event.actor, event.what, describe_address(event.address));
  }
  fmt::print("{} events, their order: {:016x}\n", scheduler.counts.events, scheduler.hash);
}

}  // namespace

void run_schedule(const Plan& plan, const Traps& traps, const ScheduleOptions& options, Outcome& outcome) {
  stay_on_one_processor();
  const test::SharedWithChildren<Board> board;
  const test::TempDirectory directory;
  directory.path().copy(outcome.directory, sizeof outcome.directory - 1);
  const auto path = directory.file("segment");
  in_child(*board, "set up", [&] {
    must(Segment::create(path, segment_options(plan)));
    set_up(*board, plan, path);
  });
  if (board->failed()) throw std::runtime_error(board->failure);
  const auto view = must(Segment::attach_read_only(path));
  Scheduler scheduler(*board, plan, path, view, traps, options.trace);
  scheduler.run();
  if (!board->failed()) in_child(*board, "judge the living", [&] { judge_alive(*board, plan, path); });
  scheduler.kill_all();
  if (!board->failed()) in_child(*board, "judge the dead", [&] { judge_dead(*board, plan, path); });
  outcome.counts = scheduler.counts;
  outcome.hash = scheduler.hash;
  if (options.trace) print_trace(scheduler);
  if (board->failed()) {
    outcome.failed = true;
    const auto kept = fmt::format("{}/schedules-{}.segment", options.keep_in, plan.seed);
    std::remove(kept.c_str());
    test::copy_sparse(path, kept);
    report(plan, options, *board, kept);
  }
  std::fflush(stdout);
}

}  // namespace sluice::verify
