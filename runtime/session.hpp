// A session: this process's participation in one segment, from join to leave.
//
// After fork() without exec the child has no mapping (MADV_DONTFORK) and its copies of these objects do
// nothing: it opens the segment itself.
// Thread safety: claim_lane and recover_dead from any thread; join and leave from one.
#pragma once

#include "ipc/lane.hpp"
#include "runtime/recovery.hpp"

#include <memory>
#include <string>
#include <string_view>

namespace sluice {

class Session {
 public:
  /// Open the segment at `path` and join it. Dead predecessors are recovered first, so that whatever they
  /// held is free again.
  static Expected<Session> open(const std::string& path, std::string_view role);
  /// Join a segment that is already mapped for writing.
  static Expected<Session> join(Segment segment, std::string_view role);
  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;
  ~Session() { leave(); }

  /// Leave in order. All lanes of this session must have been destroyed: they use its mapping. One that a thread
  /// has lost keeps the process's row, and is recovered when the process ends.
  void leave() noexcept;

  const Segment& segment() const noexcept { return *segment_; }
  const Membership& membership() const noexcept { return membership_; }
  Expected<std::unique_ptr<Lane>> claim_lane(const LaneOptions& options = {}) {
    return Lane::claim(*segment_, membership_, options);
  }
  /// Recover every process of the table that is dead. Disagreements are reported, not acted on.
  RecoveryReport recover_dead() { return sluice::recover_dead(*segment_, membership_); }

 private:
  Session() = default;
  std::unique_ptr<Segment> segment_;  // its address stays when the session moves
  Membership membership_;
};

}  // namespace sluice
