#include "ipc/forward.hpp"

#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"
#include "shm/crash_point.hpp"

namespace sluice {

// ---- The living ------------------------------------------------------------------------------------------

bool Forward::can_go(const Lane& lane, const QueueRow& from, const StreamProducer& to) noexcept {
  return to.end_.row != &from && to.end_.lane == &lane;
}
bool Forward::can_go(const Lane& lane, const QueueRow& from, const WorkQueue& to) noexcept {
  return to.row_ != &from && to.lane_ == &lane;
}
bool Forward::can_go(const Lane& lane, const QueueRow& from, const Publisher& to) noexcept {
  return to.end_.row != &from && to.end_.lane == &lane;
}

template <class To, class Leave>
Status Forward::go(Lane& lane, const Departure& from, To& to, const Message& message,
                   Leave&& leave) noexcept {
  auto& heap = lane.heap();
  const auto reserved = heap.reserve_cell();
  if (!reserved) return reserved.error();
  const auto position = to.make_place(from.handle, *reserved);
  if (!position) {
    heap.unreserve_cell(*reserved);
    return position.error();
  }
  const auto said = [&](std::uint64_t kind) {
    return cell_aux::make(kind, from.queue.index, from.queue.era, from.position);
  };
  auto& leaving = heap.cell(from.cell);
  auto& arriving = heap.cell(*reserved);
  const auto bytes = load(message.length, relaxed);
  store(leaving.aux, said(cell_aux::forward), release);
  crash_point("queue.forward.begun");  // recovery: nothing of ours was published, it stays where it is
  to.arrive(*position, message, from.handle, *reserved);
  store(leaving.aux, said(cell_aux::forwarded), release);
  crash_point("queue.forward.moved");  // recovery: published, it leaves
  leave();
  crash_point("queue.forward.left");
  store(arriving.aux, cell_aux::at_rest, release);
  crash_point("queue.forward.cleared");
  store(leaving.aux, cell_aux::at_rest, release);
  heap.unreserve_cell(*reserved);
  to.arrived(*position, bytes);
  return Status::ok;
}

template <class To>
Status StreamConsumer::forward(To& to, const Message& message) noexcept {
  auto& lane = *end_.lane;
  if (!Forward::can_go(lane, *end_.row, to)) return Status::bad_argument;
  if (empty()) return Status::empty;
  auto& heap = lane.heap();
  const auto cell = heap.reserve_cell();
  if (!cell) return cell.error();
  const auto& slot = end_.at(head_);
  const std::uint64_t length = slot.length;
  const std::uint64_t again = redelivered() ? 1 : 0;
  const auto status = Forward::go(lane, {end_.id, head_, *cell, {slot.handle}}, to, message, [&] {
    store(end_.row->head, ++head_, sluice::release);  // S3 -> S2 (room): the slot was read
  });
  heap.unreserve_cell(*cell);
  if (status == Status::ok) told(1, length, again);
  return status;
}

template <class To>
Status WorkQueue::forward(const WorkLease& lease, To& to, const Message& message) noexcept {
  if (!Forward::can_go(*lane_, *row_, to)) return Status::bad_argument;
  auto* slot = slot_of(lease);
  if (slot == nullptr) return Status::stale;
  const auto length = load(slot->length, relaxed);
  const auto status = Forward::go(*lane_, {id_, lease.position, lease.cell, {load(slot->handle, relaxed)}},
                                  to, message, [&] { empty_slot(*slot, lease.position); });
  if (status != Status::ok) return status;
  lane_->heap().unreserve_cell(lease.cell);
  finish(length);
  return status;
}

template Status StreamConsumer::forward(StreamProducer& to, const Message& message) noexcept;
template Status StreamConsumer::forward(WorkQueue& to, const Message& message) noexcept;
template Status StreamConsumer::forward(Publisher& to, const Message& message) noexcept;
template Status WorkQueue::forward(const WorkLease& lease, StreamProducer& to,
                                   const Message& message) noexcept;
template Status WorkQueue::forward(const WorkLease& lease, WorkQueue& to, const Message& message) noexcept;
template Status WorkQueue::forward(const WorkLease& lease, Publisher& to, const Message& message) noexcept;

// ---- The dead --------------------------------------------------------------------------------------------

namespace {

// The row of a cell that is about a stream; null for another kind of queue, and for a damaged one.
QueueRow* stream_of(const Segment& segment, std::uint64_t aux) noexcept {
  const auto queue = cell_aux::Queue::get(aux);
  if (queue >= segment.header().queue_count) return nullptr;
  auto& row = queue_row(segment, queue);
  return sound_ring(segment, row, QueueKind::stream) ? &row : nullptr;
}

}  // namespace

bool has_published(const LaneView& lane) noexcept {
  for (std::uint32_t i = 0; i < lane.cell_count; ++i) {
    const auto aux = load(lane.cells[i].aux, acquire);
    const auto kind = cell_aux::Kind::get(aux);
    if (kind == cell_aux::push && !moving_cell_holds(*lane.segment, {}, aux)) return true;
    if (kind == cell_aux::publish && is_published(lane, aux)) return true;
  }
  return false;
}

void settle_forwards(const LaneView& lane) noexcept {
  std::optional<bool> published;
  for (std::uint32_t i = 0; i < lane.cell_count; ++i) {
    const auto aux = load(lane.cells[i].aux, acquire);
    if (cell_aux::Kind::get(aux) != cell_aux::forward) continue;
    if (!published) published = has_published(lane);
    if (!*published) return;
    store(lane.cells[i].aux, cell_aux::Kind::set(aux, cell_aux::forwarded), release);
    crash_point("recover.forward.moved");
  }
}

void settle_forward(const LaneView& lane, Cell& cell) noexcept {
  const auto aux = load(cell.aux, acquire);
  auto* row = stream_of(*lane.segment, aux);
  if (row == nullptr) return settle_work_cell(lane, cell);
  if (cell_aux::Kind::get(aux) != cell_aux::forwarded) return;
  // Only the dead lane has the consumer's role, until step 4: head is at the position, or already behind it.
  const auto head = load(row->head, acquire);
  if ((head & cell_aux::Position::max) == cell_aux::Position::get(aux)) store(row->head, head + 1, release);
  crash_point("recover.forward.left");
}

}  // namespace sluice
