// Every instruction: runs each operation one instruction at a time, and recovers what a SIGKILL would leave at each.
#include "tests/verify/instructions/drive.hpp"
#include "tests/verify/support/stepper.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

namespace sluice::verify {

namespace {

struct Total {
  std::uint64_t operations = 0, instructions = 0, states = 0, recovered = 0, failures = 0;
};

// A tracee that does nothing: whether one can be stepped here at all.
void try_tracing() {
  Stepper nothing([](const StepMarks& marks) {
    marks.begin();
    marks.end();
  });
  while (nothing.step()) continue;
}

// One row: what is driven, and how. `operation` is null for the creation of a segment, which has none.
struct Row {
  std::string name;
  const Operation* operation = nullptr;
  void (*drive)(const Operation&, const DriveOptions&, Progress&) = nullptr;
};

std::vector<Row> rows_of(const std::vector<Operation>& plain, const std::vector<Operation>& recoveries) {
  std::vector<Row> rows;
  for (const auto& operation : plain) rows.push_back({std::string(operation.name), &operation, drive});
  rows.push_back({.name = std::string(creation_name)});
  for (const auto& operation : recoveries) rows.push_back({std::string(operation.name), &operation, drive});
  for (const auto& operation : plain)
    rows.push_back({fmt::format("{} {}", recovery_prefix, operation.name), &operation, drive_recoveries});
  return rows;
}

// The driver did not come to its end: a state has killed who recovered it, or held it for ever.
void report_dead_driver(const test::Exit& ended, const Row& row, const DriveOptions& options,
                        Progress& progress) {
  ++progress.failures;
  const auto state = progress.states == 0 ? 0 : progress.states - 1;
  std::string kept;
  if (row.drive == &drive && progress.states != 0) {
    kept = kept_path(options, row.name, state);
    const auto saved = test::run_child([&] { keep_state(*row.operation, state, kept); });
    if (saved.code != 0) kept.clear();
  }
  const auto how = ended.timed_out           ? std::string("it took too long")
                   : ended.signal == SIGALRM ? std::string("it hangs")
                   : ended.signal != 0       ? fmt::format("it was killed by signal {}", ended.signal)
                                             : fmt::format("it ended with exit code {}", ended.code);
  report_failure(row.name, progress.instructions, progress.address,
                 {fmt::format("the process that judges died at state {}: {}", state, how)}, kept);
  if (progress.directory[0] != '\0') std::filesystem::remove_all(progress.directory);
}

// Each in a process of its own: with no files or locks of others, and none that another can take down.
void run_row(const Row& row, const DriveOptions& options, Total& total) {
  const test::SharedWithChildren<Progress> progress;
  const auto began = std::chrono::steady_clock::now();
  const auto ended = test::run_child(
      [&] {
        if (row.operation != nullptr)
          row.drive(*row.operation, options, *progress);
        else
          drive_creation(options, *progress);
      },
      std::chrono::minutes(20));
  if (ended.code != 0) report_dead_driver(ended, row, options, *progress);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  std::fputs(fmt::format("{:<44} {:>12} {:>8} {:>10} {:>9} {:>7.1f}\n", row.name,
                         progress->instructions.load(), progress->states.load(), progress->recovered.load(),
                         progress->failures.load(), took.count())
                 .c_str(),
             stdout);
  std::fflush(stdout);
  ++total.operations;
  total.instructions += progress->instructions;
  total.states += progress->states;
  total.recovered += progress->recovered;
  total.failures += progress->failures;
}

int run(const std::vector<Row>& rows, const DriveOptions& options) {
  Total total;
  fmt::print("{:<44} {:>12} {:>8} {:>10} {:>9} {:>7}\n", "operation", "instructions", "states", "recovered",
             "failures", "s");
  for (const auto& row : rows) run_row(row, options, total);
  fmt::print("instructions{}: {} operations, {} instructions, {} states, {} recovered, {} failures\n",
             options.is_short ? " (short)" : "", total.operations, total.instructions, total.states,
             total.recovered, total.failures);
  return total.failures == 0 ? 0 : 1;
}

int main_of(int argc, char** argv) {
  CLI::App app("Single-step every operation and recover what a SIGKILL would leave at each instruction");
  DriveOptions options;
  std::vector<std::string> wanted;
  bool list = false;
  std::uint64_t kills = 0;
  options.keep_in = std::filesystem::temp_directory_path();
  app.add_flag("--short", options.is_short, "at most a minute: a sample of the states of long operations");
  app.add_option("--operation", wanted, "only this one; can be repeated");
  app.add_option("--kills", kills, "real deaths per operation (default 24; 1 if short)");
  app.add_option("--keep-in", options.keep_in, "directory for damaged states");
  app.add_flag("--list", list, "print the operations and end");
  app.footer(
      "exit codes: 0 nothing failed, 1 a state was not recovered, 2 usage, 77 processes cannot be traced here");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const auto plain = plain_operations();
  const auto recoveries = recovery_operations();
  auto rows = rows_of(plain, recoveries);
  if (list) {
    for (const auto& row : rows) fmt::print("{}\n", row.name);
    return 0;
  }
  if (!wanted.empty())
    std::erase_if(rows, [&](const Row& row) { return std::ranges::find(wanted, row.name) == wanted.end(); });
  if (rows.empty()) {
    fmt::print(stderr, "instructions: there is no such operation, --list names them\n");
    return 2;
  }
  if (kills != 0 || options.is_short) options.kills = kills != 0 ? kills : 1;
  try {
    try_tracing();
  } catch (const TracingForbidden& reason) {
    fmt::print("skipped: {}\n", reason.what());
    return test::exit_skipped;
  }
  return run(rows, options);
}

}  // namespace

}  // namespace sluice::verify

int main(int argc, char** argv) { return sluice::verify::main_of(argc, argv); }
