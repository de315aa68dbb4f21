// The target of `sluice ublk add` and `recover`, from the command line.
#pragma once

#include "tools/common/command_line.hpp"
#include "ublk/store_target.hpp"
#include "ublk/target.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace sluice::tools {

struct TargetFlags {
  std::string kind;
  std::string path;
  std::string faults;  // a script, see fault_script.hpp
  std::uint64_t bytes = 0;
  bool read_only = false;
  StoreTargetOptions store;
};

void add_target_options(CLI::App& command, TargetFlags& flags);

/// recover  a dead server's requests may still be under way: wait for them
/// errors   bad_argument  no such kind, or an option that it needs or does not have
///          else those of the target
Expected<std::unique_ptr<Target>> open_target(const TargetFlags& flags, bool recover);

}  // namespace sluice::tools
