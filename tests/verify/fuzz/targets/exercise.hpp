// What a member does all day, on a segment whose bytes may be anything.
#pragma once

#include "runtime/session.hpp"
#include "tests/verify/fuzz/targets/input.hpp"

namespace sluice::fuzz {

/// Claim lanes, allocate, release, push, pop, as the input says; then give everything back and leave.
void exercise(Session& session, Input& input);

/// Everything that reads without joining: the audit, and look-ups of handles that the input makes up.
void look_at(const Segment& segment, Input& input);

}  // namespace sluice::fuzz
