// The subcommands of `sluice`. Each is one file, NAME_command.cpp, whose function registers the command's
// arguments and its action; tools/common/command_line.hpp shows how an action returns its exit code.
#pragma once

namespace CLI {
class App;
}

namespace sluice::tools {

void add_run_command(CLI::App& app);
void add_ingress_command(CLI::App& app);
void add_worker_command(CLI::App& app);
void add_segment_command(CLI::App& app);
void add_ublk_command(CLI::App& app);

}  // namespace sluice::tools
