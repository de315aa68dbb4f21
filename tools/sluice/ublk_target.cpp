#include "tools/sluice/ublk_target.hpp"

#include "tools/sluice/fault_script.hpp"
#include "ublk/fault_target.hpp"
#include "ublk/file_target.hpp"
#include "ublk/null_target.hpp"

#include <fmt/format.h>

#include <utility>

namespace sluice::tools {

namespace {

// How long what a dead server had in flight may take.
constexpr std::chrono::seconds lock_wait_recover{30};

Expected<std::unique_ptr<Target>> open_plain(const TargetFlags& flags, bool recover) {
  if (flags.kind == "null") {
    if (!flags.path.empty() || flags.read_only)
      return fail(Status::bad_argument, "--target null takes --size, neither --path nor --read-only");
    return NullTarget::open(flags.bytes);
  }
  if (flags.kind == "file") {
    if (flags.path.empty()) return fail(Status::bad_argument, "--target file needs --path");
    return FileTarget::open({.path = flags.path,
                             .bytes = flags.bytes,
                             .read_only = flags.read_only,
                             .lock_wait = recover ? lock_wait_recover : std::chrono::seconds(0)});
  }
  return fail(Status::bad_argument, fmt::format("--target is '{}', expected null or file", flags.kind));
}

}  // namespace

void add_target_options(CLI::App& command, TargetFlags& flags) {
  command.add_option("--target", flags.kind, "What stands behind it: null (keeps nothing), file")->required();
  command.add_option("--path", flags.path, "file: a file or block device");
  add_size_option(command, "--size", flags.bytes, "The device's size; file: all of it unless given");
  command.add_flag("--read-only", flags.read_only, "file: never written to");
  command.add_option("--faults", flags.faults,
                     "A script of errors, delays and stalls, for tests (docs/ublk.md)");
}

Expected<std::unique_ptr<Target>> open_target(const TargetFlags& flags, bool recover) {
  std::vector<FaultRule> rules;
  if (!flags.faults.empty()) {
    auto read = read_fault_script(flags.faults);
    if (!read) return std::unexpected(std::move(read.error()));
    rules = std::move(*read);
  }
  auto target = open_plain(flags, recover);
  if (!target || flags.faults.empty()) return target;
  return std::make_unique<FaultTarget>(std::move(*target), std::move(rules));
}

}  // namespace sluice::tools
