// The block devices of a pipeline: [[ublk]] tables of the configuration, and the commands that they become. A key is the
// flag of `sluice ublk add` of that name; what a value must be that command decides, where it is more than a word.
#pragma once

#include "shm/status.hpp"

#include <toml++/toml.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// One table; empty where it says nothing.
struct DeviceSettings {
  std::optional<std::string> name;  // in the pipeline
  std::optional<std::string> target;
  std::optional<std::string> path;
  std::optional<std::uint64_t> size;
  std::optional<std::uint64_t> queues;
  std::optional<std::uint64_t> depth;
  std::optional<std::uint64_t> max_io;
  std::optional<std::string> data;
  std::optional<std::string> recovery;
  std::optional<std::string> faults;
  std::optional<bool> lock_memory;
  std::optional<bool> read_only;
  std::optional<bool> thin;
  std::optional<std::uint64_t> id;
  std::optional<std::string> publish;  // the stream that it publishes into
  std::optional<std::string> publish_policy;
  std::optional<std::string> mirror;  // the file that a worker keeps like the device
};

/// The tables of `ublk = …`, each checked by itself and against the others.
/// errors  bad_argument  names file, line, key, what was found and what was expected
Expected<std::vector<DeviceSettings>> read_devices(std::string_view file, const toml::node& node);

/// What the supervisor calls the children, and their commands.
std::string device_child_name(const DeviceSettings& device);
std::string mirror_child_name(const DeviceSettings& device);
std::vector<std::string> device_arguments(const DeviceSettings& device, const std::string& segment,
                                          int ready_fd);
std::vector<std::string> mirror_arguments(const DeviceSettings& device, const std::string& segment,
                                          int ready_fd);

}  // namespace sluice::tools
