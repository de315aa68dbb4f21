#include "tools/sluice/pipeline_devices.hpp"

#include "ipc/queue_layout.hpp"
#include "tools/sluice/toml_value.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

// "mirror.NAME" is a role in the segment's process table.
constexpr std::size_t name_length_max = 24;
constexpr std::string_view name_characters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
constexpr std::string_view keys =
    "name, target, path, size, queues, depth, max-io, data, recovery, faults, lock-memory, read-only, thin, id, publish, "
    "publish-policy, mirror";
constexpr std::string_view ingress_prefix = "ingress.";  // of the streams that the ingress fills

Expected<void> read_key(const TomlPlace& place, DeviceSettings& out) {
  const auto key = place.key;
  if (key == "name") return read_value(place, out.name);
  if (key == "target") return read_word(place, {"null", "file", "store"}, out.target);
  if (key == "path") return read_value(place, out.path);
  if (key == "size") return read_size(place, out.size);
  if (key == "queues") return read_value(place, out.queues);
  if (key == "depth") return read_value(place, out.depth);
  if (key == "max-io") return read_size(place, out.max_io);
  if (key == "data") return read_word(place, {"auto", "user-copy", "copy"}, out.data);
  if (key == "recovery") return read_word(place, {"none", "wait", "reissue", "fail-io"}, out.recovery);
  if (key == "faults") return read_value(place, out.faults);
  if (key == "lock-memory") return read_value(place, out.lock_memory);
  if (key == "read-only") return read_value(place, out.read_only);
  if (key == "thin") return read_value(place, out.thin);
  if (key == "id") return read_value(place, out.id);
  if (key == "publish") return read_value(place, out.publish);
  if (key == "publish-policy") return read_word(place, {"block", "fail"}, out.publish_policy);
  if (key == "mirror") return read_value(place, out.mirror);
  return fail(Status::bad_argument, fmt::format("{}:{}: unknown key '{}' in [[ublk]], expected one of {}",
                                                place.file, place.node->source().begin.line, key, keys));
}

// Whether `mine`, which `before` has too, is a thing that only one device can have.
bool same(const std::optional<std::string>& mine, const std::optional<std::string>& before) {
  return mine && before && *mine == *before;
}

// What one table must have. Its place names the key that is wrong, the line is the table's.
Expected<void> check_device(std::string_view file, const toml::node& table, const DeviceSettings& device) {
  const auto wrong = [&](std::string_view key, std::string_view what) {
    return TomlPlace{file, key, &table}.wrong(what);
  };
  if (!device.name) return wrong("name", "missing, expected what to call the device");
  if (device.name->empty() || device.name->size() > name_length_max ||
      device.name->find_first_not_of(name_characters) != std::string::npos)
    return wrong("name",
                 fmt::format("found '{}', expected 1 to {} letters, digits, dots, dashes or underscores",
                             *device.name, name_length_max));
  if (!device.target) return wrong("target", "missing, expected one of null, file, store");
  if (device.publish && device.target != "store")
    return wrong(
        "publish",
        fmt::format("found with target '{}', expected it with store, which alone publishes", *device.target));
  if (device.publish && (device.publish->empty() || device.publish->size() >= queue_name_bytes))
    return wrong("publish", fmt::format("found '{}', expected a stream's name of 1 to {} bytes",
                                        *device.publish, queue_name_bytes - 1));
  if (device.publish && device.publish->starts_with(ingress_prefix))
    return wrong("publish",
                 fmt::format("found '{}', but streams 'ingress.…' are the ingress's", *device.publish));
  if (device.publish && device.publish->find(',') != std::string::npos)
    return wrong("publish", fmt::format("found '{}', expected a name without commas", *device.publish));
  if (same(device.publish, device.name))
    return wrong("publish", fmt::format("found '{}', which is the device's own name", *device.publish));
  if (device.target == "store" && device.name->starts_with(ingress_prefix))
    return wrong("name", fmt::format("found '{}', but streams 'ingress.…' are the ingress's", *device.name));
  if (!device.publish && device.publish_policy)
    return wrong("publish-policy", "found without publish, which it belongs to");
  if (!device.publish && device.mirror)
    return wrong("mirror", "found without publish, the stream that it follows");
  if (device.mirror && device.mirror->empty()) return wrong("mirror", "empty, expected a file");
  return {};
}

Expected<void> check_against(std::string_view file, const toml::node& table, const DeviceSettings& device,
                             const std::vector<DeviceSettings>& others) {
  for (const auto& other : others) {
    const auto twice = [&](std::string_view key, const std::string& value) {
      return TomlPlace{file, key, &table}.wrong(
          fmt::format("found '{}', which device '{}' has already", value, *other.name));
    };
    if (same(device.name, other.name)) return twice("name", *device.name);
    if (same(device.publish, other.publish)) return twice("publish", *device.publish);
    if (same(device.publish, other.name)) return twice("publish", *device.publish);
    if (same(device.name, other.publish)) return twice("name", *device.name);
    if (device.id && device.id == other.id) return twice("id", fmt::to_string(*device.id));
    if (same(device.mirror, other.mirror)) return twice("mirror", *device.mirror);
  }
  return {};
}

}  // namespace

Expected<std::vector<DeviceSettings>> read_devices(std::string_view file, const toml::node& node) {
  const auto* tables = node.as_array();
  if (tables == nullptr || !tables->is_homogeneous(toml::node_type::table))
    return TomlPlace{file, "ublk", &node}.wrong("expected tables, each with [[ublk]] above it");
  std::vector<DeviceSettings> devices;
  for (const auto& table : *tables) {
    DeviceSettings device;
    for (const auto& [key, value] : *table.as_table())
      if (auto read = read_key({file, key.str(), &value}, device); !read)
        return std::unexpected(read.error());
    if (auto checked = check_device(file, table, device); !checked) return std::unexpected(checked.error());
    if (auto checked = check_against(file, table, device, devices); !checked)
      return std::unexpected(checked.error());
    devices.push_back(std::move(device));
  }
  return devices;
}

std::string device_child_name(const DeviceSettings& device) { return "ublk." + device.name.value_or(""); }

std::string mirror_child_name(const DeviceSettings& device) { return "mirror." + device.name.value_or(""); }

std::vector<std::string> device_arguments(const DeviceSettings& device, const std::string& segment,
                                          int ready_fd) {
  std::vector<std::string> arguments = {"sluice", "ublk", "add", "--take-over"};
  const auto text = [&](const char* flag, const std::optional<std::string>& value) {
    if (value) arguments.insert(arguments.end(), {flag, *value});
  };
  const auto number = [&](const char* flag, const std::optional<std::uint64_t>& value) {
    if (value) arguments.insert(arguments.end(), {flag, fmt::to_string(*value)});
  };
  const auto flag = [&](const char* name, const std::optional<bool>& value) {
    if (value.value_or(false)) arguments.emplace_back(name);
  };
  const bool store = device.target == "store";
  text("--target", device.target);
  if (store) text("--segment", segment);
  if (store) text("--name", device.name);
  text("--path", device.path);
  number("--size", device.size);
  number("--queues", device.queues);
  number("--depth", device.depth);
  number("--max-io", device.max_io);
  text("--data", device.data);
  text("--recovery", device.recovery);
  text("--faults", device.faults);
  flag("--lock-memory", device.lock_memory);
  flag("--read-only", device.read_only);
  flag("--thin", device.thin);
  number("--id", device.id);
  text("--publish", device.publish);
  text("--publish-policy", device.publish_policy);
  arguments.insert(arguments.end(), {"--ready-fd", fmt::to_string(ready_fd)});
  return arguments;
}

std::vector<std::string> mirror_arguments(const DeviceSettings& device, const std::string& segment,
                                          int ready_fd) {
  return {"sluice", "worker",        "--segment", segment,        "--name",     mirror_child_name(device),
          "--from", *device.publish, "--mirror",  *device.mirror, "--ready-fd", fmt::to_string(ready_fd)};
}

}  // namespace sluice::tools
