// The audit's part for work queues.
#pragma once

#include "ipc/queues.hpp"
#include "shm/audit.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>

namespace sluice {

/// Who claims or leases which slot of a work queue, or forwards what in a stream, by the cells of all lanes.
class WorkClaims {
 public:
  explicit WorkClaims(const Segment& segment);
  WorkClaims(const Segment& segment, LaneId lane);  // of that lane alone

  struct Claim {
    bool has_moved_on = false;  // the message is in another queue
  };
  /// The claim of a position (modulo 2^40) in a queue, null if nobody has one.
  const Claim* find(std::uint32_t queue, std::uint64_t position, LaneId lane) const noexcept;
  /// Whether the lane has forwarded what lies there: another queue holds it then.
  bool has_moved_on(std::uint32_t queue, std::uint64_t position, LaneId lane) const noexcept {
    const auto* claim = find(queue, position & cell_aux::Position::max, lane);
    return claim != nullptr && claim->has_moved_on;
  }

 private:
  void gather(const Segment& segment, LaneId lane);

  std::map<std::tuple<std::uint32_t, std::uint64_t, LaneId>, Claim> claims_;  // queue, position, lane
};

/// Walk a work queue's slots; tell `violation` of every contradiction, and `reference` of every block that it holds.
/// Returns how many messages there are.
std::uint64_t audit_work_queue(const Segment& segment, std::uint32_t index, const StreamRing& ring,
                               const WorkClaims& claims, const std::function<void(std::string)>& violation,
                               const std::function<void(Handle)>& reference);

}  // namespace sluice
