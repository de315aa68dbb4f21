// `sluice worker`: a stage with a built-in handler. What it takes from a stream says something about the flows of that
// stream only (MessageKind::restart), so each queue has a handler of its own.
#include "runtime/stage.hpp"

#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/sluice/child_side.hpp"
#include "tools/sluice/commands.hpp"
#include "tools/sluice/mirror.hpp"
#include "tools/sluice/sink.hpp"

#include <fmt/format.h>

#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sluice::tools {

namespace {

struct WorkerFlags {
  StageOptions stage;
  std::string from, into, fed_by, lagging;
  std::string sink;
  std::string mirror;
  bool count = false;
  bool json = false;
};

struct FlowCounters {
  std::uint64_t closed = 0;
  std::uint64_t aborted = 0;
  std::uint64_t damaged = 0;
};

// What is done with the messages of one queue.
struct Service {
  std::optional<FlowSink> sink;
  std::optional<Mirror> mirror;
  FlowCounters counted;  // without a sink
  std::optional<Error> error;

  Status handle(const Delivery& delivery) {
    if (sink || mirror) {
      if (auto done = sink ? sink->handle(delivery) : mirror->handle(delivery); !done) {
        error = std::move(done.error());
        return error->status;
      }
    } else if (delivery.message.kind == MessageKind::close) {
      ++counted.closed;
    } else if (delivery.message.kind == MessageKind::abort) {
      ++counted.aborted;
    }
    return Status::ok;
  }
};

class WorkerProcess {
 public:
  explicit WorkerProcess(Stage stage) : stage_(std::move(stage)) {}

  Expected<void> prepare(const WorkerFlags& flags);
  Expected<void> serve();
  void print_summary(const WorkerFlags& flags) const;

 private:
  void print_mirror(bool json) const;
  const std::string& name() const { return stage_.options().name; }

  Stage stage_;
  std::vector<Service> services_;  // as StageOptions::from
  WorkerReport served_;
};

Expected<void> WorkerProcess::prepare(const WorkerFlags& flags) {
  for (const auto& queue : stage_.options().from) {
    if (auto found = find_queue(stage_.session().segment(), queue); !found)
      return std::unexpected(found.error());
    auto& service = services_.emplace_back();
    if (!flags.mirror.empty()) {
      auto mirror = Mirror::open(stage_.session().segment(), flags.mirror, queue);
      if (!mirror) return std::unexpected(std::move(mirror.error()));
      service.mirror = std::move(*mirror);
    } else if (!flags.sink.empty()) {
      auto sink = FlowSink::open(flags.sink, queue);
      if (!sink) return std::unexpected(sink.error());
      service.sink = std::move(*sink);
    }
  }
  return {};
}

Expected<void> WorkerProcess::serve() {
  auto served =
      stage_.serve([this](Delivery& delivery) { return services_[delivery.from].handle(delivery); });
  for (auto& service : services_)
    if (service.error) return std::unexpected(*service.error);
  if (!served) return std::unexpected(std::move(served.error()));
  served_ = *served;
  return {};
}

void WorkerProcess::print_mirror(bool json) const {
  const auto& done = services_.front().mirror->counters();
  if (!json) {
    fmt::print("{}: {} writes ({}), {} ranges of zeroes, {} flushes, {} redelivered\n", name(), done.writes,
               format_size(done.bytes), done.zeroes, done.flushes, served_.redelivered);
    return;
  }
  auto document = json_document("sluice.worker.mirror/1");
  document["name"] = name();
  document["writes"] = done.writes;
  document["bytes"] = done.bytes;
  document["zeroes"] = done.zeroes;
  document["flushes"] = done.flushes;
  document["redelivered"] = served_.redelivered;
  print_json(document);
}

void WorkerProcess::print_summary(const WorkerFlags& flags) const {
  FlowCounters ended;
  for (const auto& service : services_) {
    const auto* sink = service.sink ? &service.sink->counters() : nullptr;
    ended.closed += sink != nullptr ? sink->closed : service.counted.closed;
    ended.aborted += sink != nullptr ? sink->aborted : service.counted.aborted;
    ended.damaged += sink != nullptr ? sink->damaged : 0;
  }
  if (!flags.mirror.empty()) return print_mirror(flags.json);
  const bool supervised = flags.stage.ready_fd >= 0;
  if (supervised && served_.bytes == 0 && ended.closed + ended.aborted == 0) return;  // nothing to tell
  if (!flags.json) {
    fmt::print("{}: {} flows closed, {} aborted; {} in {} messages, {} redelivered{}\n", name(), ended.closed,
               ended.aborted, format_size(served_.bytes), served_.messages, served_.redelivered,
               served_.refused == 0 ? "" : fmt::format(", {} refused", served_.refused));
    return;
  }
  auto document = json_document("sluice.worker/1");
  document["name"] = name();
  document["flows_closed"] = ended.closed;
  document["flows_aborted"] = ended.aborted;
  document["flows_damaged"] = ended.damaged;
  document["messages"] = served_.messages;
  document["bytes"] = served_.bytes;
  document["redelivered"] = served_.redelivered;
  document["refused"] = served_.refused;
  print_json(document);
}

ExitCode run_worker_command(const WorkerFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  name_process(flags.stage.name);
  const auto handlers = (flags.sink.empty() ? 0 : 1) + (flags.mirror.empty() ? 0 : 1) + (flags.count ? 1 : 0);
  if (handlers > 1 || (handlers == 0 && flags.into.empty()))
    return report(
        {Status::bad_argument, 0, "one of --sink, --mirror and --count is needed, or --into; and no more"});
  auto options = flags.stage;
  options.from = split_names(flags.from);
  options.into = split_names(flags.into);
  options.fed_by = split_names(flags.fed_by);
  const auto lagging = parse_lagging(flags.lagging);
  if (!lagging) return report(lagging.error());
  options.lagging = *lagging;
  if (!flags.mirror.empty() && options.from.size() != 1)
    return report(
        {Status::bad_argument, 0, "--mirror is the copy of one device: --from must be its stream alone"});
  auto stage = Stage::open(std::move(options));
  if (!stage) return report(stage.error());
  WorkerProcess worker(std::move(*stage));
  if (auto prepared = worker.prepare(flags); !prepared) return report(prepared.error());
  const auto served = worker.serve();
  if (served) worker.print_summary(flags);
  return served ? ExitCode::ok : report(served.error());
}

}  // namespace

void add_worker_command(CLI::App& app) {
  auto* command = app.add_subcommand("worker", "Take from queues of a segment");
  auto flags = std::make_shared<WorkerFlags>();
  command->add_option("--segment", flags->stage.segment, "The segment")->required();
  command->add_option("--from", flags->from, "Names of existing queues, with commas between")->required();
  command->add_option(
      "--into", flags->into,
      "The queue that messages go on into afterwards, or several streams with commas between");
  command->add_option("--sink", flags->sink, "Directory: each flow becomes a file of its own");
  command->add_option("--mirror", flags->mirror, "File that becomes a copy of the device whose stream it is");
  command->add_flag("--count", flags->count, "Only count what comes");
  command->add_option("--lagging", flags->lagging,
                      "What becomes of it when a broadcast is ahead: block, lose-oldest, disconnect [block]");
  command->add_option("--name", flags->stage.name, "Name in the process table")->capture_default_str();
  command->add_option(
      "--fed-by", flags->fed_by,
      "Names of the processes that publish into its work queues: without them it need not wait");
  command->add_option("--ready-fd", flags->stage.ready_fd, "Descriptor to write a line to, once it serves");
  command->add_flag("--json", flags->json, "At the end, the counters as one JSON document on stdout");
  on_run(*command, [flags] { return run_worker_command(*flags); });
}

}  // namespace sluice::tools
