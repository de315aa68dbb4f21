#include "tools/sluice/ublk_target.hpp"

#include "ublk/null_target.hpp"

#include <fmt/format.h>

namespace sluice::tools {

void add_target_options(CLI::App& command, TargetFlags& flags) {
  command.add_option("--target", flags.kind, "null")->required();
  add_size_option(command, "--size", flags.bytes, "null: the device's size");
}

Expected<std::unique_ptr<Target>> open_target(const TargetFlags& flags, bool /*recover*/) {
  if (flags.kind == "null") return NullTarget::open(flags.bytes);
  return fail(Status::bad_argument, fmt::format("--target is {}, expected null", flags.kind));
}

}  // namespace sluice::tools
