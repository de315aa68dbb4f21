#include "ipc/stream.hpp"

#include <algorithm>
#include <utility>

namespace sluice {

namespace {

// Wake the lane that has the role at the other end, and others that wait for that end.
void ring_end(const RingEnd& end, const std::uint64_t& role, const std::uint64_t& marks) noexcept {
  ring_role(end.segment(), role);
  wake_all(end.segment(), marks);
}

}  // namespace

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
  if (end_.capacity() - (tail_ - cached_head_) < wanted) {
    cached_head_ = load(end_.row->head, acquire);  // S2 <- S3 (pop): slots were read
    if (const auto depth = tail_ - cached_head_; depth > load(end_.row->high_water, relaxed))
      store(end_.row->high_water, depth, relaxed);
  }
  return end_.capacity() - (tail_ - cached_head_);
}

Status StreamProducer::refuse() noexcept {
  if (load(end_.row->policy, relaxed) != static_cast<std::uint32_t>(QueuePolicy::block))
    count_up(end_.row->refused);
  return Status::full;
}

Status StreamProducer::push(const Message& message, Reference reference) noexcept {
  if (const auto status = end_.lane->heap().may_move(reference); status != Status::ok) return status;
  if (room() == 0) return refuse();
  end_.push(tail_, message, reference);
  ring_end(end_, end_.row->consumer, end_.row->consumers_waiting);
  return Status::ok;
}

Status StreamProducer::push(const Message& message) noexcept {
  if (room() == 0) return refuse();
  end_.push(tail_, message);
  ring_end(end_, end_.row->consumer, end_.row->consumers_waiting);
  return Status::ok;
}

StreamPushed StreamProducer::push_many(std::span<const Message> messages,
                                       std::span<const Reference> references) noexcept {
  if (!references.empty() && references.size() != messages.size()) return {0, Status::bad_argument};
  StreamPushed pushed;
  std::uint64_t bytes = 0;
  const auto places = room(messages.size());
  for (; pushed.count < messages.size(); ++pushed.count) {
    const auto& message = messages[pushed.count];
    const auto reference = references.empty() ? Reference{} : references[pushed.count];
    if (reference) pushed.status = end_.lane->heap().may_move(reference);
    if (pushed.status == Status::ok && pushed.count == places) pushed.status = refuse();
    if (pushed.status != Status::ok) break;
    if (reference)
      end_.put(tail_, message, reference);
    else
      end_.put(tail_, message);
    bytes += message.length;
  }
  if (pushed.count == 0) return pushed;
  end_.told(tail_, pushed.count, bytes);
  ring_end(end_, end_.row->consumer, end_.row->consumers_waiting);
  return pushed;
}

std::expected<std::uint64_t, Status> StreamProducer::make_place(Handle, std::uint32_t) noexcept {
  if (room() == 0) return std::unexpected(refuse());
  return tail_;
}

void StreamProducer::arrive(std::uint64_t, const Message& message, Handle handle,
                            std::uint32_t cell) noexcept {
  end_.arrive(tail_, message, handle, cell);
}

void StreamProducer::arrived(std::uint64_t, std::uint64_t bytes) noexcept {
  end_.told(tail_, 1, bytes);
  ring_end(end_, end_.row->consumer, end_.row->consumers_waiting);
}

void StreamProducer::close() noexcept {
  store(end_.row->closed, 1, sluice::release);  // C1 -> C2 (ended): tail precedes it
  ring_end(end_, end_.row->consumer, end_.row->consumers_waiting);
}

// By the row, where this lane has stored it: who looks may be another thread.
WaitSource StreamProducer::room_source() noexcept {
  return {this,
          [](const void* of) noexcept {
            const auto& end = static_cast<const StreamProducer*>(of)->end_;
            return load(end.row->tail, relaxed) - load(end.row->head, acquire) < end.capacity();
          },
          &end_.row->producers_waiting, &end_.row->push_waits};
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

const Message* StreamConsumer::peek(std::uint64_t ahead) noexcept {
  if (ahead > end_.mask || !is_there(ahead)) return nullptr;
  if (delivered_ <= head_ + ahead) {
    delivered_ = head_ + ahead + 1;
    store(end_.row->delivered, delivered_, sluice::release);
    crash_point("stream.peek.marked");  // recovery: the replacement is told that it was shown before
  }
  return &end_.at(head_ + ahead);
}

// What was taken is counted, and a producer that sleeps for room learns of it.
void StreamConsumer::told(std::uint64_t messages, std::uint64_t bytes, std::uint64_t again) noexcept {
  count_up(end_.row->bytes_out, bytes);
  auto& counters = end_.lane->counters();
  count_up(counters.messages_in, messages);
  count_up(counters.bytes_in, bytes);
  if (again != 0) {
    count_up(counters.redelivered, again);
    count_up(end_.row->redelivered, again);
  }
  ring_end(end_, end_.row->producer, end_.row->producers_waiting);
}

std::expected<Reference, Status> StreamConsumer::pop() noexcept {
  if (empty()) return std::unexpected(Status::empty);
  const std::uint64_t length = end_.at(head_).length;
  const std::uint64_t again = redelivered() ? 1 : 0;
  const auto reference = end_.pop(head_);
  if (reference) told(1, length, again);
  return reference;
}

std::size_t StreamConsumer::pop_many(std::span<Reference> into) noexcept {
  const auto wanted = std::min({into.size(), stream_batch_max, static_cast<std::size_t>(end_.capacity())});
  std::uint64_t bytes = 0, again = 0;
  std::size_t count = 0;
  for (; count < wanted && is_there(count); ++count) {
    const auto reference = end_.announce(head_ + count);
    if (!reference) break;
    into[count] = *reference;
    bytes += end_.at(head_ + count).length;
    if (redelivered(count)) ++again;
  }
  if (count == 0) return 0;
  end_.advance(head_, into.first(count));
  told(count, bytes, again);
  return count;
}

// Give back the block of a message that was taken.
Status StreamConsumer::release(Reference reference) noexcept {
  if (!reference) return Status::ok;
  auto& heap = end_.lane->heap();
  const auto status = heap.release(reference);
  if (status == Status::stale) {  // it named no live block
    store(heap.cell(reference.cell).handle, 0, sluice::release);
    heap.unreserve_cell(reference.cell);
  }
  return status;
}

Status StreamConsumer::acknowledge() noexcept {
  const auto reference = pop();
  return reference ? release(*reference) : reference.error();
}

std::size_t StreamConsumer::acknowledge_many(std::size_t count) noexcept {
  std::size_t done = 0;
  while (done < count) {
    Reference taken[stream_batch_max];
    const auto popped = pop_many(std::span(taken).first(std::min(count - done, stream_batch_max)));
    if (popped == 0) break;
    for (const auto& reference : std::span(taken).first(popped)) (void)release(reference);
    done += popped;
  }
  return done;
}

bool StreamConsumer::ended() const noexcept {
  const bool closed = load(end_.row->closed, acquire) != 0;  // C2 <- C1 (close)
  return closed && empty();
}

// By the row, where this lane has stored it: who looks may be another thread.
WaitSource StreamConsumer::messages() const noexcept {
  return {this,
          [](const void* of) noexcept {
            const auto& end = static_cast<const StreamConsumer*>(of)->end_;
            const auto head = load(end.row->head, relaxed);
            return load(end.at(head).stamp, acquire) == head + 1 ||  // S4 <- S1 (push)
                   load(end.row->closed, acquire) != 0;
          },
          &end_.row->consumers_waiting, &end_.row->take_waits};
}

}  // namespace sluice
