// `shm-dump`: look into a segment without touching it. It maps the file read-only, never joins, and works the
// same on a segment in use, one left behind, and a copy.
#include "tools/common/command_line.hpp"
#include "tools/shm-dump/commands.hpp"

#include <array>
#include <csignal>
#include <string_view>

#include <unistd.h>

namespace {

// Somebody truncated the file while it was mapped, or its disk failed: the bytes are not there.
void bytes_are_gone(int /*signal*/) {
  constexpr std::string_view line = "shm-dump: the file ended or could not be read while it was looked at\n";
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) {
    // Nobody can be told; the exit code remains.
  }
  _exit(static_cast<int>(sluice::tools::ExitCode::corrupt));
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sluice::tools;
  std::signal(SIGBUS, bytes_are_gone);
  CLI::App app("Look into a Sluice segment, read-only: in use, left behind, or copied.");
  set_up_program(app, "shm-dump");
  add_info_command(app);
  add_processes_command(app);
  add_lanes_command(app);
  add_queues_command(app);
  add_blocks_command(app);
  add_holders_command(app);
  add_check_command(app);
  return run_program(app, argc, argv);
}
