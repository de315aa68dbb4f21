// `shm-dump processes`: who has joined, and what the kernel says about each.
#include "tools/common/format.hpp"
#include "tools/common/process_table.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/commands.hpp"

#include <fmt/format.h>

#include <chrono>

namespace sluice::tools {

namespace {

Tone tone_of(Presence presence) {
  if (presence == Presence::alive) return Tone::good;
  return presence == Presence::free ? Tone::faint : Tone::bad;
}

void print_text(const std::vector<ProcessEntry>& processes) {
  Table table({{"ROW", Align::right},
               {"PID", Align::right},
               {"ROLE"},
               {"STATE"},
               {"EVIDENCE"},
               {"INCARNATION", Align::right},
               {"JOINED"},
               {"AGE", Align::right},
               {"WHY"}});
  for (const auto& process : processes) {
    auto state = std::string(to_string(process.state));
    if (process.state == ProcessState::recovering) state += fmt::format(" by row {}", process.claimer_row);
    table.add({process.row, process.pid, process.role, state,
               TableCell(std::string(to_string(process.presence)), tone_of(process.presence)),
               process.incarnation, format_local_time(process.joined_ns),
               format_duration(age_of(process.joined_ns)), process.reason});
  }
  if (table.empty())
    fmt::print("no processes\n");
  else
    table.print();
}

Json to_json(const ProcessEntry& process) {
  Json row = {{"row", process.row},
              {"pid", process.pid},
              {"role", process.role},
              {"state", to_string(process.state)},
              {"evidence", to_string(process.presence)},
              {"reason", process.reason},
              {"incarnation", process.incarnation},
              {"joined", format_utc_time(process.joined_ns)},
              {"age_s", std::chrono::duration<double>(age_of(process.joined_ns)).count()}};
  if (process.state == ProcessState::recovering) row["recovered_by_row"] = process.claimer_row;
  return row;
}

}  // namespace

void add_processes_command(CLI::App& app) {
  auto* command = app.add_subcommand("processes", "Who has joined, and whether they live");
  auto options = std::make_shared<DumpOptions>();
  on_dump(*command, options, [options](const Segment& segment) {
    auto processes = read_process_table(segment);
    std::erase_if(processes, [](const ProcessEntry& process) { return process.presence == Presence::free; });
    if (options->json) {
      auto document = dump_document(segment, "processes");
      auto& rows = document["processes"] = Json::array();
      for (const auto& process : processes) rows.push_back(to_json(process));
      print_json(document);
    } else {
      print_text(processes);
    }
    return ExitCode::ok;
  });
}

}  // namespace sluice::tools
