// Which bytes of a segment matter to the order of events.
#pragma once

#include "shm/segment.hpp"

#include <cstdint>
#include <string>

namespace sluice::verify {

/// own: of the segment, but constant, one lane's alone, or published by a word that is shared.
enum class Touch : std::uint8_t { none, own, shared };

Touch touch_of(const Segment& segment, std::uint64_t offset);

/// "region[element]+byte"
std::string describe_offset(const Segment& segment, std::uint64_t offset);

}  // namespace sluice::verify
