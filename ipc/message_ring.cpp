#include "ipc/message_ring.hpp"

namespace sluice {

bool take_role(std::uint64_t& role, const Lane& lane) noexcept {
  std::uint64_t nobody = 0;
  const bool taken = cas(role, nobody, lane_claim::make(lane.id(), lane.incarnation()), acq_rel);
  if (taken) crash_point("stream.role.claimed");  // recovery: the role is given up
  return taken;
}

void give_role(std::uint64_t& role, const Lane& lane) noexcept {
  auto self = lane_claim::make(lane.id(), lane.incarnation());
  cas(role, self, 0, acq_rel);
  crash_point("stream.role.released");
}

Message copy_message(const Message& slot) noexcept {
  Message copy;
  copy.handle = load(slot.handle, relaxed);
  copy.offset = load(slot.offset, relaxed);
  copy.length = load(slot.length, relaxed);
  copy.flow = load(slot.flow, relaxed);
  copy.position = load(slot.position, relaxed);
  copy.receive_ns = load(slot.receive_ns, relaxed);
  copy.kind = load(slot.kind, relaxed);
  copy.flags = load(slot.flags, relaxed);
  copy.detail = load(slot.detail, relaxed);
  copy.reserved = load(slot.reserved, relaxed);
  copy.stamp = load(slot.stamp, relaxed);
  return copy;
}

std::expected<RingEnd, Status> RingEnd::open(Lane& lane, QueueId queue, QueueKind kind) noexcept {
  const auto& segment = lane.segment();
  if (queue.index >= segment.header().queue_count) return std::unexpected(Status::bad_argument);
  auto& row = queue_row(segment, queue.index);
  const auto word = load(row.word, acquire);  // Q2 <- Q1 (create)
  if (queue_word::state(word) != QueueState::ready || queue_word::Era::get(word) != queue.era)
    return std::unexpected(Status::stale);
  const auto found = load(row.kind, relaxed);
  const bool is_known = found != 0 && found <= static_cast<std::uint32_t>(QueueKind::extents);
  if (is_known && found != static_cast<std::uint32_t>(kind)) return std::unexpected(Status::bad_argument);
  const auto ring = sound_ring(segment, row, kind);
  if (!is_known || !ring) return std::unexpected(Status::corrupt);
  return RingEnd{&lane, &row, ring->slots, queue, ring->capacity - 1};
}

}  // namespace sluice
