// `sluice segment`: make a segment, remove one, repair one that nobody is left to repair, end a subscription that
// nobody will take up again.
#include "ipc/subscription.hpp"
#include "runtime/recovery.hpp"
#include "runtime/session.hpp"
#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/common/process_table.hpp"
#include "tools/common/table.hpp"
#include "tools/sluice/commands.hpp"

#include <fmt/format.h>

#include <memory>
#include <string>

namespace sluice::tools {

namespace {

// ---- create ---------------------------------------------------------------------------------------------

struct CreateOptions {
  std::string path;
  SegmentOptions segment;
  bool json = false;
};

ExitCode create(const CreateOptions& options) {
  const auto segment = Segment::create(options.path, options.segment);
  if (!segment) return report(segment.error());
  const auto& header = segment->header();
  const auto payload_bytes_max = segment->geometry().units_max * unit_bytes;
  if (options.json) {
    auto document = json_document("sluice.segment.create/1");
    document["segment"] = options.path;
    document["uuid"] = format_uuid(header.uuid);
    document["payload_bytes_max"] = payload_bytes_max;
    document["payload_bytes_committed"] = segment->units_committed() * unit_bytes;
    document["lanes"] = header.lane_count;
    document["processes"] = header.process_count;
    document["queues"] = header.queue_count;
    document["cells_per_lane"] = header.cells_per_lane;
    print_json(document);
  } else {
    fmt::print("created {}: up to {} of payload, {} lanes, {} processes, {} queues\n",
               escape_controls(options.path), format_size(payload_bytes_max), header.lane_count,
               header.process_count, header.queue_count);
  }
  return ExitCode::ok;
}

void add_create(CLI::App& segment) {
  auto* command = segment.add_subcommand("create", "Make a new, empty segment");
  auto options = std::make_shared<CreateOptions>();
  auto& wanted = options->segment;
  command->add_option("PATH", options->path, "The file to make; PATH.lock is made beside it")->required();
  add_size_option(*command, "--size", wanted.payload_bytes_max,
                  "The most payload it may ever hold; the file grows up to it")
      ->required();
  add_size_option(*command, "--initial", wanted.payload_bytes_initial, "Payload to allocate on disk now [0]");
  const auto add_count = [&](const char* name, std::uint32_t& count, const char* description) {
    command->add_option(name, count, description)->type_name("N")->capture_default_str();
  };
  add_count("--lanes", wanted.lanes, "Rows for participating threads; row 0 stays unused");
  add_count("--processes", wanted.processes, "Rows for processes");
  add_count("--queues", wanted.queues, "Rows for named queues");
  add_count("--cells", wanted.cells_per_lane, "The most references that one lane may hold");
  add_mode_option(*command, "--mode", wanted.mode, "Permissions of the file, octal [0600]");
  command->add_flag("--json", options->json, "One JSON document on stdout");
  on_run(*command, [options] { return create(*options); });
}

// ---- remove ---------------------------------------------------------------------------------------------

struct RemoveOptions {
  std::string path;
  bool force = false;
  bool json = false;
};

// "pid 12 ingress, pid 14 worker-0 (unknown: …)", or "" when nobody uses the segment.
std::string users_of(const Segment& segment) {
  std::string users;
  for (const auto& process : read_process_table(segment)) {
    if (!may_be_live(process)) continue;
    if (!users.empty()) users += ", ";
    users += process_name(process);
    if (process.presence != Presence::alive)
      users += fmt::format(" ({}: {})", to_string(process.presence), process.reason);
  }
  return users;
}

ExitCode remove(const RemoveOptions& options) {
  if (!options.force) {
    const auto segment = Segment::attach_read_only(options.path);
    if (!segment) return report(segment.error());
    if (const auto users = users_of(*segment); !users.empty()) {
      print_error(fmt::format("{} is in use by {} (--force removes it all the same)", options.path, users));
      return ExitCode::busy;
    }
  }
  if (const auto removed = Segment::remove(options.path); !removed) return report(removed.error());
  if (options.json) {
    auto document = json_document("sluice.segment.remove/1");
    document["segment"] = options.path;
    print_json(document);
  } else {
    fmt::print("removed {}\n", escape_controls(options.path));
  }
  return ExitCode::ok;
}

void add_remove(CLI::App& segment) {
  auto* command = segment.add_subcommand("remove", "Delete a segment and its lock file, if nobody uses it");
  auto options = std::make_shared<RemoveOptions>();
  command->add_option("PATH", options->path, "The segment's file")->required();
  command->add_flag("--force", options->force,
                    "Also when processes use it (they keep their mapping) or it is damaged");
  command->add_flag("--json", options->json, "One JSON document on stdout");
  on_run(*command, [options] { return remove(*options); });
}

// ---- recover --------------------------------------------------------------------------------------------

struct RecoverOptions {
  std::string path;
  bool json = false;
};

void print_text(const RecoveryReport& repaired) {
  Fields fields;
  fields.add("dead processes", std::uint64_t{repaired.processes});
  fields.add("dead lanes", std::uint64_t{repaired.lanes});
  fields.add("operations finished or undone", std::uint64_t{repaired.operations});
  fields.add("pushes and pops decided", std::uint64_t{repaired.moves});
  fields.add("references dropped", std::uint64_t{repaired.references});
  fields.add("queue ends given up", std::uint64_t{repaired.roles});
  fields.print();
  for (const auto& line : repaired.begun_by_others) fmt::print("not done: {}\n", escape_controls(line));
  for (const auto& line : repaired.disagreements) fmt::print("disagreement: {}\n", escape_controls(line));
}

void print_document(const std::string& path, const RecoveryReport& repaired) {
  auto document = json_document("sluice.segment.recover/1");
  document["segment"] = path;
  document["processes"] = repaired.processes;
  document["lanes"] = repaired.lanes;
  document["operations"] = repaired.operations;
  document["moves"] = repaired.moves;
  document["references"] = repaired.references;
  document["roles"] = repaired.roles;
  auto& begun = document["begun_by_others"] = Json::array();
  for (const auto& line : repaired.begun_by_others) begun.push_back(escape_controls(line));
  auto& disagreements = document["disagreements"] = Json::array();
  for (const auto& line : repaired.disagreements) disagreements.push_back(escape_controls(line));
  print_json(document);
}

ExitCode recover(const RecoverOptions& options) {
  const auto segment = Segment::open(options.path);
  if (!segment) return report(segment.error());
  // Not a Session: that recovers while it joins, and keeps to itself what it found.
  auto membership = join_to_recover(*segment, "recover");
  if (!membership) return report(membership.error());
  const auto repaired = recover_dead(*segment, *membership);
  membership->leave();
  if (options.json)
    print_document(options.path, repaired);
  else
    print_text(repaired);
  if (repaired.disagreements.empty()) return ExitCode::ok;
  const auto count = repaired.disagreements.size();
  print_error(fmt::format("{}: the evidence about {} process{} contradicts itself, nothing was done there",
                          options.path, count, count == 1 ? "" : "es"));
  return ExitCode::disagreement;
}

void add_recover(CLI::App& segment) {
  auto* command = segment.add_subcommand("recover", "Repair what dead processes left, and say what it was");
  auto options = std::make_shared<RecoverOptions>();
  command->add_option("PATH", options->path, "The segment's file; live processes on it go on undisturbed")
      ->required();
  command->add_flag("--json", options->json, "One JSON document on stdout");
  on_run(*command, [options] { return recover(*options); });
}

// ---- unsubscribe ----------------------------------------------------------------------------------------

struct UnsubscribeOptions {
  std::string path;
  std::string queue;
  std::string name;
  bool json = false;
};

std::string describe_refusal(const UnsubscribeOptions& options, Status status) {
  const auto what = fmt::format("{}: queue {}: subscription '{}'", options.path, options.queue, options.name);
  if (status == Status::not_found) return fmt::format("{}: there is none of that name", what);
  if (status == Status::busy) return fmt::format("{}: a lane has it, expected a parked one", what);
  if (status == Status::bad_argument)
    return fmt::format("{}: expected a broadcast, and a name of 1 to {} bytes", what, subscription_name_max);
  return fmt::format("{}: {}", what, to_string(status));
}

ExitCode unsubscribe(const UnsubscribeOptions& options) {
  auto session = Session::open(options.path, "unsubscribe");
  if (!session) return report(session.error());
  const auto queue = find_queue(session->segment(), options.queue);
  if (!queue) return report(queue.error());
  const auto lane = session->claim_lane({.cells = 64, .name = "unsubscribe"});
  if (!lane) return report(lane.error());
  if (const auto status = sluice::unsubscribe(**lane, *queue, options.name); status != Status::ok)
    return report(Error{status, 0, describe_refusal(options, status)});
  if (options.json) {
    auto document = json_document("sluice.segment.unsubscribe/1");
    document["segment"] = options.path;
    document["queue"] = options.queue;
    document["name"] = options.name;
    print_json(document);
  } else {
    fmt::print("unsubscribed {} from {}\n", escape_controls(options.name), escape_controls(options.queue));
  }
  return ExitCode::ok;
}

void add_unsubscribe(CLI::App& segment) {
  auto* command = segment.add_subcommand(
      "unsubscribe", "End a durable subscription that is parked; a publisher that it held up goes on");
  auto options = std::make_shared<UnsubscribeOptions>();
  command->add_option("PATH", options->path, "The segment's file")->required();
  command->add_option("QUEUE", options->queue, "The broadcast's name")->required();
  command->add_option("NAME", options->name, "The subscription's name")->required();
  command->add_flag("--json", options->json, "One JSON document on stdout");
  on_run(*command, [options] { return unsubscribe(*options); });
}

}  // namespace

void add_segment_command(CLI::App& app) {
  auto* command = app.add_subcommand("segment", "Create, remove and recover segments, end subscriptions");
  command->require_subcommand(1);
  add_create(*command);
  add_remove(*command);
  add_recover(*command);
  add_unsubscribe(*command);
}

}  // namespace sluice::tools
