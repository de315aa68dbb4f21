// Numbers and blocks as people type them. Errors are `bad_argument` with a sentence.
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

/// A block as somebody names it: by handle, or by its place and perhaps its generation.
struct BlockName {
  std::uint64_t handle = 0;  // 0: by place
  std::uint64_t unit = 0;
  std::uint64_t slot = 0;
  std::uint64_t generation = 0;  // 0: whatever is there now
};

/// "0x0000010000000c05" as the commands print handles (0x and up to 16 hexadecimal digits), or UNIT:SLOT, or
/// UNIT:SLOT:GENERATION, in decimal.
Expected<BlockName> parse_block_name(std::string_view text);

}  // namespace sluice::tools
