// `shm-dump lanes`: what each thread holds, does, and has done.
#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/commands.hpp"
#include "tools/shm-dump/lane_table.hpp"

#include <fmt/format.h>

namespace sluice::tools {

namespace {

struct LaneOptionsShown {
  DumpOptions dump;
  bool all = false;
};

std::string owner_of(const LaneEntry& lane, const std::vector<ProcessEntry>& processes) {
  if (!lane.active) return "-";
  if (lane.process >= processes.size()) return fmt::format("row {}: no such row", lane.process);
  const auto& process = processes[lane.process];
  if (process.presence == Presence::free) return fmt::format("row {}: free", lane.process);
  return process_name(process) + (process.presence == Presence::dead ? " (dead)" : "");
}

std::string activity_of(const LaneEntry& lane) {
  if (!lane.active) return "free";
  if (lane.operation_open) return describe_operation(lane);
  if (lane.cells_moving != 0)
    return fmt::format("moving {} reference{}", lane.cells_moving, lane.cells_moving == 1 ? "" : "s");
  return lane.sleeping ? "sleeping" : "-";
}

void print_text(const std::vector<LaneEntry>& lanes, const std::vector<ProcessEntry>& processes) {
  Table table({{"LANE", Align::right},
               {"NAME"},
               {"OWNER"},
               {"CELLS", Align::right},
               {"ALLOCATED", Align::right},
               {"FREED", Align::right},
               {"HARVESTED", Align::right},
               {"SLOW", Align::right},
               {"REFUSED", Align::right},
               {"MSGS IN", Align::right},
               {"MSGS OUT", Align::right},
               {"IN", Align::right},
               {"OUT", Align::right},
               {"SEQ", Align::right},
               {"DOING"}});
  for (const auto& lane : lanes) {
    const auto& counters = lane.counters;
    table.add(
        {lane.lane, lane.name, owner_of(lane, processes), fmt::format("{}/{}", lane.cells_used, lane.cells),
         counters.allocations, counters.frees_local + counters.frees_remote, counters.harvested,
         counters.slow_paths, counters.exhausted, counters.messages_in, counters.messages_out,
         format_size(counters.bytes_in), format_size(counters.bytes_out), lane.sequence, activity_of(lane)});
  }
  if (table.empty())
    fmt::print("no lanes in use\n");
  else
    table.print();
}

Json counters_json(const LaneCounters& counters) {
  return {{"allocations", counters.allocations},
          {"frees_local", counters.frees_local},
          {"frees_remote", counters.frees_remote},
          {"harvested", counters.harvested},
          {"slow_paths", counters.slow_paths},
          {"slabs_cut", counters.slabs_cut},
          {"slabs_adopted", counters.slabs_adopted},
          {"slabs_returned", counters.slabs_returned},
          {"runs_taken", counters.runs_taken},
          {"exhausted", counters.exhausted},
          {"messages_in", counters.messages_in},
          {"messages_out", counters.messages_out},
          {"bytes_in", counters.bytes_in},
          {"bytes_out", counters.bytes_out},
          {"redelivered", counters.redelivered},
          {"sleeps", counters.sleeps},
          {"clones", counters.clones}};
}

Json operation_json(const LaneEntry& lane) {
  if (!lane.operation_open) return nullptr;
  return {{"operation", to_string(static_cast<LaneOperation>(lane.log.operation))},
          {"first_unit", lane.log.first},
          {"units", lane.log.count},
          {"cell", lane.log.cell},
          {"handle", format_handle(lane.log.handle)},
          {"word", lane.log.word}};
}

Json to_json(const LaneEntry& lane, const std::vector<ProcessEntry>& processes) {
  Json row = {
      {"lane", lane.lane}, {"active", lane.active}, {"name", lane.name}, {"incarnation", lane.incarnation}};
  row["process_row"] = lane.active ? Json(lane.process) : Json(nullptr);
  const bool owned =
      lane.active && lane.process < processes.size() && processes[lane.process].presence != Presence::free;
  row["pid"] = owned ? Json(processes[lane.process].pid) : Json(nullptr);
  row["role"] = owned ? Json(processes[lane.process].role) : Json(nullptr);
  row["process_evidence"] = owned ? Json(to_string(processes[lane.process].presence)) : Json(nullptr);
  row["thread"] = lane.thread;
  row["sequence"] = lane.sequence;
  row["sleeping"] = lane.sleeping;
  row["cells"] = {{"used", lane.cells_used}, {"moving", lane.cells_moving}, {"total", lane.cells}};
  row["open_operation"] = operation_json(lane);
  row["counters"] = counters_json(lane.counters);
  return row;
}

}  // namespace

void add_lanes_command(CLI::App& app) {
  auto* command = app.add_subcommand("lanes", "What each thread holds, does, and has done");
  auto options = std::make_shared<LaneOptionsShown>();
  command->add_flag("--all", options->all, "Also lanes that nobody has");
  const std::shared_ptr<DumpOptions> dump(options, &options->dump);
  on_dump(*command, dump, [options](const Segment& segment) {
    const auto processes = read_process_table(segment);
    auto lanes = read_lane_table(segment);
    // A free lane that still names blocks is what somebody who looks here wants to see.
    if (!options->all)
      std::erase_if(lanes, [](const LaneEntry& lane) { return !lane.active && lane.cells_used == 0; });
    if (options->dump.json) {
      auto document = dump_document(segment, "lanes");
      document["rows"] = segment.header().lane_count - 1;
      auto& rows = document["lanes"] = Json::array();
      for (const auto& lane : lanes) rows.push_back(to_json(lane, processes));
      print_json(document);
    } else {
      print_text(lanes, processes);
    }
    return ExitCode::ok;
  });
}

}  // namespace sluice::tools
