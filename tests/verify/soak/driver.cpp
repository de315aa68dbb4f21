#include "tests/verify/soak/driver.hpp"

#include "tests/support/must.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

namespace sluice::verify {

using namespace std::chrono_literals;

namespace {

constexpr auto stuck_after = 40s;

std::uint32_t slots_for(const SoakOptions& options) { return options.processes + options.processes / 3 + 2; }

std::uint32_t streams_for(const SoakOptions& options) {
  return std::clamp(options.processes / 2, 2U, streams_max);
}

std::string make_directory(const std::string& in) {
  auto path = in + "/sluice-soak.XXXXXX";
  if (::mkdtemp(path.data()) == nullptr)
    throw std::runtime_error(fmt::format("create a directory in {}: {}", in, std::strerror(errno)));
  return path;
}

}  // namespace

Driver::Driver(const SoakOptions& options, Witness& witness, const std::atomic<bool>& interrupted)
    : options_(options),
      witness_(witness),
      interrupted_(interrupted),
      random_(mix(options.seed)),
      directory_(make_directory(options.directory)),
      processes_({.witness = &witness,
                  .path = directory_ + "/segment",
                  .streams = streams_for(options),
                  .driver = ::getpid()},
                 slots_for(options)) {
  create_segment();
}

Driver::~Driver() {
  processes_.kill_all();
  if (!totals_.failures.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

// --- the segment --------------------------------------------------------------------------------------------

void Driver::create_segment() {
  SegmentOptions segment;
  segment.payload_bytes_max =
      (80 + random(80)) * unit_bytes;  // grows a few times, then everybody is near the end
  segment.processes = processes_.size() + 4;
  segment.lanes = processes_.size() + 6;
  segment.queues = 16;
  segment.cells_per_lane = 165'000;  // as many blocks of 64 bytes as there can be, and some
  test::must(Segment::create(processes_.stage().path, segment));
  watched_ = test::must(Segment::attach_read_only(processes_.stage().path));
  for (auto& stream : witness_.streams) {
    stream.pushing = stream.pushed = stream.shown = stream.taken = stream.redelivered = 0;
    stream.producer_rested = stream.consumer_rested = 1;
  }
  for (auto& broadcast : witness_.broadcast) {
    broadcast.publishing = broadcast.published = 0;
    broadcast.publisher_rested = 1;
    broadcast.trims = broadcast.closes = 0;
  }
  for (auto& work : witness_.work) {
    work.deaths_in_push = work.deaths_in_take = work.unexplained = 0;
    work.dropped = work.maybe_dropped = work.ever_closed = 0;
  }
  for (auto& hands : witness_.hands) {
    for (auto& ticket : hands.tickets) ticket.word = 0;
    for (auto& ticket : hands.drop_tickets) ticket.word = 0;
  }
  for (auto& place : witness_.board) place = 0;
  ++totals_.segments;
}

void Driver::remove_segment() {
  add_up();
  messages_before_ = totals_.messages;
  redelivered_before_ = totals_.redelivered;
  watched_ = {};
  test::must(Segment::remove(processes_.stage().path));
}

// --- the run ------------------------------------------------------------------------------------------------

bool Driver::is_over() const {
  if (interrupted_ || !totals_.failures.empty()) return true;
  const std::chrono::duration<double> passed = Clock::now() - began_;
  return totals_.kills >= options_.kills || (options_.seconds > 0 && passed.count() >= options_.seconds);
}

SoakTotals Driver::run() {
  began_ = shown_at_ = messages_moved_at_ = Clock::now();
  auto next_check = options_.kills_between_checks / 2 + random(options_.kills_between_checks);
  while (!is_over()) {
    step();
    if (totals_.kills < next_check) continue;
    next_check = totals_.kills + options_.kills_between_checks / 2 + random(options_.kills_between_checks);
    park();
  }
  if (totals_.failures.empty() && !interrupted_) desert(false);
  for (const auto& ended : processes_.kill_all()) take_account(ended);
  add_up();
  if (totals_.failures.empty() && !interrupted_ && totals_.kills < options_.kills_min)
    fail(fmt::format("only {} kills, at least {} are wanted", totals_.kills, options_.kills_min));
  if (!totals_.failures.empty())
    fmt::print(stderr, "soak: the segment is kept: {}\n", processes_.stage().path);
  return totals_;
}

void Driver::step() {
  for (const auto& ended : processes_.reap()) take_account(ended);
  start_missing();
  wake_stopped();
  strike();
  watch();
  show_progress();
  std::this_thread::sleep_for(std::chrono::microseconds(random(9000)));
}

void Driver::start_missing() {
  for (std::uint32_t slot = 0; slot < options_.processes; ++slot) {
    auto& each = processes_[slot];
    if (each.state != ProcessSet::Slot::State::empty || Clock::now() < each.start_at) continue;
    processes_.start(slot, static_cast<Role>(slot % role_count), random_());
    ++totals_.started;
  }
}

void Driver::wake_stopped() {
  for (const auto slot : processes_.alive())
    if (processes_[slot].is_stopped && Clock::now() >= processes_[slot].wake_at) processes_.go_on(slot);
}

void Driver::fail(std::string what) {
  std::fputs(fmt::format("soak: FAILED after {} kills, {:.1f} s: {}\n", totals_.kills,
                         std::chrono::duration<double>(Clock::now() - began_).count(), what)
                 .c_str(),
             stderr);
  totals_.failures.push_back(std::move(what));
}

// Who ends by itself has left in order, or says what is wrong.
void Driver::take_account(const ProcessSet::Ended& ended) {
  processes_[ended.slot].start_at = Clock::now() + std::chrono::microseconds(random(15'000));
  if (ended.signal == SIGKILL && ended.was_killed) return count_kill(ended);
  if (ended.code == 0) return;
  const std::string_view said = processes_.journal(ended.slot).failure.data();
  fail(fmt::format("{} in slot {} (pid {}) {}", to_string(ended.role), ended.slot, ended.pid,
                   ended.code == exit_failed ? std::string(said)
                   : ended.signal != 0       ? fmt::format("was ended by signal {}", ended.signal)
                                             : fmt::format("ended with code {}", ended.code)));
}

void Driver::count_kill(const ProcessSet::Ended& ended) {
  ++totals_.kills;
  if (ended.role == Role::recoverer) ++totals_.kills_of_recoverers;
}

// Nobody who runs unstopped stands still, and messages go through.
void Driver::watch() {
  const auto now = Clock::now();
  for (const auto slot : processes_.alive()) {
    auto& each = processes_[slot];
    const auto steps = processes_.journal(slot).steps.load();
    if (each.is_stopped || processes_.is_idle(slot) || steps != each.steps_seen) {
      each.steps_seen = steps;
      each.moved_at = now;
    } else if (now - each.moved_at > stuck_after) {
      return fail(fmt::format("{} in slot {} (pid {}) is stuck", to_string(each.role), slot, each.pid));
    }
  }
  add_up();
  if (totals_.messages != messages_seen_) {
    messages_seen_ = totals_.messages;
    messages_moved_at_ = now;
  } else if (now - messages_moved_at_ > stuck_after) {
    fail("no message was taken for a long time");
  }
}

void Driver::add_up() {
  totals_.forks = processes_.births();
  totals_.messages = messages_before_;
  totals_.redelivered = redelivered_before_;
  for (const auto& stream : witness_.streams) {
    totals_.messages += stream.taken;
    totals_.redelivered += stream.redelivered;
  }
  totals_.worked = totals_.returned = totals_.read = totals_.lost = totals_.disconnected = 0;
  for (const auto& work : witness_.work) {
    totals_.worked += work.done;
    totals_.returned += work.came_back;
  }
  for (const auto& broadcast : witness_.broadcast) {
    totals_.read += broadcast.read;
    totals_.lost += broadcast.lost;
    totals_.disconnected += broadcast.disconnected;
  }
  totals_.clones = totals_.look_ups = totals_.blocks = totals_.runs = totals_.recovered = 0;
  for (const auto& actor : witness_.actors) {
    totals_.clones += actor.clones;
    totals_.look_ups += actor.look_ups;
    totals_.blocks += actor.allocations;
    totals_.runs += actor.runs;
    totals_.recovered += actor.recovered;
  }
}

void Driver::show_progress() {
  if (Clock::now() - shown_at_ < 10s) return;
  shown_at_ = Clock::now();
  const std::chrono::duration<double> passed = shown_at_ - began_;
  fmt::print("soak: {:.0f} s: {} kills, {} while recovering, {} messages, {} clones, {} checks\n",
             passed.count(), totals_.kills, totals_.kills_while_recovering, totals_.messages, totals_.clones,
             totals_.checks);
  std::fflush(stdout);
}

}  // namespace sluice::verify
