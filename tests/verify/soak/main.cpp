// Soak: real processes in all roles, killed, stopped and forked at random on one small segment; a witness outside of
// it says what must have become of every message.
#include "tests/support/child.hpp"
#include "tests/verify/soak/driver.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>

namespace sluice::verify {

namespace {

std::atomic<bool> interrupted{false};

void interrupt(int) { interrupted = true; }

int report(const SoakTotals& totals, bool is_short) {
  fmt::print(
      "soak: {} messages came again after a death, {} look-ups, {} blocks, {} runs, {} recoveries, {} segments\n",
      totals.redelivered, totals.look_ups, totals.blocks, totals.runs, totals.recovered, totals.segments);
  fmt::print(
      "soak: of work queues {} messages done, {} of them came back; of broadcasts {} read, {} lost, {} disconnected\n",
      totals.worked, totals.returned, totals.read, totals.lost, totals.disconnected);
  fmt::print(
      "soak{}: {} kills ({} recoverers, {} while recovering), {} stops, {} forks, {} processes started, "
      "{} messages, {} clones, {} checks, {} failures\n",
      is_short ? " (short)" : "", totals.kills, totals.kills_of_recoverers, totals.kills_while_recovering,
      totals.stops, totals.forks, totals.started, totals.messages, totals.clones, totals.checks,
      totals.failures.size());
  return totals.failures.empty() ? 0 : 1;
}

int main_of(int argc, char** argv) {
  CLI::App app(
      "Kill, stop and fork processes at random on one segment, and account for every message and block");
  SoakOptions options;
  bool is_short = false;
  app.add_option("--kills", options.kills, "end after so many (20000)");
  app.add_option("--seconds", options.seconds, "end after so long, at the latest");
  app.add_option("--seed", options.seed, "of the decisions; not of the timing (1)");
  app.add_option("--processes", options.processes, "at once, without what they fork (16)")
      ->check(CLI::Range(4, 40));
  app.add_option("--path", options.directory, "directory for the segment (/dev/shm)");
  app.add_flag("--short", is_short, "at most half a minute; at least 200 kills");
  app.footer(
      "exit codes: 0 nothing failed, 1 a failure, which is named; the segment is kept then; 2 usage, 130 interrupted");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (is_short) {
    options.kills = std::min<std::uint64_t>(options.kills, 1500);
    options.kills_min = 200;
    options.seconds = 22;
    options.kills_between_checks = 60;
  }
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, interrupt);
  const test::SharedWithChildren<Witness> witness;
  const auto totals = Driver(options, *witness, interrupted).run();
  if (interrupted) return 130;
  return report(totals, is_short);
}

}  // namespace

}  // namespace sluice::verify

int main(int argc, char** argv) try {
  return sluice::verify::main_of(argc, argv);
} catch (const std::exception& error) {
  std::fprintf(stderr, "soak: %s\n", error.what());
  return 1;
}
