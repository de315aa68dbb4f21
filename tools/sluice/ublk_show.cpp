#include "tools/sluice/ublk_show.hpp"

#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/common/table.hpp"
#include "ublk/control.hpp"
#include "ublk/features.hpp"

#include <fmt/format.h>

#include <string>

namespace sluice::tools {

namespace {

using namespace ublk_abi;

struct Device {
  DeviceInfo info;
  Params params;
};

Expected<Device> read_device(UblkControl& control, std::uint32_t id) {
  auto info = control.info(id);
  if (!info) return std::unexpected(std::move(info.error()));
  auto params = control.params(id);
  if (!params) return std::unexpected(std::move(params.error()));
  return Device{*info, *params};
}

// "pid 12", "pid 12 (gone)", "none"
std::string server_text(const DeviceInfo& info) {
  if (info.server_pid <= 0) return "none";
  return fmt::format("pid {}{}", info.server_pid, ublk_server_runs(info) ? "" : " (gone)");
}

std::string recovery_name(std::uint64_t flags) {
  if ((flags & f_recovery) == 0) return "none";
  if ((flags & f_recovery_reissue) != 0) return "reissue";
  return (flags & f_recovery_fail_io) != 0 ? "fail-io" : "wait";
}

std::string data_path_name(std::uint64_t flags) {
  if ((flags & f_zero_copy) != 0) return "zero-copy";
  return (flags & f_user_copy) != 0 ? "user-copy" : "copy";
}

Json document_of(const Device& device, Json document) {
  const auto& [info, params] = device;
  document["id"] = info.device_id;
  document["state"] = ublk_state_name(info.state);
  document["server_pid"] = info.server_pid > 0 ? Json(info.server_pid) : Json(nullptr);
  document["server_alive"] = ublk_server_runs(info);
  document["bytes"] = params.basic.device_sectors * sector_bytes;
  document["queues"] = info.queues;
  document["depth"] = info.depth;
  document["io_bytes_max"] = info.io_bytes_max;
  document["logical_block"] = 1U << params.basic.logical_block_shift;
  document["physical_block"] = 1U << params.basic.physical_block_shift;
  document["read_only"] = (params.basic.attributes & attr_read_only) != 0;
  document["volatile_cache"] = (params.basic.attributes & attr_volatile_cache) != 0;
  document["discard"] = (params.types & params_discard) != 0;
  document["data_path"] = data_path_name(info.flags);
  document["recovery"] = recovery_name(info.flags);
  document["features"] = ublk_feature_names(info.flags);
  return document;
}

}  // namespace

ExitCode list_ublk_devices(bool json) {
  auto control = UblkControl::open();
  if (!control) return report(control.error());
  Table table({{"ID", Align::right},
               {"STATE"},
               {"SERVER"},
               {"SIZE", Align::right},
               {"QUEUES", Align::right},
               {"DEPTH", Align::right},
               {"DATA"},
               {"RECOVERY"}});
  auto devices = Json::array();
  for (const auto id : UblkControl::ids()) {
    const auto device = read_device(*control, id);
    if (!device) {
      if (device.error().status == Status::not_found) continue;  // gone since
      return report(device.error());
    }
    const auto& info = device->info;
    if (json) {
      devices.push_back(document_of(*device, Json::object()));
      continue;
    }
    const bool left = info.state != state_live || !ublk_server_runs(info);
    table.add({std::uint64_t{id},
               {std::string(ublk_state_name(info.state)), left ? Tone::bad : Tone::good},
               server_text(info),
               format_size(device->params.basic.device_sectors * sector_bytes),
               std::uint64_t{info.queues},
               std::uint64_t{info.depth},
               data_path_name(info.flags),
               recovery_name(info.flags)});
  }
  if (json) {
    auto document = json_document("sluice.ublk.list/1");
    document["devices"] = std::move(devices);
    print_json(document);
  } else if (!table.empty()) {
    table.print();
  }
  return ExitCode::ok;
}

ExitCode show_ublk_device(std::uint32_t id, bool json) {
  auto control = UblkControl::open();
  if (!control) return report(control.error());
  const auto device = read_device(*control, id);
  if (!device) return report(device.error());
  const auto& [info, params] = *device;
  if (json) {
    print_json(document_of(*device, json_document("sluice.ublk.info/1")));
    return ExitCode::ok;
  }
  Fields fields;
  fields.add("device", fmt::format("/dev/ublkb{}", id));
  fields.add("state", std::string(ublk_state_name(info.state)));
  fields.add("server", server_text(info));
  fields.add("size", format_size(params.basic.device_sectors * sector_bytes));
  fields.add("blocks", fmt::format("{} logical, {} physical", 1U << params.basic.logical_block_shift,
                                   1U << params.basic.physical_block_shift));
  fields.add("queues", fmt::format("{} of depth {}", info.queues, info.depth));
  fields.add("largest request", format_size(info.io_bytes_max));
  fields.add(
      "attributes",
      fmt::format("{}{}{}", (params.basic.attributes & attr_read_only) != 0 ? "read-only" : "read-write",
                  (params.basic.attributes & attr_volatile_cache) != 0 ? ", volatile cache with FUA" : "",
                  (params.types & params_discard) != 0 ? ", discard" : ""));
  fields.add("data path", data_path_name(info.flags));
  fields.add("recovery", recovery_name(info.flags));
  fields.add("features", fmt::format("{}", fmt::join(ublk_feature_names(info.flags), " ")));
  fields.print();
  return ExitCode::ok;
}

ExitCode show_ublk_features(bool json) {
  auto control = UblkControl::open();
  if (!control) return report(control.error());
  const auto flags = control->features();
  if (json) {
    auto document = json_document("sluice.ublk.features/1");
    document["known"] = control->knows_features();
    document["flags"] = fmt::format("{:#x}", flags);
    document["features"] = ublk_feature_names(flags);
    print_json(document);
    return ExitCode::ok;
  }
  if (!control->knows_features()) fmt::print("this kernel's driver does not tell (Linux 6.5 does)\n");
  for (const auto& name : ublk_feature_names(flags)) fmt::print("{}\n", name);
  return ExitCode::ok;
}

}  // namespace sluice::tools
