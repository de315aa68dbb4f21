// The subscriber's side of a broadcast.
#include "ipc/subscriber_opening.hpp"

#include <algorithm>
#include <utility>

namespace sluice {

Subscriber::Subscriber(const Opened& opened, SubscriberRow& row, SubscriberPolicy policy) noexcept
    : end_(opened.end), row_(&row), policy_(policy), is_durable_(is_durable(row)) {}

std::expected<Subscriber::Opened, Status> Subscriber::open(Lane& lane, QueueId queue,
                                                           const SubscriberOptions& options) noexcept {
  if (options.policy > SubscriberPolicy::disconnect) return std::unexpected(Status::bad_argument);
  if (!options.name.empty() && !is_subscription_name(options.name))
    return std::unexpected(Status::bad_argument);
  if (!options.name.empty() && lane.segment().header().minor < layout_minor_of_names)
    return std::unexpected(Status::incompatible);
  const auto end = RingEnd::open(lane, queue, QueueKind::broadcast);
  if (!end) return std::unexpected(end.error());
  const auto ring = sound_ring(lane.segment(), *end->row);
  if (!ring) return std::unexpected(Status::corrupt);
  return Opened{*end, *ring};
}

std::expected<Subscriber, Status> Subscriber::join(Lane& lane, QueueId queue,
                                                   const SubscriberOptions& options) noexcept {
  const auto opened = open(lane, queue, options);
  if (!opened) return std::unexpected(opened.error());
  return options.name.empty() ? make(*opened, options) : join_named(*opened, options);
}

// A subscription that there was not.
std::expected<Subscriber, Status> Subscriber::make(const Opened& opened,
                                                   const SubscriberOptions& options) noexcept {
  std::expected<SubscriberRow*, Status> row;
  if (options.name.empty())
    row = claim_free_row(opened.ring.subscribers, opened.self());
  else
    row = claim_new_name(opened.ring.subscribers, opened.self(), options.name);
  if (!row || *row == nullptr) {
    ring_role(opened.end.segment(), opened.end.row->producer);  // it may have been held up for a moment
    return std::unexpected(row ? Status::exhausted : row.error());
  }
  Subscriber subscriber(opened, **row, options.policy);
  subscriber.begin(opened.ring, options.start);
  return subscriber;
}

void Subscriber::begin(const StreamRing& ring, const Start& start) noexcept {
  join_ = load(row_->joins, relaxed) + 1;
  store(row_->joins, join_, release);  // B5 -> B6 (disconnect_below): older cursors precede it
  store(row_->policy, static_cast<std::uint32_t>(policy_), relaxed);
  store(row_->lost, 0, relaxed);
  store(row_->received, 0, relaxed);
  store(row_->bytes, 0, relaxed);
  store(row_->shown, 0, relaxed);
  store(row_->redelivered, 0, relaxed);
  // B2 <- B1 (clear): a publisher that has not seen the claim, and so may drop what is below its target, has announced
  // the target before; it is read here. One that has seen it drops nothing more before the cursor is stored.
  std::atomic_thread_fence(seq_cst);
  const auto floor = load(end_.row->floor_next, acquire);
  const auto tail = pushed_messages(ring, *end_.row);
  const auto wanted = wanted_position(start, tail);
  position_ = std::min(std::max(wanted, floor), tail);
  missed_ = position_ - wanted;
  store(row_->joined, position_, relaxed);
  store(row_->cursor, position_ + 1, release);  // B5 -> B6 (survey): policy and number precede it
  crash_point("broadcast.join.joined");
  ring_role(end_.segment(), end_.row->producer);
}

Subscriber& Subscriber::operator=(Subscriber&& other) noexcept {
  if (this == &other) return *this;
  leave();
  end_ = std::exchange(other.end_, {});
  row_ = std::exchange(other.row_, nullptr);
  policy_ = other.policy_;
  is_durable_ = other.is_durable_;
  join_ = other.join_;
  position_ = other.position_;
  shown_ = other.shown_;
  redeliver_below_ = other.redeliver_below_;
  missed_ = other.missed_;
  lost_ = other.lost_;
  return *this;
}

void Subscriber::leave() noexcept {
  if (row_ != nullptr && end_.lane->is_ours() &&
      give_subscription(*row_, lane_claim::make(end_.lane->id(), end_.lane->incarnation())))
    ring_role(end_.segment(), end_.row->producer);
  end_ = {};
  row_ = nullptr;
}

// --- reading -----------------------------------------------------------------------------------------------

bool Subscriber::disconnected() const noexcept { return load(row_->disconnected, acquire) == join_; }

// Stamps of a slot only grow: a smaller one than ours is an earlier round's, a larger one says that we were passed.
bool Subscriber::is_there(std::uint64_t position) const noexcept {
  return load(end_.at(position).stamp, acquire) > position;  // S4 <- S1 (push)
}

// By the row, where this lane has stored it: who looks may be another thread.
bool Subscriber::has_message() const noexcept { return is_there(load(row_->cursor, relaxed) - 1); }

bool Subscriber::ended() const noexcept {
  const bool closed = load(end_.row->closed, acquire) != 0;  // C2 <- C1 (close)
  return closed && !has_message();
}

bool Subscriber::ready() const noexcept {
  return has_message() || load(end_.row->closed, acquire) != 0 || disconnected();
}

// The next message as it is in the ring: a copy that is seen to be whole.
std::expected<Message, Status> Subscriber::next() noexcept {
  for (;;) {
    if (disconnected()) return std::unexpected(Status::disconnected);
    if (!is_there(position_)) return std::unexpected(ended() ? Status::closed : Status::empty);
    const auto message = copy_message(end_.at(position_));
    // B10 <- B9 (drop_until): who has read a byte of a later message finds the floor above this one.
    std::atomic_thread_fence(acquire);
    if (message.stamp == position_ + 1 &&
        (policy_ == SubscriberPolicy::block || load(end_.row->head, relaxed) <= position_))
      return message;
    if (const auto status = pass(); status != Status::ok) return std::unexpected(status);
  }
}

// The publisher has passed this subscriber: go on at the floor.
Status Subscriber::pass() noexcept {
  const auto floor = load(end_.row->head, acquire);
  if (disconnected()) return Status::disconnected;
  if (floor <= position_ || policy_ != SubscriberPolicy::lose_oldest) return Status::corrupt;
  lost_ += floor - position_;
  count_up(row_->lost, floor - position_);
  position_ = floor;
  store(row_->cursor, position_ + 1, release);
  return Status::ok;
}

void Subscriber::step(std::uint32_t length) noexcept {
  const auto position = position_++;
  auto& counters = end_.lane->counters();
  count_up(row_->received);
  count_up(row_->bytes, length);
  count_up(counters.messages_in);
  count_up(counters.bytes_in, length);
  if (position < redeliver_below_) {
    count_up(counters.redelivered);
    count_up(row_->redelivered);
    fetch_add(end_.row->redelivered, 1, relaxed);  // other subscribers count there too
  }
  store(row_->cursor, position_ + 1, release);  // B7 -> B8 (survey): the message was read
  crash_point("broadcast.read.advanced");
  if (policy_ != SubscriberPolicy::block) return;
  // A publisher that sleeps has announced how far it can go, and is held up by who stands there.
  std::atomic_signal_fence(seq_cst);  // D1 -> D2, as ring()
  if (position <= load(end_.row->floor_next, relaxed)) ring_role(end_.segment(), end_.row->producer);
}

std::expected<TakenMessage, Status> Subscriber::take() noexcept {
  for (;;) {
    const auto message = next();
    if (!message) return std::unexpected(message.error());
    TakenMessage delivery{*message, {}, redelivered()};
    if (message->handle != 0) {
      const auto reference = end_.lane->heap().look_up(Handle{message->handle});
      if (!reference) {
        if (reference.error() != Status::stale) return std::unexpected(reference.error());
        // Dropped since the copy was made, so the floor was raised before.
        if (const auto status = pass(); status != Status::ok) return std::unexpected(status);
        continue;
      }
      crash_point("broadcast.take.cloned");  // recovery: the lane's own reference, dropped with the others
      delivery.reference = *reference;
    }
    step(message->length);
    return delivery;
  }
}

const Message* Subscriber::peek() noexcept {
  if (policy_ != SubscriberPolicy::block || !is_there(position_)) return nullptr;
  if (is_durable_ && shown_ <= position_) {
    shown_ = position_ + 1;
    store(row_->shown, shown_, release);  // before it is seen: who comes next is told
    crash_point("broadcast.read.shown");  // recovery: the cursor stays, so it is shown again
  }
  return &end_.at(position_);
}

std::span<const std::byte> Subscriber::bytes(const Message& message) const noexcept {
  const auto block = find_block(end_.segment(), Handle{message.handle});
  if (!block || message.offset > block->bytes || message.length > block->bytes - message.offset) return {};
  return block->span().subspan(message.offset, message.length);
}

Status Subscriber::advance() noexcept {
  if (const auto* message = peek()) {
    step(message->length);
    return Status::ok;
  }
  const auto message = next();
  if (!message) return message.error();
  step(message->length);
  return Status::ok;
}

std::uint64_t Subscriber::lag() const noexcept {
  const auto tail = load(end_.row->tail, acquire);
  return tail > position_ ? tail - position_ : 0;
}

WaitSource Subscriber::messages() const noexcept {
  const auto is_ready = [](const void* of) noexcept { return static_cast<const Subscriber*>(of)->ready(); };
  return {.of = this, .ready = is_ready, .marks = &end_.row->consumers_waiting};
}

}  // namespace sluice
