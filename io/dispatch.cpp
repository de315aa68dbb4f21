#include "io/dispatch.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

Expected<std::unique_ptr<Dispatch>> Dispatch::open(Lane& lane, ConnectionPool& pool,
                                                   const std::vector<std::string>& names,
                                                   std::uint32_t blocks, std::uint32_t pending_high) {
  std::unique_ptr<Dispatch> dispatch(new Dispatch(lane.segment(), pool, pending_high));
  dispatch->streams_.resize(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    Stream& stream = dispatch->streams_[i];
    stream.name = names[i];
    const auto id = find_queue(lane.segment(), names[i]);
    if (!id) return std::unexpected(id.error());
    auto producer = StreamProducer::claim(lane, *id);
    if (!producer)
      return fail(producer.error(),
                  fmt::format("stream {}: {}", names[i],
                              producer.error() == Status::busy ? "another producer has it"
                                                               : to_string(producer.error())));
    stream.producer = std::move(*producer);
    stream.owners.resize(stream.producer.capacity());
    stream.taken = stream.producer.head();
  }
  // Two events for each connection (OPEN, and CLOSE or ABORT), one restart for each stream.
  dispatch->entries_.resize(blocks + 2 * std::size_t{pool.size()} + names.size());
  for (std::uint32_t i = 0; i < dispatch->entries_.size(); ++i) {
    dispatch->entries_[i].next = dispatch->free_;
    dispatch->free_ = i;
  }
  return dispatch;
}

std::uint32_t Dispatch::assign() noexcept {
  std::uint32_t best = turn_ % stream_count();
  for (std::uint32_t i = 1; i < stream_count(); ++i) {
    const std::uint32_t candidate = (turn_ + i) % stream_count();
    if (streams_[candidate].flows < streams_[best].flows) best = candidate;
  }
  turn_ = best + 1;
  ++streams_[best].flows;
  return best;
}

void Dispatch::send(std::uint32_t stream, const Message& message, Reference reference,
                    Connection& connection) noexcept {
  ++connection.outstanding;
  submit(stream, {.message = message, .reference = reference, .owner = connection.id()});
}

void Dispatch::send(std::uint32_t stream, const Message& message, Connection* last) noexcept {
  Pending entry{.message = message, .reference = {}, .owner = {}};
  if (last != nullptr) {
    entry.owner = last->id();
    entry.last = true;
  }
  submit(stream, entry);
}

void Dispatch::submit(std::uint32_t index, const Pending& entry) noexcept {
  Stream& stream = streams_[index];
  if (stream.pending == 0) {
    const Status status = push(stream, entry);
    if (status != Status::full) return;
  }
  if (free_ == none) {  // the bound of invariant 2 does not hold
    health_ = Status::exhausted;
    return;
  }
  const std::uint32_t place = free_;
  free_ = entries_[place].next;
  entries_[place] = entry;
  (stream.pending == 0 ? stream.first : entries_[stream.final].next) = place;
  stream.final = place;
  ++pending_;
  if (++stream.pending >= pending_high_) stream.stalled = true;
}

// ok, full, or a failure that health() then tells.
Status Dispatch::push(Stream& stream, const Pending& entry) noexcept {
  const std::uint64_t position = stream.producer.tail();
  // The place in `owners` is free once the message that was there is counted off. The push must not succeed
  // before: it looks at the head again, which may have moved after collect() did.
  const std::uint64_t capacity = stream.producer.capacity();
  if (position - stream.taken >= capacity) collect(stream);
  if (position - stream.taken >= capacity) return Status::full;
  hold_bell(stream);
  const Status status = entry.reference ? stream.producer.push(entry.message, entry.reference)
                                        : stream.producer.push(entry.message);
  if (status == Status::full) return status;
  if (status != Status::ok) {
    health_ = status;
    return status;
  }
  stream.owners[position & (capacity - 1)] = entry.last ? ConnectionId{} : entry.owner;
  if (entry.last) pool_.free(*pool_.find(entry.owner));
  return status;
}

// Take the duty to ring from the pushes of this turn. A worker that goes to sleep later says so again, and is
// rung by the next push; one that sleeps while we die between here and wake() wakes by its time limit.
void Dispatch::hold_bell(Stream& stream) noexcept {
  const auto lane =
      lane_claim::Lane::get(load(queue_row(segment_, stream.producer.id().index).consumer, relaxed));
  if (lane == 0 || lane >= segment_.header().lane_count) return;
  Doorbell& bell = segment_.lane_row(lane).doorbell;
  if (load(bell.waiting, relaxed) == 0) return;
  store(bell.waiting, 0, relaxed);
  stream.held_bell = &bell;
}

void Dispatch::wake() noexcept {
  for (Stream& stream : streams_) {
    if (stream.held_bell == nullptr) continue;
    store(stream.held_bell->waiting, 1, relaxed);
    ring(*stream.held_bell);
    stream.held_bell = nullptr;
  }
}

bool Dispatch::flush(Stream& stream) noexcept {
  const std::uint32_t before = stream.pending;
  while (stream.pending != 0) {
    Pending& entry = entries_[stream.first];
    if (push(stream, entry) != Status::ok) break;
    const std::uint32_t place = stream.first;
    stream.first = entry.next;
    entry = Pending{};
    entry.next = free_;
    free_ = place;
    --stream.pending;
    --pending_;
  }
  // A quarter of the stream is room worth waking connections for: not one for each message taken. From the head
  // itself: room() may look at an old one.
  if (stream.stalled && stream.pending == 0) {
    const std::uint64_t used = stream.producer.tail() - head_of(stream);
    if (stream.producer.capacity() - used >= std::max(1U, stream.producer.capacity() / 4))
      stream.stalled = false;
  }
  return stream.pending != before;
}

bool Dispatch::flush() noexcept {
  bool moved = false;
  for (Stream& stream : streams_)
    if (stream.pending != 0 || stream.stalled) moved |= flush(stream);
  return moved;
}

// The head as the worker published it, checked: it lies between what was counted off and our tail.
std::uint64_t Dispatch::head_of(const Stream& stream) noexcept {
  const std::uint64_t head = stream.producer.head();
  if (head - stream.taken <= stream.producer.tail() - stream.taken) return head;
  health_ = Status::corrupt;
  return stream.taken;
}

bool Dispatch::collect(Stream& stream) noexcept {
  const std::uint64_t before = stream.taken;
  const std::uint64_t head = head_of(stream);
  const std::uint64_t mask = stream.producer.capacity() - 1;
  while (stream.taken != head) {
    Connection* connection = pool_.find(stream.owners[stream.taken++ & mask]);
    if (connection == nullptr) continue;
    --connection->outstanding;
    if (listener_ != nullptr) listener_->taken(*connection);
  }
  return head != before;
}

bool Dispatch::collect() noexcept {
  bool moved = false;
  for (Stream& stream : streams_) moved |= collect(stream);
  return moved;
}

bool Dispatch::would_move() noexcept {
  return std::any_of(streams_.begin(), streams_.end(),
                     [this](const Stream& stream) { return head_of(stream) != stream.taken; });
}

void Dispatch::close() noexcept {
  for (Stream& stream : streams_) stream.producer.close();
}

}  // namespace sluice
