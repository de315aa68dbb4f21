// `sluice run`: a supervised pipeline from one command.
#include "runtime/supervisor.hpp"

#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/sluice/commands.hpp"
#include "tools/sluice/pipeline_children.hpp"
#include "tools/sluice/pipeline_config.hpp"
#include "tools/sluice/sink.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sluice::tools {

namespace {

constexpr std::string_view run_notes =
    "The pipeline runs until SIGTERM, SIGINT or SIGHUP, then drains; a second signal cuts that short (exit code 1).\n"
    "SIGUSR1 prints a status line. If the segment's file is removed meanwhile, it drains and exits with 3.\n\n";

// Flags write where their option is; which of them were given decides what overrides the file.
struct RunFlags {
  PipelineSettings settings;
  std::string config_file;
  std::uint64_t size = 0;
  std::uint64_t buffer_size = 0;
  std::chrono::nanoseconds drain{0};
  std::chrono::nanoseconds status{0};
  bool count = false;
  CLI::Option* size_option = nullptr;
  CLI::Option* buffer_size_option = nullptr;
  CLI::Option* drain_option = nullptr;
  CLI::Option* status_option = nullptr;
  CLI::Option* count_option = nullptr;

  PipelineSettings given() const {
    auto given = settings;
    if (size_option->count() != 0) given.size = size;
    if (buffer_size_option->count() != 0) given.buffer_size = buffer_size;
    if (drain_option->count() != 0) given.drain = drain;
    if (status_option->count() != 0) given.status = status;
    if (count_option->count() != 0) given.count = count;
    return given;
  }
};

Expected<PipelineConfig> read_config(const RunFlags& flags) {
  PipelineSettings settings;
  if (!flags.config_file.empty()) {
    auto file = read_settings(flags.config_file);
    if (!file) return std::unexpected(file.error());
    settings = std::move(*file);
  }
  settings.override_with(flags.given());
  return resolve(settings);
}

// A file that is no segment, or only half of one, may be somebody's: it is never overwritten.
Expected<Segment> open_or_create(const PipelineConfig& config) {
  auto segment = Segment::open(config.segment);
  if (!segment &&
      (segment.error().status == Status::incompatible || segment.error().status == Status::corrupt))
    return fail(
        segment.error().status,
        fmt::format("{}; it was left as it is: remove it if nobody needs it, or choose another --segment",
                    segment.error().message),
        segment.error().errno_value);
  if (segment || segment.error().status != Status::not_found) return segment;
  SegmentOptions options;
  options.payload_bytes_max = config.size;
  segment = Segment::create(config.segment, options);
  if (!segment && segment.error().status == Status::exists) return Segment::open(config.segment);
  return segment;
}

ExitCode exit_code_of(const SupervisorReport& report) {
  switch (report.end) {
    case SupervisorEnd::drained: return ExitCode::ok;
    case SupervisorEnd::removed: return ExitCode::not_found;
    case SupervisorEnd::refused: return static_cast<ExitCode>(report.child_exit_code);
    case SupervisorEnd::busy: return ExitCode::busy;
    case SupervisorEnd::forced:
    case SupervisorEnd::stuck:
    case SupervisorEnd::failed: return ExitCode::failure;
  }
  return ExitCode::failure;
}

ExitCode run_pipeline(const RunFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto config = read_config(flags);
  if (!config) return report(config.error());
  if (const auto startable = check_programs(*config); !startable) return report(startable.error());
  std::vector<SinkDirectory> sinks;
  std::uint64_t first_flow = 0;
  for (const auto& directory : config->sinks()) {
    auto prepared = prepare_sink(directory);
    if (!prepared) return report(prepared.error());
    first_flow = std::max(first_flow, prepared->first_flow);
    sinks.push_back(std::move(*prepared));
  }
  auto segment = open_or_create(*config);
  if (!segment) return report(segment.error());
  auto session = Session::join(std::move(*segment), "supervisor");
  if (!session) return report(session.error());
  auto options = supervisor_options(*config, first_flow);
  options.log = [](std::string_view line) { print_error(line); };
  options.ready = [&config](const PipelineAddresses& addresses) {
    fmt::print("{}\n", ready_line(*config, addresses));
    std::fflush(stdout);
  };
  auto supervisor = Supervisor::create(*session, std::move(options));
  if (!supervisor) return report(supervisor.error());

  const auto result = (*supervisor)->run();
  const bool logged = result.end == SupervisorEnd::removed || result.end == SupervisorEnd::refused;
  if (!result.reason.empty() && !logged) print_error(result.reason);
  if (result.end != SupervisorEnd::refused)
    print_error(fmt::format("{}: {} in {} messages, {} redelivered, {} restarts",
                            result.end == SupervisorEnd::drained ? "drained" : "ended",
                            format_size(result.bytes), result.messages, result.redelivered, result.restarts));
  return exit_code_of(result);
}

}  // namespace

void add_run_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "run", "Run a pipeline: an ingress, stages of workers, block devices, or all of it, supervised");
  command->footer(std::string(run_notes) + exit_code_footer());
  auto flags = std::make_shared<RunFlags>();
  auto& settings = flags->settings;
  command->add_option(
      "--config", flags->config_file,
      "TOML file with these settings, and [[queue]], [[stage]] and [[ublk]] tables; flags override it");
  command->add_option("--segment", settings.segment, "The segment; created if it is missing");
  flags->size_option =
      add_size_option(*command, "--size", flags->size,
                      "Most payload of a segment that is created [1GiB]; the file is sparse");
  command->add_option("--tcp", settings.tcp, "HOST:PORT to listen on; host numeric, port 0 for a free one");
  command->add_option("--workers", settings.workers, "Worker processes [2]");
  command->add_option("--sink", settings.sink, "Directory: each connection becomes a file NUMBER.bin");
  flags->count_option =
      command->add_flag("--count", flags->count, "Only count what comes, instead of --sink");
  command->add_option("--queue-capacity", settings.queue_capacity, "Messages in each worker's stream [4096]");
  command->add_option("--buffers", settings.buffers, "Blocks to receive into [512]");
  flags->buffer_size_option =
      add_size_option(*command, "--buffer-size", flags->buffer_size, "Size of each block [32KiB]");
  command->add_option("--max-connections", settings.max_connections, "More wait in the backlog [1024]");
  command->add_option(
      "--share", settings.share,
      "Most blocks of one connection that no worker has taken yet [a quarter of the buffers]");
  flags->drain_option = add_duration_option(
      *command, "--drain", flags->drain, "Time for open connections to end, once the pipeline drains [5s]");
  flags->status_option = add_duration_option(*command, "--status", flags->status,
                                             "A status line on stderr this often [0: only on SIGUSR1]");
  on_run(*command, [flags] { return run_pipeline(*flags); });
}

}  // namespace sluice::tools
