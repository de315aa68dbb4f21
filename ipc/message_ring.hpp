// One end of a ring of messages, and the protocol by which references move into the ring and out of it. Streams and
// broadcasts are made of it; who may move what, and when there is room, is in their files.
//
//   push   aux = PUSH(q, pos) ; slot ; slot.stamp = pos + 1 ; handle = 0 ; aux = 0 ; tail = pos + 1
//   pop    aux = POP(q, pos) ; handle ; head = pos + 1 ; aux = 0
//
// The truth of a push is the slot's stamp, that of a pop is head (docs/recovery.md#push, #pop). Many at once are as many
// pushes with one store of tail, and as many pops, each with a cell of its own, that one store of head makes happen
// together. A death leaves some first ones of a batch pushed, and all of a batch popped or none.
// Thread safety: the thread of the lane that has the role.
#pragma once

#include "ipc/doorbell.hpp"
#include "ipc/queues.hpp"
#include "shm/crash_point.hpp"

#include <cstdint>
#include <expected>
#include <span>

namespace sluice {

/// Take a role of a queue for a lane, or give it back.  false: somebody has it
bool take_role(std::uint64_t& role, const Lane& lane) noexcept;
void give_role(std::uint64_t& role, const Lane& lane) noexcept;

/// Wake the lane that has the role. Its word changes only when an end changes hands; then the new holder looks at
/// the queue after its own barrier (see doorbell.hpp).
inline void ring_role(const Segment& segment, const std::uint64_t& role) noexcept {
  std::atomic_signal_fence(seq_cst);
  const auto peer = lane_claim::Lane::get(load(role, relaxed));
  if (peer != 0 && peer < segment.header().lane_count) ring(segment.lane_row(peer).doorbell);
}

/// A message as it lies in a slot that may be written at the same time: whole if it proves to be there afterwards.
Message copy_message(const Message& slot) noexcept;

struct RingEnd {
  Lane* lane = nullptr;
  QueueRow* row = nullptr;
  Message* slots = nullptr;
  QueueId id;
  std::uint64_t mask = 0;

  /// errors  bad_argument  another kind of queue; stale  it is gone; corrupt
  static std::expected<RingEnd, Status> open(Lane& lane, QueueId queue, QueueKind kind) noexcept;

  Message& at(std::uint64_t position) const noexcept { return slots[position & mask]; }
  std::uint64_t capacity() const noexcept { return mask + 1; }
  const Segment& segment() const noexcept { return lane->segment(); }

  /// Push into the slot of position `tail`, which is free, and count tail up.
  void push(std::uint64_t& tail, const Message& message, Reference reference) const noexcept {
    put(tail, message, reference);
    told(tail, 1, message.length);
  }
  void push(std::uint64_t& tail, const Message& message) const noexcept {
    put(tail, message);
    told(tail, 1, message.length);
  }
  /// The same in two parts: so many are put, then they are told of together.
  void put(std::uint64_t& tail, const Message& message, Reference reference) const noexcept;
  void put(std::uint64_t& tail, const Message& message) const noexcept { publish(tail, message, {}); }
  void told(std::uint64_t tail, std::uint64_t messages, std::uint64_t bytes) const noexcept;

  /// Push into the slot of position `tail` a message whose block lies in another queue's: the half of a forward that
  /// moves it (forward.hpp). `cell` tells of it, and holds nothing.
  void arrive(std::uint64_t& tail, const Message& message, Handle handle, std::uint32_t cell) const noexcept;

  /// Move the reference of the message at `head` into a cell of the lane, null if it has no block; count head up.
  /// errors  no_cell
  std::expected<Reference, Status> pop(std::uint64_t& head) const noexcept;
  /// The same in two parts: so many are announced, each from its position, then head passes them all.
  std::expected<Reference, Status> announce(std::uint64_t position) const noexcept;
  void advance(std::uint64_t& head, std::span<const Reference> references) const noexcept;

 private:
  void publish(std::uint64_t& tail, const Message& message, Handle handle) const noexcept;
};

inline void RingEnd::publish(std::uint64_t& tail, const Message& message, Handle handle) const noexcept {
  auto& slot = at(tail);
  fill_slot(slot, message, handle);
  crash_point("stream.push.filled");
  store(slot.stamp, ++tail, release);    // S1 -> S4 (peek): the message precedes its stamp
  crash_point("stream.push.published");  // recovery: stamped, the cell is void
}

inline void RingEnd::put(std::uint64_t& tail, const Message& message, Reference reference) const noexcept {
  auto& heap = lane->heap();
  auto& cell = heap.cell(reference.cell);
  store(cell.aux, cell_aux::make(cell_aux::push, id.index, id.era, tail), release);
  crash_point("stream.push.announced");  // recovery: not stamped, the cell still holds it
  publish(tail, message, reference.handle);
  store(cell.handle, 0, release);
  crash_point("stream.push.emptied");
  store(cell.aux, cell_aux::at_rest, release);
  crash_point("stream.push.cleared");
  heap.unreserve_cell(reference.cell);
}

inline void RingEnd::arrive(std::uint64_t& tail, const Message& message, Handle handle,
                            std::uint32_t cell) const noexcept {
  store(lane->heap().cell(cell).aux, cell_aux::make(cell_aux::push, id.index, id.era, tail), release);
  crash_point("queue.forward.announced");  // recovery: not stamped, it stays where it is
  publish(tail, message, handle);
}

inline void RingEnd::told(std::uint64_t tail, std::uint64_t messages, std::uint64_t bytes) const noexcept {
  store(row->tail, tail, release);
  count_up(row->bytes_in, bytes);
  auto& counters = lane->counters();
  count_up(counters.messages_out, messages);
  count_up(counters.bytes_out, bytes);
}

inline std::expected<Reference, Status> RingEnd::announce(std::uint64_t position) const noexcept {
  const Handle handle{at(position).handle};
  if (!handle) return Reference{};
  auto& heap = lane->heap();
  const auto reserved = heap.reserve_cell();
  if (!reserved) return std::unexpected(reserved.error());
  auto& cell = heap.cell(*reserved);
  store(cell.aux, cell_aux::make(cell_aux::pop, id.index, id.era, position), release);
  crash_point("stream.pop.announced");
  store(cell.handle, handle.value, release);
  crash_point("stream.pop.filled");  // recovery: head <= position, the cell is void, the queue still holds it
  return Reference{handle, *reserved};
}

inline void RingEnd::advance(std::uint64_t& head, std::span<const Reference> references) const noexcept {
  head += references.size();
  store(row->head, head, release);     // S3 -> S2 (room): the slots were read
  crash_point("stream.pop.advanced");  // recovery: head > position, the cell holds it
  for (const auto& reference : references) {
    if (!reference) continue;
    store(lane->heap().cell(reference.cell).aux, cell_aux::at_rest, release);
    crash_point("stream.pop.cleared");
  }
}

inline std::expected<Reference, Status> RingEnd::pop(std::uint64_t& head) const noexcept {
  const auto reference = announce(head);
  if (reference) advance(head, std::span(&*reference, 1));
  return reference;
}

}  // namespace sluice
