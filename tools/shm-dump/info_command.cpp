// `shm-dump info`: what this file is, how full it is, and whether anybody uses it.
#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/block_table.hpp"
#include "tools/shm-dump/commands.hpp"
#include "tools/shm-dump/lane_table.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include <sys/stat.h>

namespace sluice::tools {

namespace {

struct Overview {
  std::uint64_t file_bytes = 0;
  std::uint64_t disk_bytes = 0;  // allocated, without holes
  bool this_boot = false;
  std::array<std::uint64_t, 5> processes{};  // by Presence
  std::uint64_t lanes_active = 0;
  std::uint64_t queues_ready = 0;
  HeapTotals heap;

  std::uint64_t count(Presence presence) const { return processes[static_cast<std::size_t>(presence)]; }
};

Overview look(const Segment& segment) {
  Overview overview;
  struct stat info{};
  if (::fstat(segment.fd(), &info) == 0) {
    overview.file_bytes = static_cast<std::uint64_t>(info.st_size);
    overview.disk_bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;  // stat(2): always 512
  }
  const auto boot = current_boot_id();
  overview.this_boot = boot && std::memcmp(segment.identity().boot_id, boot->bytes, sizeof boot->bytes) == 0;
  for (const auto& process : read_process_table(segment))
    ++overview.processes[static_cast<std::size_t>(process.presence)];
  overview.lanes_active =
      static_cast<std::uint64_t>(std::ranges::count_if(read_lane_table(segment), &LaneEntry::active));
  overview.queues_ready = static_cast<std::uint64_t>(
      std::ranges::count(read_queue_table(segment), QueueState::ready, &QueueEntry::state));
  overview.heap = walk_blocks(segment, {});
  return overview;
}

std::string describe_age(std::uint64_t realtime_ns) {
  const auto age = age_of(realtime_ns);
  return age.count() < 0 ? "in the future" : format_duration(age) + " ago";
}

std::string describe_processes(const Overview& overview) {
  std::string text = fmt::format("{} alive", overview.count(Presence::alive));
  for (const auto presence : {Presence::dead, Presence::disagreement, Presence::unknown})
    if (const auto count = overview.count(presence); count != 0)
      text += fmt::format(", {} {}", count, to_string(presence));
  return text;
}

std::string describe_units(const HeapTotals& heap) {
  std::string text = fmt::format("{} committed", heap.units_committed);
  for (std::size_t i = 0; i < heap.units_by_state.size(); ++i)
    if (heap.units_by_state[i] != 0)
      text += fmt::format(", {} {}", heap.units_by_state[i], to_string(static_cast<UnitState>(i)));
  if (heap.units_unreadable != 0) text += fmt::format(", {} unreadable", heap.units_unreadable);
  return text;
}

void print_classes(const HeapTotals& heap) {
  Table table({{"CLASS", Align::right},
               {"SLABS", Align::right},
               {"SLOTS", Align::right},
               {"LIVE", Align::right},
               {"FREEING", Align::right},
               {"LIVE BYTES", Align::right}});
  const auto add = [&](const std::string& name, const ClassTotals& totals) {
    if (totals.used())
      table.add(
          {name, totals.slabs, totals.slots, totals.live, totals.freeing, format_size(totals.live_bytes)});
  };
  for (const auto& totals : heap.classes) add(format_size(totals.bytes), totals);
  add("runs", heap.runs);
  if (table.empty()) return;
  fmt::print("\n");
  table.print();
}

ExitCode print_text(const Segment& segment, const Overview& overview) {
  const auto& header = segment.header();
  const auto& heap = overview.heap;
  Fields fields;
  fields.add("segment", escape_controls(segment.path()));
  fields.add("uuid", format_uuid(header.uuid));
  fields.add("layout", fmt::format("{}.{}", header.major, header.minor));
  fields.add("created",
             fmt::format("{}, {}", format_local_time(header.created_ns), describe_age(header.created_ns)));
  fields.add("copy", segment.is_copy() ? TableCell("yes: its processes, if any, have the original", Tone::bad)
                                       : TableCell("no"));
  fields.add("boot", overview.this_boot ? "this one" : "an earlier one, or another machine");
  fields.add("processes", fmt::format("{}; {} rows", describe_processes(overview), header.process_count));
  fields.add("lanes", fmt::format("{} active of {}", overview.lanes_active, header.lane_count - 1));
  fields.add("queues", fmt::format("{} of {}", overview.queues_ready, header.queue_count));
  fields.add("file", fmt::format("{}, {} of it on disk", format_size(overview.file_bytes),
                                 format_size(overview.disk_bytes)));
  fields.add("payload", fmt::format("{} committed of {}", format_size(heap.units_committed * unit_bytes),
                                    format_size(segment.geometry().units_max * unit_bytes)));
  fields.add("units", describe_units(heap));
  fields.add("blocks", fmt::format("{} live, {}", heap.blocks_live(), format_size(heap.bytes_live())));
  fields.print();
  print_classes(heap);
  return ExitCode::ok;
}

Json class_json(const ClassTotals& totals) {
  return {{"slabs", totals.slabs},    {"orphaned", totals.orphaned},     {"slots", totals.slots},
          {"live", totals.live},      {"live_bytes", totals.live_bytes}, {"freeing", totals.freeing},
          {"retired", totals.retired}};
}

ExitCode print_document(const Segment& segment, const Overview& overview) {
  const auto& header = segment.header();
  const auto& heap = overview.heap;
  auto document = dump_document(segment, "info");
  document["uuid"] = format_uuid(header.uuid);
  document["layout"] = fmt::format("{}.{}", header.major, header.minor);
  document["created"] = format_utc_time(header.created_ns);
  document["copy"] = segment.is_copy();
  document["this_boot"] = overview.this_boot;
  document["file_bytes"] = overview.file_bytes;
  document["disk_bytes"] = overview.disk_bytes;
  document["payload_bytes_committed"] = heap.units_committed * unit_bytes;
  document["payload_bytes_max"] = segment.geometry().units_max * unit_bytes;
  auto& processes = document["processes"] = Json::object();
  processes["rows"] = header.process_count;
  for (const auto presence : {Presence::alive, Presence::dead, Presence::disagreement, Presence::unknown})
    processes[std::string(to_string(presence))] = overview.count(presence);
  document["lanes"] = {{"rows", header.lane_count - 1}, {"active", overview.lanes_active}};
  document["queues"] = {{"rows", header.queue_count}, {"ready", overview.queues_ready}};
  auto& units = document["units"] = Json::object();
  units["committed"] = heap.units_committed;
  for (std::size_t i = 0; i < heap.units_by_state.size(); ++i)
    units[std::string(to_string(static_cast<UnitState>(i)))] = heap.units_by_state[i];
  units["unreadable"] = heap.units_unreadable;
  document["blocks"] = {{"live", heap.blocks_live()}, {"live_bytes", heap.bytes_live()}};
  auto& classes = document["classes"] = Json::array();
  for (const auto& totals : heap.classes) {
    if (!totals.used()) continue;
    Json row = {{"bytes", totals.bytes}};
    row.update(class_json(totals));
    classes.push_back(std::move(row));
  }
  document["runs"] = {
      {"live", heap.runs.live}, {"live_bytes", heap.runs.live_bytes}, {"freeing", heap.runs.freeing}};
  print_json(document);
  return ExitCode::ok;
}

}  // namespace

void add_info_command(CLI::App& app) {
  auto* command = app.add_subcommand("info", "What the file is, how full it is, who uses it");
  auto options = std::make_shared<DumpOptions>();
  on_dump(*command, options, [options](const Segment& segment) {
    const auto overview = look(segment);
    return options->json ? print_document(segment, overview) : print_text(segment, overview);
  });
}

}  // namespace sluice::tools
