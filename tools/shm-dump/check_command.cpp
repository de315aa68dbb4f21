// `shm-dump check`: the audit, as a program. Exit code 0 means sound.
#include "ipc/audit.hpp"

#include "tools/common/format.hpp"
#include "tools/common/process_table.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/commands.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

constexpr std::uint64_t violations_listed = 100;

struct CheckOptions {
  DumpOptions dump;
  ListLimit limit;
};

struct NamedCount {
  const char* name;
  std::uint64_t AuditCounts::* count;
};

constexpr std::array named_counts = {
    NamedCount{"units_committed", &AuditCounts::units_committed},
    NamedCount{"units_free", &AuditCounts::units_free},
    NamedCount{"units_reserved", &AuditCounts::units_reserved},
    NamedCount{"slabs", &AuditCounts::slabs},
    NamedCount{"slabs_orphaned", &AuditCounts::slabs_orphaned},
    NamedCount{"runs", &AuditCounts::runs},
    NamedCount{"run_units", &AuditCounts::run_units},
    NamedCount{"storage_units", &AuditCounts::storage_units},
    NamedCount{"blocks_live", &AuditCounts::blocks_live},
    NamedCount{"block_bytes_live", &AuditCounts::block_bytes_live},
    NamedCount{"blocks_freeing", &AuditCounts::blocks_freeing},
    NamedCount{"blocks_retired", &AuditCounts::blocks_retired},
    NamedCount{"blocks_quarantined", &AuditCounts::blocks_quarantined},
    NamedCount{"references", &AuditCounts::references},
    NamedCount{"cells_used", &AuditCounts::cells_used},
    NamedCount{"lanes_active", &AuditCounts::lanes_active},
    NamedCount{"queue_messages", &AuditCounts::queue_messages},
    NamedCount{"extents", &AuditCounts::extents},
};
static_assert(sizeof(AuditCounts) == named_counts.size() * sizeof(std::uint64_t), "every count is printed");

void print_text(const AuditReport& audited, bool live, std::uint64_t listed) {
  const auto found = audited.violations.size();
  Fields fields;
  fields.add("result",
             found == 0 ? TableCell("sound", Tone::good)
                        : TableCell(fmt::format("{} violation{}", found, found == 1 ? "" : "s"), Tone::bad));
  fields.add("in use", live ? "yes: what is listed stayed over several walks" : "no: the walk is exact");
  for (const auto& [name, count] : named_counts) fields.add(name, audited.counts.*count);
  fields.print();
  if (found != 0) fmt::print("\n");
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(found, listed); ++i)
    fmt::print("{}\n", escape_controls(audited.violations[i].what));
  if (found > listed) fmt::print("… and {} more (--all lists them)\n", found - listed);
}

void print_document(const Segment& segment, const AuditReport& audited, bool live, std::uint64_t listed) {
  auto document = dump_document(segment, "check");
  document["sound"] = audited.violations.empty();
  document["live"] = live;
  auto& counts = document["counts"] = Json::object();
  for (const auto& [name, count] : named_counts) counts[name] = audited.counts.*count;
  auto& classes = document["live_by_class"] = Json::array();
  for (std::uint32_t i = 0;
       i < std::min<std::size_t>(audited.live_by_class.size(), segment.classes().count()); ++i)
    if (audited.live_by_class[i] != 0)
      classes.push_back({{"bytes", segment.classes().bytes(i)}, {"live", audited.live_by_class[i]}});
  document["violation_count"] = audited.violations.size();
  auto& violations = document["violations"] = Json::array();
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(audited.violations.size(), listed); ++i)
    violations.push_back(escape_controls(audited.violations[i].what));
  print_json(document);
}

}  // namespace

void add_check_command(CLI::App& app) {
  auto* command = app.add_subcommand("check", "Walk every invariant; exit code 0 means sound");
  auto options = std::make_shared<CheckOptions>();
  add_limit_options(*command, options->limit, violations_listed, "violations");
  const std::shared_ptr<DumpOptions> dump(options, &options->dump);
  on_dump(*command, dump, [options](const Segment& segment) {
    const bool live = std::ranges::any_of(read_process_table(segment), may_be_live);
    const auto audited = live ? audit_settled(segment) : audit(segment);
    if (options->dump.json)
      print_document(segment, audited, live, options->limit.rows_max());
    else
      print_text(audited, live, options->limit.rows_max());
    return audited.violations.empty() ? ExitCode::ok : ExitCode::corrupt;
  });
}

}  // namespace sluice::tools
