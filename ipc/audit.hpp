// The whole audit: the heap's invariants and those of processes, lanes and queues.
#pragma once

#include "shm/audit.hpp"

#include <chrono>

namespace sluice {

/// One walk over everything. Exact with all lanes parked or dead.
AuditReport audit(const Segment& segment);

/// Walk until nothing is found or a finding stays: for live segments. A finding counts when `walks` walks in
/// a row, `pause` apart, report it for the same thing in the same generation.
AuditReport audit_settled(const Segment& segment, unsigned walks = 5,
                          std::chrono::milliseconds pause = std::chrono::milliseconds(20));

}  // namespace sluice
