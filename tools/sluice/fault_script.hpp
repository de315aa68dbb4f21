// The script of `sluice ublk add --faults`: one rule in a line, `#` begins a comment.
//
//   OPERATIONS ACTION [every N] [after N]
//
//   OPERATIONS   any, or of read write flush discard write-zeroes, with commas between
//   ACTION       error EIO | delay 50ms | stall
//   every N      one in N, else all; after N: not the first N of them
#pragma once

#include "ublk/fault_target.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// errors  bad_argument  "NAME:3: …"; what was found and expected
Expected<std::vector<FaultRule>> parse_fault_script(std::string_view text, std::string_view name);

/// errors  not_found, permission, io_error  "open NAME: …"
Expected<std::vector<FaultRule>> read_fault_script(const std::string& path);

}  // namespace sluice::tools
