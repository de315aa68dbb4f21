// Interleavings: several processes on one small segment, run in turns as a seed says, some of them killed.
#include "tests/verify/schedules/schedule.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include <sys/personality.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

using Clock = std::chrono::steady_clock;

const std::map<std::string, Kind> kinds = {{"shared", Kind::shared},   {"slabs", Kind::slabs},
                                           {"runs", Kind::runs},       {"streams", Kind::streams},
                                           {"orphans", Kind::orphans}, {"everything", Kind::everything},
                                           {"work", Kind::work},       {"broadcast", Kind::broadcast}};

struct Options {
  std::uint64_t seed = 0, seeds = 0, first = 1, failures = 10;
  std::uint32_t lanes = 0;
  Kind kind = Kind::by_seed;
  double seconds = 0;
  bool is_short = false, has_seed = false;
  ScheduleOptions schedule;
};

struct Total {
  std::uint64_t schedules = 0, failures = 0;
  Counts counts;
};

// The same addresses each time: they are printed, and compared by who reads two runs.
void fix_addresses(char** argv) {
  const int now = ::personality(0xffffffff);
  if (now < 0 || (now & ADDR_NO_RANDOMIZE) != 0) return;
  if (::personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE) < 0) return;
  ::execv("/proc/self/exe", argv);
}

void try_tracing() {
#if !defined(__x86_64__)
  throw TracingForbidden("instructions are decoded on x86-64 only");
#endif
  Stepper nothing([](const StepMarks& marks) {
    marks.begin();
    marks.end();
  });
  while (nothing.step()) continue;
}

void run_one(const Plan& plan, const Traps& traps, const ScheduleOptions& options, Total& total) {
  const test::SharedWithChildren<Outcome> outcome;
  const auto ended =
      test::run_child([&] { run_schedule(plan, traps, options, *outcome); }, std::chrono::minutes(5));
  if (ended.code != 0) {
    outcome->failed = true;
    fmt::print("FAILED seed {}: {}\n    again: {}\n", plan.seed,
               ended.timed_out || ended.signal == SIGALRM
                   ? std::string("it hangs")
                   : fmt::format("the driver ended with signal {}, code {}", ended.signal, ended.code),
               options.replay);
    if (outcome->directory[0] != '\0') std::filesystem::remove_all(outcome->directory);
  }
  ++total.schedules;
  if (outcome->failed) ++total.failures;
  total.counts.instructions += outcome->counts.instructions;
  total.counts.events += outcome->counts.events;
  total.counts.preemptions += outcome->counts.preemptions;
  total.counts.kills += outcome->counts.kills;
}

int run(const Options& options) {
  const Traps traps;
  Total total;
  const auto began = Clock::now();
  auto told = began;
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
  for (auto seed = options.has_seed ? options.seed : options.first;; ++seed) {
    auto schedule = options.schedule;
    schedule.trace = options.has_seed;
    schedule.replay = fmt::format("build/release/bin/verify/schedules --seed {}", seed);
    if (options.lanes != 0) schedule.replay += fmt::format(" --lanes {}", options.lanes);
    for (const auto& [name, kind] : kinds)
      if (kind == options.kind) schedule.replay += fmt::format(" --kind {}", name);
    run_one(plan_of(seed, options.lanes, options.kind), traps, schedule, total);
    if (options.has_seed || total.failures >= options.failures) break;
    if (options.seeds != 0 && total.schedules == options.seeds) break;
    if (options.seconds > 0 && passed() >= options.seconds) break;
    if (Clock::now() - told > std::chrono::seconds(15)) {
      told = Clock::now();
      fmt::print("seed {}, {} schedules, {:.0f} s\n", seed, total.schedules, passed());
      std::fflush(stdout);
    }
  }
  fmt::print("schedules{}: {} schedules, {} instructions, {} preemptions, {} kills, {} failures\n",
             options.is_short ? " (short)" : "", total.schedules, total.counts.instructions,
             total.counts.preemptions, total.counts.kills, total.failures);
  return total.failures == 0 ? 0 : 1;
}

int main_of(int argc, char** argv) {
  CLI::App app(
      "Run processes on one segment in orders that a seed chooses, instruction by instruction, and kill some");
  Options options;
  options.schedule.keep_in = std::filesystem::temp_directory_path();
  auto* seed =
      app.add_option("--seed", options.seed, "only this schedule; print the end of its interleaving");
  app.add_option("--seeds", options.seeds, "so many schedules");
  app.add_option("--first", options.first, "the first seed (default 1)");
  app.add_option("--seconds", options.seconds, "for so long (default 180; 40 if short)");
  app.add_option("--failures", options.failures, "end after so many (default 10)");
  app.add_option("--lanes", options.lanes, "actors at the start, instead of what the seed says")
      ->check(CLI::Range(2U, lanes_max));
  app.add_option("--kind", options.kind, "of all scripts, instead of what the seed says")
      ->transform(CLI::CheckedTransformer(kinds));
  app.add_option("--keep-in", options.schedule.keep_in, "directory for damaged files");
  app.add_flag("--short", options.is_short, "at most 45 seconds");
  app.footer(
      "exit codes: 0 nothing failed, 1 a schedule broke a promise, 2 usage, 77 processes cannot be traced here");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  fix_addresses(argv);
  options.has_seed = seed->count() != 0;
  if (options.seeds == 0 && options.seconds <= 0) options.seconds = options.is_short ? 40 : 180;
  try {
    try_tracing();
  } catch (const TracingForbidden& reason) {
    fmt::print("skipped: {}\n", reason.what());
    return test::exit_skipped;
  }
  return run(options);
}

}  // namespace

}  // namespace sluice::verify

int main(int argc, char** argv) { return sluice::verify::main_of(argc, argv); }
