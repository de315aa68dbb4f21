#include "io/dispatch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sluice {

namespace {

// Positions of a work queue that one collect() looks at beyond the oldest that is not done.
constexpr std::uint64_t sweep_step = 4096;

}  // namespace

Expected<std::unique_ptr<Dispatch>> Dispatch::open(Lane& lane, ConnectionPool& pool,
                                                   const std::vector<std::string>& names,
                                                   std::uint32_t blocks, std::uint32_t pending_high) {
  std::unique_ptr<Dispatch> dispatch(new Dispatch(lane, pool, pending_high));
  dispatch->streams_.resize(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    Stream& stream = dispatch->streams_[i];
    stream.name = names[i];
    auto outlet = Outlet::open(lane, names[i]);
    if (!outlet) return std::unexpected(std::move(outlet.error()));
    if (names.size() > 1 && !outlet->in_flow_order())
      return fail(Status::bad_argument,
                  fmt::format("queue {}: found no stream among {} queues, expected streams, or one queue",
                              names[i], names.size()));
    stream.outlet = std::move(*outlet);
    stream.owners.resize(stream.outlet.capacity());
    stream.taken = stream.end = stream.sweep = stream.outlet.first_untaken();
    if (auto* marks = stream.outlet.room_marks()) dispatch->marks_.push_back(marks);
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
  // The place in `owners` is free once the message that was there is counted off. The push must not succeed
  // before: it looks at the queue again, of which more may have been taken after collect() looked.
  const std::uint64_t capacity = stream.outlet.capacity();
  if (stream.taken == stream.end) stream.taken = stream.end = std::max(stream.end, stream.outlet.next());
  if (stream.outlet.next() - stream.taken >= capacity) collect(stream);
  if (stream.outlet.next() - stream.taken >= capacity && !stream.outlet.out_of_order()) return Status::full;
  hold_bell(stream);
  const auto pushed = stream.outlet.push(entry.message, entry.reference);
  if (!pushed) {
    if (pushed.error() != Status::full) health_ = pushed.error();
    return pushed.error();
  }
  const auto position = *pushed;
  stream.end = position;  // it may have been taken by now, and nobody is charged yet
  // Others push into a work queue too, and may have taken it further. What had the slot before is done then, and all
  // that is older.
  if (position - stream.taken >= capacity) collect(stream);
  stream.owners[position & (capacity - 1)] = entry.last ? ConnectionId{} : entry.owner;
  stream.end = position + 1;
  if (entry.last) pool_.free(*pool_.find(entry.owner));
  return Status::ok;
}

// Take the duty to ring from the pushes of this turn. A worker that goes to sleep later says so again, and is
// rung by the next push; one that sleeps while we die between here and wake() wakes by its time limit.
void Dispatch::hold_bell(Stream& stream) noexcept {
  Doorbell* bell = stream.outlet.consumer_bell();
  if (bell == nullptr || load(bell->waiting, relaxed) == 0) return;
  store(bell->waiting, 0, relaxed);
  stream.held_bell = bell;
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
  if (stream.stalled && stream.pending == 0 && look(stream) && has_room_again(stream)) stream.stalled = false;
  return stream.pending != before;
}

bool Dispatch::flush() noexcept {
  bool moved = false;
  for (Stream& stream : streams_)
    if (stream.pending != 0 || stream.stalled) moved |= flush(stream);
  return moved;
}

// A quarter of the queue is room worth waking connections for: not one for each message taken.
bool Dispatch::has_room_again(Stream& stream) noexcept {
  return stream.outlet.room() >= std::max<std::uint64_t>(1, stream.outlet.capacity() / 4);
}

bool Dispatch::look(Stream& stream) noexcept {
  const auto status = stream.outlet.look();
  if (status != Status::ok) health_ = status;
  return status == Status::ok;
}

// Whether somebody was charged with the block at a position; no longer.
bool Dispatch::count_off(Stream& stream, std::uint64_t position) noexcept {
  auto& owner = stream.owners[position & (stream.outlet.capacity() - 1)];
  Connection* connection = pool_.find(std::exchange(owner, ConnectionId{}));
  if (connection == nullptr) return false;
  --connection->outstanding;
  if (listener_ != nullptr) listener_->taken(*connection);
  return true;
}

// From stream.sweep to there positions are to be looked at.
std::uint64_t Dispatch::next_sweep(Stream& stream) noexcept {
  if (stream.sweep < stream.taken || stream.sweep >= stream.end) stream.sweep = stream.taken;
  return stream.sweep + std::min(sweep_step, stream.end - stream.sweep);
}

bool Dispatch::is_charged_and_taken(const Stream& stream, std::uint64_t position) noexcept {
  const auto& owner = stream.owners[position & (stream.outlet.capacity() - 1)];
  return owner != ConnectionId{} && stream.outlet.is_taken(position);
}

bool Dispatch::collect(Stream& stream) noexcept {
  if (!look(stream)) return false;
  const std::uint64_t before = stream.taken;
  while (stream.taken != stream.end && stream.outlet.is_taken(stream.taken))
    count_off(stream, stream.taken++);
  bool moved = stream.taken != before;
  if (!stream.outlet.out_of_order()) return moved;
  // Behind a message that takes long others are done; a part of them is looked at each time.
  for (const auto last = next_sweep(stream); stream.sweep != last; ++stream.sweep)
    if (is_charged_and_taken(stream, stream.sweep)) moved |= count_off(stream, stream.sweep);
  return moved;
}

bool Dispatch::collect() noexcept {
  bool moved = false;
  for (Stream& stream : streams_) moved |= collect(stream);
  return moved;
}

bool Dispatch::would_move(Stream& stream) noexcept {
  if (!look(stream)) return true;
  if (stream.taken != stream.end && stream.outlet.is_taken(stream.taken)) return true;
  if (stream.outlet.out_of_order()) {
    const auto last = next_sweep(stream);
    for (auto position = stream.sweep; position != last; ++position)
      if (is_charged_and_taken(stream, position)) return true;
  }
  return stream.pending != 0 ? stream.outlet.room() != 0 : stream.stalled && has_room_again(stream);
}

bool Dispatch::would_move() noexcept {
  return std::ranges::any_of(streams_, [this](Stream& stream) { return would_move(stream); });
}

// Who was rung for a queue's room and takes none lets another producer know.
void Dispatch::end_sleep() noexcept {
  sluice::end_sleep(lane_, marks_);
  for (Stream& stream : streams_)
    if (auto* marks = stream.outlet.room_marks(); marks != nullptr && stream.outlet.room() != 0)
      wake_one(lane_.segment(), *marks);
}

bool Dispatch::consumers_ring() const noexcept {
  return std::ranges::all_of(streams_, [](const Stream& stream) { return stream.outlet.rings(); });
}

bool Dispatch::shed() noexcept {
  bool any = false;
  for (Stream& stream : streams_) any |= stream.outlet.shed();
  return any;
}

void Dispatch::close() noexcept {
  for (Stream& stream : streams_) stream.outlet.close();
}

}  // namespace sluice
