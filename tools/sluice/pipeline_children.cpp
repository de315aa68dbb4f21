#include "tools/sluice/pipeline_children.hpp"

#include "tools/common/exit_code.hpp"
#include "tools/sluice/child_side.hpp"
#include "tools/sluice/pipeline_devices.hpp"

#include <fmt/format.h>

#include <vector>

namespace sluice::tools {

namespace {

std::vector<DeviceOptions> device_options(const PipelineConfig& config) {
  std::vector<DeviceOptions> options;
  for (const auto& device : config.devices) {
    auto& option = options.emplace_back();
    option.child_name = device_child_name(device);
    option.arguments = [device, segment = config.segment](int ready_fd) {
      return device_arguments(device, segment, ready_fd);
    };
    option.stream = device.publish.value_or("");
    if (!device.mirror) continue;
    option.mirror_name = mirror_child_name(device);
    option.mirror_arguments = [device, segment = config.segment](int ready_fd) {
      return mirror_arguments(device, segment, ready_fd);
    };
  }
  return options;
}

}  // namespace

SupervisorOptions supervisor_options(const PipelineConfig& config, std::uint64_t first_flow) {
  SupervisorOptions options;
  options.workers = config.workers;
  options.devices = device_options(config);
  options.queue_capacity = config.queue_capacity;
  options.drain_grace = config.drain;
  options.status_interval = config.status;
  options.first_flow = first_flow;
  options.ingress_arguments = [config](const std::vector<std::string>& streams, const std::string& address,
                                       int ready_fd) -> std::vector<std::string> {
    return {"sluice",
            "ingress",
            "--segment",
            config.segment,
            "--tcp",
            address.empty() ? format_endpoint({config.host, config.port}) : address,
            "--streams",
            join_names(streams),
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
  options.worker_arguments = [config](const std::string& name, const std::vector<std::string>& streams,
                                      int ready_fd) {
    std::vector<std::string> arguments = {
        "sluice", "worker",    "--segment",         config.segment, "--name",
        name,     "--streams", join_names(streams), "--ready-fd",   fmt::to_string(ready_fd)};
    if (config.sink.empty())
      arguments.emplace_back("--count");
    else
      arguments.insert(arguments.end(), {"--sink", config.sink});
    return arguments;
  };
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
  if (config.workers != 0)
    line += fmt::format("listening on {}, {} worker{}, ", addresses.ingress, config.workers,
                        config.workers == 1 ? "" : "s");
  for (std::size_t i = 0; i < addresses.devices.size(); ++i)
    line += fmt::format("{} ({}), ", addresses.devices[i], config.devices[i].name.value_or(""));
  return line + "segment " + config.segment;
}

}  // namespace sluice::tools
