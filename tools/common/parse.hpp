// Numbers as people type them. Errors are `bad_argument` with a sentence.
#pragma once

#include "shm/status.hpp"

#include <chrono>
#include <cstdint>
#include <string_view>

namespace sluice::tools {

/// A whole number of bytes: digits, then nothing, B, K M G T P (or KiB MiB …, powers of 1024) or
/// KB MB … (powers of 1000), as GNU coreutils read them. Letters of either case.
Expected<std::uint64_t> parse_size(std::string_view text);

/// A whole number and ns, us, ms, s, min (or m) or h. Only 0 goes without a unit.
Expected<std::chrono::nanoseconds> parse_duration(std::string_view text);

/// An octal file mode, at most 0777.
Expected<std::uint32_t> parse_mode(std::string_view text);

}  // namespace sluice::tools
