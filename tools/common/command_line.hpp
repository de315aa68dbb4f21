// The frame of every program: subcommands, errors as one line on stderr, exit codes.
//
// A command registers its arguments and its action, and returns nothing else:
//
//   void add_worker_command(CLI::App& app) {
//     auto* command = app.add_subcommand("worker", "Consume messages");
//     auto options = std::make_shared<WorkerFlags>();      // lives as long as the command
//     command->add_option("--segment", options->segment, "The segment")->required();
//     add_duration_option(*command, "--poll", options->poll, "…");
//     on_run(*command, [options] { return run_worker_command(*options); });
//   }
//
// and the action reports what went wrong by `return report(result.error());`.
#pragma once

#include "tools/common/exit_code.hpp"

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace sluice::tools {

/// What a command does once its arguments were accepted.
using Action = std::function<ExitCode()>;

/// Make `action` what `command` does. It runs after parsing; its exceptions end as one line and `failure`.
void on_run(CLI::App& command, Action action);

/// Prepare `app` as the program `name`: footer, --version, exactly one subcommand. Before adding any.
void set_up_program(CLI::App& app, std::string_view name);

/// Parse, run the chosen command's action, and return the process's exit code. Usage errors are one line.
int run_program(CLI::App& app, int argc, char** argv);

/// Print one line on stderr: "NAME: message", control characters escaped.
void print_error(std::string_view message);

/// print_error, and the exit code that belongs to the error.
ExitCode report(const Error& error);
ExitCode report(Status status, std::string_view what);

/// An option that takes a size (`4096`, `64MiB`), a duration (`250ms`) or an octal file mode (`0640`); anything
/// else is a usage error.
CLI::Option* add_size_option(CLI::App& command, const std::string& name, std::uint64_t& bytes,
                             const std::string& description);
CLI::Option* add_duration_option(CLI::App& command, const std::string& name,
                                 std::chrono::nanoseconds& duration, const std::string& description);
CLI::Option* add_mode_option(CLI::App& command, const std::string& name, std::uint32_t& mode,
                             const std::string& description);

}  // namespace sluice::tools
