// `shm-dump holders`: one block, and everything that refers to it.
#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/block_holders.hpp"
#include "tools/shm-dump/block_table.hpp"
#include "tools/shm-dump/commands.hpp"
#include "tools/shm-dump/lane_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

constexpr std::string_view holders_notes =
    "HANDLE is written as the other commands print it (0x0000010000000c05), or by place:\n"
    "UNIT:SLOT for the block there now, UNIT:SLOT:GENERATION for exactly one.\n"
    "A reference carries no time: AT MOST is a bound. Of a message it is the time since its bytes were received\n"
    "(where it says when, in a segment that was created since the system started); of a cell, the time since its\n"
    "process joined.\n\n";

struct HoldersOptions {
  DumpOptions dump;
  BlockName name;
};

// The tables that say whose a lane is, read once after the block.
struct Surroundings {
  std::vector<LaneEntry> lanes;
  std::vector<ProcessEntry> processes;
  std::vector<QueueEntry> queues;

  const ProcessEntry* process_of(std::uint64_t lane) const {
    if (lane == 0 || lane > lanes.size() || !lanes[lane - 1].active) return nullptr;
    const auto row = lanes[lane - 1].process;
    return row < processes.size() && processes[row].presence != Presence::free ? &processes[row] : nullptr;
  }
  const QueueEntry* queue(std::uint64_t index) const {
    const auto found = std::ranges::find(queues, index, &QueueEntry::index);
    return found == queues.end() ? nullptr : &*found;
  }
  std::string queue_name(std::uint64_t index) const {
    const auto* found = queue(index);
    return found == nullptr ? std::to_string(index) : found->name;
  }
};

// How long a reference has been held at most, and what that was taken from.
struct Age {
  std::chrono::nanoseconds at_most{0};
  const char* since = nullptr;  // null: not known
};

Age age_of_reference(const Segment& segment, const BlockReference& reference, const ProcessEntry* process) {
  if (const auto received = received_ago(segment, reference.receive_ns)) return {*received, "received"};
  if (process != nullptr) return {age_of(process->joined_ns), "joined"};
  return {};
}

// "message", "message, delivered"; of a work queue "message, leased", "message, delivered 2 times".
std::string describe_message(const BlockReference& reference) {
  std::string text = reference.leased_by != 0 ? "message, leased" : "message";
  if (reference.deliveries != 0)
    return text +
           fmt::format(", delivered {} time{}", reference.deliveries, reference.deliveries == 1 ? "" : "s");
  return text + (reference.delivered && reference.leased_by == 0 ? ", delivered" : "");
}

std::string describe_kind(const BlockReference& reference, const Surroundings& around) {
  switch (reference.kind) {
    case ReferenceKind::cell: return "at rest";
    case ReferenceKind::push:
      return fmt::format("push to {} @{}", around.queue_name(reference.queue), reference.position);
    case ReferenceKind::pop:
      return fmt::format("pop from {} @{}", around.queue_name(reference.queue), reference.position);
    case ReferenceKind::exchange:
      return fmt::format("into or out of {} @{}", around.queue_name(reference.queue), reference.position);
    case ReferenceKind::lease:
      return fmt::format("lease in {} @{}", around.queue_name(reference.queue), reference.position);
    case ReferenceKind::message: return describe_message(reference);
    default: return std::string(to_string(reference.kind));
  }
}

std::string describe_place(const BlockReference& reference, const Surroundings& around) {
  if (reference.in_cell()) return fmt::format("lane {} cell {}", reference.lane, reference.cell);
  if (reference.kind == ReferenceKind::epoch) return "its epoch";
  return fmt::format("queue {} @{}", around.queue_name(reference.queue), reference.position);
}

// Of a message: who has it, or is to take it.
std::string describe_consumer(const BlockReference& reference, const Surroundings& around) {
  const auto* queue = around.queue(reference.queue);
  if (reference.leased_by != 0) return lane_title(around.lanes, around.processes, reference.leased_by);
  if (queue != nullptr && queue->is_work()) return "whoever is first";
  return queue == nullptr || queue->consumer == 0
             ? "nobody"
             : describe_role(around.lanes, around.processes, queue->consumer);
}

std::string describe_standing(const BlockFacts& facts) {
  const auto there = [&] {
    return fmt::format(
        "generation {} is there now, {}{}", facts.generation_now, to_string(facts.state),
        facts.state == BlockState::live ? fmt::format(": {}", format_handle(facts.handle_now.value)) : "");
  };
  switch (facts.standing) {
    case Standing::live: return "live";
    case Standing::freeing: return "freeing: given up by its last holder, its slab's owner will take it back";
    case Standing::quarantined:
      return "quarantined: nobody holds it, but a device that its last holder died with may still write into it";
    case Standing::over: return fmt::format("its generation {} is over; {}", facts.generation, there());
    case Standing::not_begun:
      return fmt::format("its generation {} has not begun; {}", facts.generation, there());
    case Standing::no_block: break;
  }
  return fmt::format("no such block: {}", facts.why);
}

TableCell describe_result(const BlockHolders& holders) {
  const auto found = holders.counted();
  const auto& facts = holders.facts;
  if (facts.standing != Standing::live)
    return {facts.is_there() ? "no references" : "no such block now",
            facts.is_there() ? Tone::plain : Tone::bad};
  if (holders.agreement == Agreement::exact)
    return {fmt::format("{} reference{}, found {}", facts.count, facts.count == 1 ? "" : "s",
                        facts.count == 1 ? "it" : "them all"),
            Tone::good};
  const auto difference = fmt::format("count {}, but {} found", facts.count, found);
  if (holders.agreement == Agreement::moving)
    return {difference + ": they move while they are looked for; look again, or let `check` decide"};
  return {difference + ": a violation, nothing moved meanwhile", Tone::bad};
}

void print_facts(const BlockHolders& holders, const Surroundings& around) {
  const auto& facts = holders.facts;
  Fields fields;
  if (facts.handle) fields.add("handle", format_handle(facts.handle.value));
  fields.add("place", facts.generation == 0 ? fmt::format("unit {}, slot {}", facts.unit, facts.slot)
                                            : fmt::format("unit {}, slot {}, generation {}", facts.unit,
                                                          facts.slot, facts.generation));
  fields.add("state", describe_standing(facts));
  if (facts.standing != Standing::no_block) {
    const auto owner = facts.orphaned ? fmt::format("lane {} (gone)", facts.lane)
                                      : lane_title(around.lanes, around.processes, facts.lane);
    fields.add("memory", facts.is_run ? fmt::format("{}, a run of units", format_size(facts.bytes))
                                      : fmt::format("{}, class {}, in a slab of {}", format_size(facts.bytes),
                                                    facts.size_class, owner));
  }
  if (facts.is_there()) {
    fields.add("count", facts.count);
    fields.add("flags", flag_names(facts.flags));
  }
  if (facts.standing != Standing::no_block)
    fields.add("last tag", facts.tag_lane == 0
                               ? std::string("none: never shared")
                               : fmt::format("lane {}, operation {}", facts.tag_lane, facts.tag_sequence));
  fields.add("result", describe_result(holders));
  fields.print();
}

void print_references(const Segment& segment, const BlockHolders& holders, const Surroundings& around) {
  Table table({{"WHERE"},
               {"REFERENCE"},
               {"COUNTS"},
               {"PID", Align::right},
               {"ROLE"},
               {"EVIDENCE"},
               {"JOINED"},
               {"AT MOST", Align::right},
               {"NOTE"}});
  for (const auto& reference : holders.references) {
    const auto* process = reference.in_cell() ? around.process_of(reference.lane) : nullptr;
    const auto age = age_of_reference(segment, reference, process);
    std::string note;
    if (reference.kind == ReferenceKind::message)
      note = fmt::format("consumer: {}", describe_consumer(reference, around));
    else if (process != nullptr)
      note = process->reason;
    else if (reference.in_cell())
      note = lane_title(around.lanes, around.processes, reference.lane);
    table.add({describe_place(reference, around), describe_kind(reference, around),
               reference.counts ? "yes" : "no", process == nullptr ? "" : std::to_string(process->pid),
               process == nullptr ? "" : process->role,
               process == nullptr ? TableCell("")
                                  : TableCell(std::string(to_string(process->presence)),
                                              process->presence == Presence::alive ? Tone::good : Tone::bad),
               process == nullptr ? "" : format_local_time(process->joined_ns),
               age.since == nullptr ? "" : format_duration(age.at_most), note});
  }
  if (table.empty()) return;
  fmt::print("\n");
  table.print();
}

Json reference_json(const Segment& segment, const BlockReference& reference, const Surroundings& around) {
  const auto* process = reference.in_cell() ? around.process_of(reference.lane) : nullptr;
  const auto age = age_of_reference(segment, reference, process);
  Json row = {{"kind", to_string(reference.kind)}, {"counts", reference.counts}};
  if (reference.in_cell()) {
    row["lane"] = reference.lane;
    row["cell"] = reference.cell;
    row["process_row"] = process == nullptr ? Json(nullptr) : Json(process->row);
    row["pid"] = process == nullptr ? Json(nullptr) : Json(process->pid);
    row["role"] = process == nullptr ? Json(nullptr) : Json(process->role);
    row["process_evidence"] = process == nullptr ? Json(nullptr) : Json(to_string(process->presence));
    row["reason"] = process == nullptr ? Json(nullptr) : Json(process->reason);
    row["joined"] = process == nullptr ? Json(nullptr) : Json(format_utc_time(process->joined_ns));
  }
  if (reference.has_queue()) {
    row["queue"] = reference.queue;
    row["name"] = around.queue_name(reference.queue);
    row["position"] = reference.position;
  }
  if (reference.kind == ReferenceKind::message) {
    row["delivered"] = reference.delivered;
    row["consumer"] = describe_consumer(reference, around);
    row["leased_by"] = reference.leased_by == 0 ? Json(nullptr) : Json(reference.leased_by);
    row["deliveries"] = reference.deliveries;
  }
  row["age_at_most_s"] =
      age.since == nullptr ? Json(nullptr) : Json(std::chrono::duration<double>(age.at_most).count());
  row["age_since"] = age.since == nullptr ? Json(nullptr) : Json(age.since);
  return row;
}

Json block_json(const BlockFacts& facts) {
  if (facts.standing == Standing::no_block) return nullptr;
  return {
      {"handle", format_handle(facts.handle_now.value)},
      {"generation", facts.generation_now},
      {"state", to_string(facts.state)},
      {"count", facts.count},
      {"bytes", facts.bytes},
      {"run", facts.is_run},
      {"class", facts.is_run ? Json(nullptr) : Json(facts.size_class)},
      {"owner_lane", facts.is_run ? Json(nullptr) : Json(facts.lane)},
      {"orphaned", facts.orphaned},
      {"shared", (facts.flags & truth::flag_shared) != 0},
      {"findable", (facts.flags & truth::flag_findable) != 0},
      {"epoch", (facts.flags & truth::flag_epoch) != 0},
      {"last_tag", facts.tag_lane == 0 ? Json(nullptr)
                                       : Json{{"lane", facts.tag_lane}, {"sequence", facts.tag_sequence}}}};
}

void print_document(const Segment& segment, const BlockHolders& holders, const Surroundings& around) {
  const auto& facts = holders.facts;
  auto document = dump_document(segment, "holders");
  document["handle"] = facts.handle ? Json(format_handle(facts.handle.value)) : Json(nullptr);
  document["unit"] = facts.unit;
  document["slot"] = facts.slot;
  document["generation"] = facts.generation;
  document["standing"] = to_string(facts.standing);
  document["why"] = describe_standing(facts);
  document["block_now"] = block_json(facts);
  document["agreement"] = to_string(holders.agreement);
  document["counted"] = holders.counted();
  auto& references = document["references"] = Json::array();
  for (const auto& reference : holders.references)
    references.push_back(reference_json(segment, reference, around));
  print_json(document);
}

ExitCode exit_code_of(const BlockHolders& holders) {
  if (!holders.facts.is_there()) return ExitCode::not_found;
  return holders.agreement == Agreement::violation ? ExitCode::corrupt : ExitCode::ok;
}

}  // namespace

void add_holders_command(CLI::App& app) {
  auto* command = app.add_subcommand("holders", "Who holds one block: cells, messages, and whose they are");
  command->footer(std::string(holders_notes) + exit_code_footer());
  auto options = std::make_shared<HoldersOptions>();
  const std::shared_ptr<DumpOptions> dump(options, &options->dump);
  on_dump(*command, dump, [options](const Segment& segment) {
    const bool live = std::ranges::any_of(read_process_table(segment), may_be_live);
    const auto holders = read_block_holders(segment, options->name, live);
    const Surroundings around{read_lane_table(segment), read_process_table(segment),
                              read_queue_table(segment)};
    if (options->dump.json) {
      print_document(segment, holders, around);
    } else {
      print_facts(holders, around);
      print_references(segment, holders, around);
    }
    return exit_code_of(holders);
  });
  // After SEGMENT, which on_dump() adds.
  const CLI::callback_t set = [options](const CLI::results_t& values) {
    const auto parsed = parse_block_name(values.back());
    if (!parsed) throw CLI::ValidationError("HANDLE", parsed.error().message);
    options->name = *parsed;
    return true;
  };
  command->add_option("HANDLE", set, "The block")->required();
}

}  // namespace sluice::tools
