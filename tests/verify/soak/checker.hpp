// What must be true of the segment when nothing moves. Each runs in a process of its own, which joins like any other.
#pragma once

#include "tests/support/model.hpp"
#include "tests/verify/soak/actor.hpp"

#include <cstdint>

namespace sluice::verify {

using test::Complaints;

/// Everybody is gone, or dead and perhaps not recovered. Recover all, compare with the witness, see that every queue
/// can be used. `is_thorough`: take all messages, then see that all memory can be allocated.
Complaints check_deserted(const Stage& stage, bool is_thorough);

/// Everybody who lives holds still between two operations, with what it holds. `slots`: how many there are.
Complaints check_holding(const Stage& stage, std::uint32_t slots);

}  // namespace sluice::verify
