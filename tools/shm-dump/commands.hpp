// The subcommands of `shm-dump`, one file each, and what they have in common.
#pragma once

#include "shm/segment.hpp"
#include "tools/common/command_line.hpp"
#include "tools/common/json.hpp"

#include <functional>
#include <memory>
#include <string>

namespace sluice::tools {

void add_info_command(CLI::App& app);
void add_processes_command(CLI::App& app);
void add_lanes_command(CLI::App& app);
void add_queues_command(CLI::App& app);
void add_blocks_command(CLI::App& app);
void add_holders_command(CLI::App& app);
void add_check_command(CLI::App& app);

/// What every subcommand is told.
struct DumpOptions {
  std::string path;
  bool json = false;
};

/// How much of a long list is printed.
struct ListLimit {
  std::uint64_t limit = 0;
  bool all = false;

  std::uint64_t rows_max() const noexcept { return all ? ~std::uint64_t{0} : limit; }
};

/// Add SEGMENT and --json to a command, and run `dump` on the segment, attached read-only.
void on_dump(CLI::App& command, const std::shared_ptr<DumpOptions>& options,
             std::function<ExitCode(const Segment&)> dump);

/// --limit N (default `rows`) and --all.
void add_limit_options(CLI::App& command, ListLimit& limit, std::uint64_t rows, const std::string& what);

/// The document of one subcommand: its schema and the segment's path.
Json dump_document(const Segment& segment, const std::string& name);

}  // namespace sluice::tools
