#include "ipc/stream.hpp"

#include <utility>

namespace sluice {

namespace {

std::expected<QueueRow*, Status> ready_stream(const Segment& segment, QueueId queue) noexcept {
  if (queue.index >= segment.header().queue_count) return std::unexpected(Status::bad_argument);
  auto& row = queue_row(segment, queue.index);
  const auto word = load(row.word, acquire);  // Q2 <- Q1 (create)
  if (queue_word::state(word) != QueueState::ready || queue_word::Era::get(word) != queue.era)
    return std::unexpected(Status::stale);
  if (load(row.kind, relaxed) == static_cast<std::uint32_t>(QueueKind::extents))
    return std::unexpected(Status::bad_argument);
  if (!stream_is_sound(segment, row)) return std::unexpected(Status::corrupt);
  return &row;
}

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

// Wake the lane that has the role at the other end. Its word changes only when an end changes hands; then the
// new holder looks at the stream after its own barrier (see doorbell.hpp).
void ring_role(const Lane& lane, const std::uint64_t& role) noexcept {
  std::atomic_signal_fence(seq_cst);
  const auto peer = lane_claim::Lane::get(load(role, relaxed));
  if (peer != 0 && peer < lane.segment().header().lane_count) ring(lane.segment().lane_row(peer).doorbell);
}

}  // namespace

std::expected<StreamProducer, Status> StreamProducer::claim(Lane& lane, QueueId queue) noexcept {
  const auto row = ready_stream(lane.segment(), queue);
  if (!row) return std::unexpected(row.error());
  if (!take_role((*row)->producer, lane)) return std::unexpected(Status::busy);
  StreamProducer producer;
  producer.lane_ = &lane;
  producer.row_ = *row;
  producer.ring_ = &message_slot(lane.segment(), **row, 0);
  producer.id_ = queue;
  producer.mask_ = (*row)->capacity - 1;
  producer.tail_ = pushed_messages(lane.segment(), **row);
  store((*row)->tail, producer.tail_, release);
  producer.cached_head_ = load((*row)->head, acquire);
  store((*row)->closed, 0, release);
  return producer;
}

StreamProducer& StreamProducer::operator=(StreamProducer&& other) noexcept {
  if (this == &other) return *this;
  release_role();
  lane_ = std::exchange(other.lane_, nullptr);
  row_ = std::exchange(other.row_, nullptr);
  ring_ = other.ring_;
  id_ = other.id_;
  mask_ = other.mask_;
  tail_ = other.tail_;
  cached_head_ = other.cached_head_;
  return *this;
}

void StreamProducer::release_role() noexcept {
  if (row_ != nullptr && lane_->is_ours()) give_role(row_->producer, *lane_);
  row_ = nullptr;
}

std::uint64_t StreamProducer::room(std::uint64_t wanted) noexcept {
  if (mask_ + 1 - (tail_ - cached_head_) < wanted)
    cached_head_ = load(row_->head, acquire);  // S2 <- S3 (pop): slots were read
  return mask_ + 1 - (tail_ - cached_head_);
}

void StreamProducer::publish(const Message& message, Handle handle) noexcept {
  auto& slot = ring_[tail_ & mask_];
  fill_slot(slot, message, handle);
  crash_point("stream.push.filled");
  store(slot.stamp, tail_ + 1, release);  // S1 -> S4 (peek): the message precedes its stamp
  crash_point("stream.push.published");   // recovery: stamped, the cell is void
  store(row_->tail, ++tail_, release);
  count_up(row_->bytes_in, message.length);
  auto& counters = lane_->counters();
  count_up(counters.messages_out);
  count_up(counters.bytes_out, message.length);
}

Status StreamProducer::push(const Message& message, Reference reference) noexcept {
  auto& heap = lane_->heap();
  if (const auto status = heap.may_move(reference); status != Status::ok) return status;
  if (room() == 0) return Status::full;
  auto& cell = heap.cell(reference.cell);
  store(cell.aux, cell_aux::make(cell_aux::push, id_.index, id_.era, tail_), sluice::release);
  crash_point("stream.push.announced");  // recovery: not stamped, the cell still holds it
  publish(message, reference.handle);
  store(cell.handle, 0, sluice::release);
  crash_point("stream.push.emptied");
  store(cell.aux, cell_aux::at_rest, sluice::release);
  crash_point("stream.push.cleared");
  heap.unreserve_cell(reference.cell);
  ring_role(*lane_, row_->consumer);
  return Status::ok;
}

Status StreamProducer::push(const Message& message) noexcept {
  if (room() == 0) return Status::full;
  publish(message, {});
  ring_role(*lane_, row_->consumer);
  return Status::ok;
}

void StreamProducer::close() noexcept {
  store(row_->closed, 1, sluice::release);  // C1 -> C2 (ended): tail precedes it
  ring_role(*lane_, row_->consumer);
}

std::expected<StreamConsumer, Status> StreamConsumer::claim(Lane& lane, QueueId queue) noexcept {
  const auto row = ready_stream(lane.segment(), queue);
  if (!row) return std::unexpected(row.error());
  if (!take_role((*row)->consumer, lane)) return std::unexpected(Status::busy);
  StreamConsumer consumer;
  consumer.lane_ = &lane;
  consumer.row_ = *row;
  consumer.ring_ = &message_slot(lane.segment(), **row, 0);
  consumer.id_ = queue;
  consumer.mask_ = (*row)->capacity - 1;
  consumer.head_ = load((*row)->head, acquire);
  consumer.delivered_ = consumer.redeliver_below_ = load((*row)->delivered, acquire);
  return consumer;
}

StreamConsumer& StreamConsumer::operator=(StreamConsumer&& other) noexcept {
  if (this == &other) return *this;
  release_role();
  lane_ = std::exchange(other.lane_, nullptr);
  row_ = std::exchange(other.row_, nullptr);
  ring_ = other.ring_;
  id_ = other.id_;
  mask_ = other.mask_;
  head_ = other.head_;
  delivered_ = other.delivered_;
  redeliver_below_ = other.redeliver_below_;
  return *this;
}

void StreamConsumer::release_role() noexcept {
  if (row_ != nullptr && lane_->is_ours()) give_role(row_->consumer, *lane_);
  row_ = nullptr;
}

const Message* StreamConsumer::peek() noexcept {
  if (empty()) return nullptr;  // S4 <- S1 (push), in empty()
  if (delivered_ <= head_) {
    delivered_ = head_ + 1;
    store(row_->delivered, delivered_, sluice::release);
    crash_point("stream.peek.marked");  // recovery: the replacement is told that it was shown before
  }
  return &ring_[head_ & mask_];
}

std::expected<Reference, Status> StreamConsumer::pop() noexcept {
  if (empty()) return std::unexpected(Status::empty);
  const auto& message = ring_[head_ & mask_];
  const Handle handle{message.handle};
  const auto length = message.length;
  Reference reference;
  auto& heap = lane_->heap();
  const bool again = redelivered();
  if (handle) {
    const auto reserved = heap.reserve_cell();
    if (!reserved) return std::unexpected(reserved.error());
    reference = {handle, *reserved};
    auto& cell = heap.cell(*reserved);
    store(cell.aux, cell_aux::make(cell_aux::pop, id_.index, id_.era, head_), sluice::release);
    crash_point("stream.pop.announced");
    store(cell.handle, handle.value, sluice::release);
    crash_point(
        "stream.pop.filled");  // recovery: head <= position, the cell is void, the queue still holds it
    store(row_->head, ++head_, sluice::release);  // S3 -> S2 (room): the slot was read
    crash_point("stream.pop.advanced");           // recovery: head > position, the cell holds it
    store(cell.aux, cell_aux::at_rest, sluice::release);
    crash_point("stream.pop.cleared");
  } else {
    store(row_->head, ++head_, sluice::release);  // S3 -> S2
  }
  auto& counters = lane_->counters();
  count_up(counters.messages_in);
  count_up(counters.bytes_in, length);
  if (again) {
    count_up(counters.redelivered);
    count_up(row_->redelivered);
  }
  ring_role(*lane_, row_->producer);
  return reference;
}

Status StreamConsumer::acknowledge() noexcept {
  const auto reference = pop();
  if (!reference) return reference.error();
  return *reference ? lane_->heap().release(*reference) : Status::ok;
}

bool StreamConsumer::ended() const noexcept {
  const bool closed = load(row_->closed, acquire) != 0;  // C2 <- C1 (close)
  return closed && empty();
}

}  // namespace sluice
