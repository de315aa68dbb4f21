// What `sluice ublk list`, `info` and `features` print.
#pragma once

#include "tools/common/exit_code.hpp"

#include <cstdint>

namespace sluice::tools {

ExitCode list_ublk_devices(bool json);
ExitCode show_ublk_device(std::uint32_t id, bool json);
ExitCode show_ublk_features(bool json);

}  // namespace sluice::tools
