#include "tools/common/command_line.hpp"

#include "shm/header_layout.hpp"
#include "tools/common/format.hpp"
#include "tools/common/parse.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

std::string& program_name() {
  static std::string name = "sluice";
  return name;
}

// Set by the callback of the one command that was chosen.
Action& chosen_action() {
  static Action action;
  return action;
}

// A standard stream that is closed gets a descriptor that cannot be used: else the next file to be opened would take
// its place, and be written into by who prints.
void occupy_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      while (::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0 && errno == EINTR) continue;
}

ExitCode run_chosen_action() {
  try {
    return chosen_action()();
  } catch (const std::exception& e) {
    print_error(e.what());
  } catch (...) {
    print_error("an unknown exception");
  }
  return ExitCode::failure;
}

// A result that did not arrive is a failure: a full disk, a closed descriptor.
ExitCode finish_output(ExitCode code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  print_error(fmt::format("write to stdout: {}", std::strerror(errno != 0 ? errno : EIO)));
  return code == ExitCode::ok ? ExitCode::failure : code;
}

template <class T, class Parse>
CLI::Option* add_parsed_option(CLI::App& command, const std::string& name, T& target, Parse parse,
                               const char* type, const std::string& description) {
  CLI::callback_t set = [&target, parse, name](const CLI::results_t& values) {
    const auto parsed = parse(values.back());
    if (!parsed) throw CLI::ValidationError(name, parsed.error().message);
    target = *parsed;
    return true;
  };
  return command.add_option(name, std::move(set), description)->type_name(type)->take_last();
}

}  // namespace

void on_run(CLI::App& command, Action action) {
  command.callback([action = std::move(action)] { chosen_action() = action; });
}

void set_up_program(CLI::App& app, std::string_view name) {
  occupy_standard_streams();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of the call that wants it to
  program_name() = name;
  app.name(program_name());
  app.footer(exit_code_footer());
  app.set_version_flag("--version",
                       fmt::format("{}, segment layout {}.{}", name, layout_major, layout_minor));
  app.require_subcommand(1);
}

int run_program(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return static_cast<int>(finish_output(static_cast<ExitCode>(app.exit(e))));
  } catch (const CLI::ParseError& e) {
    print_error(fmt::format("{} (try {} --help)", e.what(), program_name()));
    return static_cast<int>(ExitCode::usage);
  } catch (const std::exception& e) {
    print_error(e.what());
    return static_cast<int>(ExitCode::usage);
  }
  return static_cast<int>(finish_output(run_chosen_action()));
}

void print_error(std::string_view message) {
  // One write, so that lines of several processes on one terminal stay whole.
  const auto line = fmt::format("{}: {}\n", program_name(), escape_controls(message));
  std::fwrite(line.data(), 1, line.size(), stderr);
}

ExitCode report(const Error& error) {
  print_error(error.message);
  return exit_code_of(error.status);
}

ExitCode report(Status status, std::string_view what) {
  print_error(fmt::format("{}: {}", what, to_string(status)));
  return exit_code_of(status);
}

CLI::Option* add_size_option(CLI::App& command, const std::string& name, std::uint64_t& bytes,
                             const std::string& description) {
  return add_parsed_option(command, name, bytes, parse_size, "SIZE", description);
}

CLI::Option* add_duration_option(CLI::App& command, const std::string& name,
                                 std::chrono::nanoseconds& duration, const std::string& description) {
  return add_parsed_option(command, name, duration, parse_duration, "DURATION", description);
}

CLI::Option* add_mode_option(CLI::App& command, const std::string& name, std::uint32_t& mode,
                             const std::string& description) {
  return add_parsed_option(command, name, mode, parse_mode, "MODE", description);
}

}  // namespace sluice::tools
