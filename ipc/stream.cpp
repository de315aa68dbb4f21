#include "ipc/stream.hpp"

#include <utility>

namespace sluice {

std::expected<StreamProducer, Status> StreamProducer::claim(Lane& lane, QueueId queue) noexcept {
  const auto end = RingEnd::open(lane, queue, QueueKind::stream);
  if (!end) return std::unexpected(end.error());
  auto& row = *end->row;
  if (!take_role(row.producer, lane)) return std::unexpected(Status::busy);
  StreamProducer producer;
  producer.end_ = *end;
  producer.tail_ = pushed_messages(lane.segment(), row);
  store(row.tail, producer.tail_, release);
  producer.cached_head_ = load(row.head, acquire);
  store(row.closed, 0, release);
  return producer;
}

StreamProducer& StreamProducer::operator=(StreamProducer&& other) noexcept {
  if (this == &other) return *this;
  release_role();
  end_ = std::exchange(other.end_, {});
  tail_ = other.tail_;
  cached_head_ = other.cached_head_;
  return *this;
}

void StreamProducer::release_role() noexcept {
  if (end_.row != nullptr && end_.lane->is_ours()) give_role(end_.row->producer, *end_.lane);
  end_ = {};
}

std::uint64_t StreamProducer::room(std::uint64_t wanted) noexcept {
  if (end_.capacity() - (tail_ - cached_head_) < wanted)
    cached_head_ = load(end_.row->head, acquire);  // S2 <- S3 (pop): slots were read
  return end_.capacity() - (tail_ - cached_head_);
}

Status StreamProducer::push(const Message& message, Reference reference) noexcept {
  if (const auto status = end_.lane->heap().may_move(reference); status != Status::ok) return status;
  if (room() == 0) return Status::full;
  end_.push(tail_, message, reference);
  ring_role(end_.segment(), end_.row->consumer);
  return Status::ok;
}

Status StreamProducer::push(const Message& message) noexcept {
  if (room() == 0) return Status::full;
  end_.push(tail_, message);
  ring_role(end_.segment(), end_.row->consumer);
  return Status::ok;
}

void StreamProducer::close() noexcept {
  store(end_.row->closed, 1, sluice::release);  // C1 -> C2 (ended): tail precedes it
  ring_role(end_.segment(), end_.row->consumer);
}

std::expected<StreamConsumer, Status> StreamConsumer::claim(Lane& lane, QueueId queue) noexcept {
  const auto end = RingEnd::open(lane, queue, QueueKind::stream);
  if (!end) return std::unexpected(end.error());
  auto& row = *end->row;
  if (!take_role(row.consumer, lane)) return std::unexpected(Status::busy);
  StreamConsumer consumer;
  consumer.end_ = *end;
  consumer.head_ = load(row.head, acquire);
  consumer.delivered_ = consumer.redeliver_below_ = load(row.delivered, acquire);
  return consumer;
}

StreamConsumer& StreamConsumer::operator=(StreamConsumer&& other) noexcept {
  if (this == &other) return *this;
  release_role();
  end_ = std::exchange(other.end_, {});
  head_ = other.head_;
  delivered_ = other.delivered_;
  redeliver_below_ = other.redeliver_below_;
  return *this;
}

void StreamConsumer::release_role() noexcept {
  if (end_.row != nullptr && end_.lane->is_ours()) give_role(end_.row->consumer, *end_.lane);
  end_ = {};
}

const Message* StreamConsumer::peek() noexcept {
  if (empty()) return nullptr;  // S4 <- S1 (push), in empty()
  if (delivered_ <= head_) {
    delivered_ = head_ + 1;
    store(end_.row->delivered, delivered_, sluice::release);
    crash_point("stream.peek.marked");  // recovery: the replacement is told that it was shown before
  }
  return &end_.at(head_);
}

std::expected<Reference, Status> StreamConsumer::pop() noexcept {
  if (empty()) return std::unexpected(Status::empty);
  const auto length = end_.at(head_).length;
  const bool again = redelivered();
  const auto reference = end_.pop(head_);
  if (!reference) return reference;
  auto& counters = end_.lane->counters();
  count_up(counters.messages_in);
  count_up(counters.bytes_in, length);
  if (again) {
    count_up(counters.redelivered);
    count_up(end_.row->redelivered);
  }
  ring_role(end_.segment(), end_.row->producer);
  return reference;
}

Status StreamConsumer::acknowledge() noexcept {
  const auto reference = pop();
  if (!reference) return reference.error();
  return *reference ? end_.lane->heap().release(*reference) : Status::ok;
}

bool StreamConsumer::ended() const noexcept {
  const bool closed = load(end_.row->closed, acquire) != 0;  // C2 <- C1 (close)
  return closed && empty();
}

}  // namespace sluice
