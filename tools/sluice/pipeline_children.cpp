#include "tools/sluice/pipeline_children.hpp"

#include "tools/common/exit_code.hpp"
#include "tools/sluice/child_side.hpp"
#include "tools/sluice/pipeline_devices.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <unistd.h>

namespace sluice::tools {

namespace {

std::vector<DeviceOptions> device_options(const PipelineConfig& config) {
  std::vector<DeviceOptions> options;
  const auto& devices = config.topology.devices;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const auto& device = devices[i];
    auto& option = options.emplace_back();
    option.child_name = device_child_name(device);
    option.arguments = [device, segment = config.segment](int ready_fd) {
      return device_arguments(device, segment, ready_fd);
    };
    option.into = published_queue(config.topology, i);
    if (!device.mirror) continue;
    option.mirror_name = mirror_child_name(device);
    option.mirror_arguments = [device, segment = config.segment](int ready_fd) {
      return mirror_arguments(device, segment, ready_fd);
    };
  }
  return options;
}

// A program of the user's finds its place in its environment (runtime/stage.hpp), a worker of ours in its flags.
WorkerCommand worker_command(const PipelineConfig& config, const WorkerPlace& place) {
  const auto& stage = config.topology.stages[place.stage];
  const auto into = join_names(place.into);
  const auto from = join_names(place.from);
  const auto fed_by = join_names(place.fed_by);
  const auto ready_fd = fmt::to_string(place.ready_fd);
  if (stage.run) {
    return {.program = stage.run->front(),
            .arguments = *stage.run,
            .environment = {"SLUICE_SEGMENT=" + config.segment, "SLUICE_NAME=" + place.name,
                            "SLUICE_FROM=" + from, "SLUICE_INTO=" + into, "SLUICE_FED_BY=" + fed_by,
                            "SLUICE_LAGGING=" + stage.lagging.value_or(""), "SLUICE_READY_FD=" + ready_fd}};
  }
  WorkerCommand command;
  command.arguments = {"sluice", "worker", "--segment", config.segment, "--name",     place.name,
                       "--from", from,     "--fed-by",  fed_by,         "--ready-fd", ready_fd};
  const auto add = [&](const char* flag, const std::string& value) {
    if (!value.empty()) command.arguments.insert(command.arguments.end(), {flag, value});
  };
  add("--into", into);
  add("--lagging", stage.lagging.value_or(""));
  add("--sink", stage.sink.value_or(""));
  if (stage.count.value_or(false)) command.arguments.emplace_back("--count");
  return command;
}

// As exec does it: as it is if it has a slash, else in the directories of PATH.
bool is_executable(const std::string& program) {
  if (program.find('/') != std::string::npos) return ::access(program.c_str(), X_OK) == 0;
  const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): before there are threads
  for (std::string_view left = path == nullptr ? "/bin:/usr/bin" : path; !left.empty();) {
    const auto directory = left.substr(0, left.find(':'));
    if (::access(fmt::format("{}/{}", directory, program).c_str(), X_OK) == 0) return true;
    left.remove_prefix(std::min(left.size(), directory.size() + 1));
  }
  errno = ENOENT;
  return false;
}

}  // namespace

Expected<void> check_programs(const PipelineConfig& config) {
  for (const auto& stage : config.topology.stages)
    if (stage.run && !is_executable(stage.run->front()))
      return fail_errno(fmt::format("{}: stage {}: run: {}", stage.place, *stage.name, stage.run->front()));
  return {};
}

SupervisorOptions supervisor_options(const PipelineConfig& config, std::uint64_t first_flow) {
  SupervisorOptions options;
  options.plan = config.plan;
  options.devices = device_options(config);
  options.drain_grace = config.drain;
  options.status_interval = config.status;
  options.first_flow = first_flow;
  options.ingress_arguments = [config](const std::vector<std::string>& into, const std::string& address,
                                       int ready_fd) -> std::vector<std::string> {
    return {"sluice",
            "ingress",
            "--segment",
            config.segment,
            "--tcp",
            address.empty() ? format_endpoint({config.host, config.port}) : address,
            "--into",
            join_names(into),
            "--buffers",
            fmt::to_string(config.buffers),
            "--buffer-size",
            fmt::to_string(config.buffer_size),
            "--max-connections",
            fmt::to_string(config.max_connections),
            "--share",
            fmt::to_string(config.share),
            "--drain",
            fmt::format("{}ns", config.drain.count()),
            "--ready-fd",
            fmt::to_string(ready_fd)};
  };
  options.worker_command = [config](const WorkerPlace& place) { return worker_command(config, place); };
  options.is_refusal = [](int exit_code) {
    switch (static_cast<ExitCode>(exit_code)) {
      case ExitCode::usage:
      case ExitCode::not_found:
      case ExitCode::incompatible:
      case ExitCode::corrupt:
      case ExitCode::permission: return true;
      default: return false;
    }
  };
  return options;
}

std::string ready_line(const PipelineConfig& config, const PipelineAddresses& addresses) {
  std::string line = "ready: ";
  if (config.plan.ingress_into) line += fmt::format("listening on {}, ", addresses.ingress);
  for (const auto& stage : config.plan.stages)
    line += config.has_stages ? fmt::format("{} ({}), ", stage.name, stage.workers)
                              : fmt::format("{} worker{}, ", stage.workers, stage.workers == 1 ? "" : "s");
  for (std::size_t i = 0; i < addresses.devices.size(); ++i)
    line += fmt::format("{} ({}), ", addresses.devices[i], config.topology.devices[i].name.value_or(""));
  return line + "segment " + config.segment;
}

}  // namespace sluice::tools
