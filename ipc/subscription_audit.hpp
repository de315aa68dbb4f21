// What must hold of a broadcast's subscribers, one row after the other.
#pragma once

#include "ipc/queues.hpp"

#include <functional>
#include <string>

namespace sluice {

/// Tell of each row of a sound ring that breaks a rule. Exact when nobody moves.
void audit_subscribers(const Segment& segment, std::uint32_t index, const StreamRing& ring,
                       const std::function<void(std::string)>& violation);

}  // namespace sluice
