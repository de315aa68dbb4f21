#include "tools/shm-dump/commands.hpp"

#include <fmt/format.h>

#include <utility>

namespace sluice::tools {

void on_dump(CLI::App& command, const std::shared_ptr<DumpOptions>& options,
             std::function<ExitCode(const Segment&)> dump) {
  command.add_option("SEGMENT", options->path, "The segment's file: in use, left behind, or a copy")
      ->required();
  command.add_flag("--json", options->json, "One JSON document on stdout instead of tables");
  on_run(command, [options, dump = std::move(dump)] {
    const auto segment = Segment::attach_read_only(options->path);
    return segment ? dump(*segment) : report(segment.error());
  });
}

void add_limit_options(CLI::App& command, ListLimit& limit, std::uint64_t rows, const std::string& what) {
  limit.limit = rows;
  command.add_option("--limit", limit.limit, fmt::format("List at most this many {}", what))
      ->type_name("N")
      ->capture_default_str();
  command.add_flag("--all", limit.all, fmt::format("List all {}", what));
}

Json dump_document(const Segment& segment, const std::string& name) {
  auto document = json_document(fmt::format("sluice.shm-dump.{}/1", name));
  document["segment"] = segment.path();
  return document;
}

}  // namespace sluice::tools
