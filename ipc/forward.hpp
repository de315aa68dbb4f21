// A message that goes on from one queue to another, with its block, in one step: whenever the lane dies, it is in one
// of both. From a stream or a work queue A into a stream, a work queue or a broadcast B.
//
//   forward  place in B ; aux = FORWARD(A, p) ; other cell: aux = PUSH(B, q) or PUBLISH(B, q) ; B's slot ; its stamp ;
//            aux = FORWARDED(A, p) ; A's head = p + 1, or A's slot EMPTY ; other cell: aux = 0 ; aux = 0
//
// Invariants (docs/recovery.md#forward)
//   1. The block lies in A's slot until B's is stamped, and in B's from then on. Neither cell holds it.
//   2. A lane does one thing at a time: a cell that says FORWARD is decided by the lane's only cell that says PUSH or
//      PUBLISH. What it is decided from is the lane's to change alone: its role or claim in B, its role or lease in A.
// Thread safety: the lane that has both ends.
#pragma once

#include "ipc/queues.hpp"

#include <cstdint>

namespace sluice {

class Publisher;
class StreamProducer;
class WorkQueue;

/// Where a message is that goes on.
struct Departure {
  QueueId queue;
  std::uint64_t position = 0;
  std::uint32_t cell = 0;  // the lane's, which tells of it
  Handle handle;
};

/// What the ends of queues share to forward; their members forward() are how it is done.
///
/// A target has make_place(), which refuses or finds a position, arrive(), which announces and publishes there, and
/// arrived(), which tells of it.
class Forward {
 public:
  static bool can_go(const Lane& lane, const QueueRow& from, const StreamProducer& to) noexcept;
  static bool can_go(const Lane& lane, const QueueRow& from, const WorkQueue& to) noexcept;
  static bool can_go(const Lane& lane, const QueueRow& from, const Publisher& to) noexcept;

  /// Both cells are the lane's afterwards as before. `leave` makes the message leave where it was.
  /// errors  as the target's push; nothing was changed then
  template <class To, class Leave>
  static Status go(Lane& lane, const Departure& from, To& to, const Message& message, Leave&& leave) noexcept;
};

/// Of a lane's forward that was published, say so in its cell: before recovery step 2. Repeatable.
void settle_forwards(const LaneView& lane) noexcept;
/// Bring a cell that says FORWARD or FORWARDED to rest, as its dead lane: recovery step 2. The caller stores at_rest
/// then. Repeatable.
void settle_forward(const LaneView& lane, Cell& cell) noexcept;

/// Whether the lane was stopped behind the publication of a message: what it was forwarding then is in the other
/// queue, although its own says that it is there.
bool has_published(const LaneView& lane) noexcept;

}  // namespace sluice
