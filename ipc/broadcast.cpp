// The publisher's side: making room, publishing.
#include "ipc/broadcast.hpp"

#include "ipc/subscription.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace sluice {

namespace {

// One survey of the cursors clears a quarter of the ring: the others are history for who joins late.
constexpr std::uint64_t cleared_share = 4;

bool has_policy(const SubscriberRow& subscriber, SubscriberPolicy policy) noexcept {
  return load(subscriber.policy, acquire) == static_cast<std::uint32_t>(policy);  // B18 <- B17 (renew)
}

bool holds_everything(const SubscriberRow& subscriber, std::uint64_t cursor) noexcept {
  return cursor == 0 || has_policy(subscriber, SubscriberPolicy::settling);
}

// Of the subscriber that is furthest behind. One that is joining has not begun, one that was disconnected is over: they
// count for nothing.
std::uint64_t furthest_behind(std::span<const SubscriberRow> subscribers, std::uint64_t floor,
                              std::uint64_t tail, bool only_holders) noexcept {
  auto least = tail;
  for (const auto& subscriber : subscribers) {
    const auto cursor = load(subscriber.cursor, acquire);  // B8 <- B7 (step), B6 <- B5 (join)
    if (cursor == 0 || load(subscriber.claim, acquire) == 0) continue;
    if (load(subscriber.disconnected, relaxed) == load(subscriber.joins, relaxed)) continue;
    const bool may_be_passed = has_policy(subscriber, SubscriberPolicy::lose_oldest) ||
                               has_policy(subscriber, SubscriberPolicy::disconnect);
    if (only_holders && may_be_passed) continue;
    least = std::min(least, cursor - 1);
  }
  return tail - std::max(least, std::min(floor, tail));
}

}  // namespace

std::uint64_t unread_messages(const Segment& segment, const QueueRow& row, std::string_view name) noexcept {
  auto ring = sound_ring(segment, row, QueueKind::broadcast);
  if (!ring) return 0;
  if (!name.empty()) {
    const auto found = find_subscription(ring->subscribers, name);
    if (!found) return 0;
    ring->subscribers = {found.row, 1};
  }
  const auto floor = load(row.head, acquire);
  return furthest_behind(ring->subscribers, floor, pushed_messages(*ring, row), false);
}

std::uint64_t Publisher::unread() const noexcept {
  return furthest_behind({subscribers_, subscribers_max_}, floor_, tail_, false);
}

std::uint64_t Publisher::held() const noexcept {
  return furthest_behind({subscribers_, subscribers_max_}, floor_, tail_, true);
}

Expected<QueueId> create_broadcast(Lane& lane, std::string_view name, const BroadcastOptions& options) {
  if (auto sound = check_capacity(name, options.capacity); !sound) return std::unexpected(sound.error());
  if (options.subscribers_max == 0 || options.subscribers_max > subscribers_limit)
    return fail(Status::bad_argument, fmt::format("subscribers of queue {}: found {}, expected 1 to {}", name,
                                                  options.subscribers_max, subscribers_limit));
  const auto capacity = std::bit_ceil(std::max(options.capacity, broadcast_capacity_min));
  return create_queue(lane, name,
                      {.kind = QueueKind::broadcast,
                       .capacity = capacity,
                       .slots = capacity + options.subscribers_max * slots_per_subscriber,
                       .slot_bytes = sizeof(Message),
                       .subscribers_max = options.subscribers_max});
}

Expected<QueueId> find_or_create_broadcast(Lane& lane, std::string_view name,
                                           const BroadcastOptions& options) {
  const auto id = find_or_create(lane.segment(), name, QueueKind::broadcast, QueuePolicy::block,
                                 [&] { return create_broadcast(lane, name, options); });
  if (!id) return id;
  const auto& row = queue_row(lane.segment(), id->index);
  return expect_same(*id, name,
                     {{"capacity", load(row.capacity, relaxed),
                       std::bit_ceil(std::max(options.capacity, broadcast_capacity_min))},
                      {"most subscribers", load(row.subscribers_max, relaxed), options.subscribers_max}});
}

std::expected<Publisher, Status> Publisher::claim(Lane& lane, QueueId queue) noexcept {
  const auto end = RingEnd::open(lane, queue, QueueKind::broadcast);
  if (!end) return std::unexpected(end.error());
  const auto ring = sound_ring(lane.segment(), *end->row);
  if (!ring) return std::unexpected(Status::corrupt);
  auto& row = *end->row;
  if (!take_role(row.producer, lane)) return std::unexpected(Status::busy);
  Publisher publisher;
  publisher.end_ = *end;
  publisher.subscribers_ = ring->subscribers.data();
  publisher.subscribers_max_ = static_cast<std::uint32_t>(ring->subscribers.size());
  publisher.tail_ = pushed_messages(lane.segment(), row);
  store(row.tail, publisher.tail_, release);
  publisher.floor_ = publisher.cleared_ = load(row.head, acquire);
  std::atomic_thread_fence(release);                 // the last one's floor precedes what we write into slots
  store(row.floor_next, publisher.floor_, release);  // what the last one had cleared is not ours to drop
  store(row.closed, 0, release);
  return publisher;
}

Publisher& Publisher::operator=(Publisher&& other) noexcept {
  if (this == &other) return *this;
  release_role();
  end_ = std::exchange(other.end_, {});
  subscribers_ = other.subscribers_;
  subscribers_max_ = other.subscribers_max_;
  held_by_ = other.held_by_;
  tail_ = other.tail_;
  floor_ = other.floor_;
  cleared_ = other.cleared_;
  closed_ = other.closed_;
  return *this;
}

void Publisher::release_role() noexcept {
  if (end_.row != nullptr && end_.lane->is_ours()) give_role(end_.row->producer, *end_.lane);
  end_ = {};
}

// --- room --------------------------------------------------------------------------------------------------

struct Publisher::Survey {
  std::uint64_t limit;       // nobody holds anything below it
  std::uint32_t held_by;     // who holds the message at the limit
  bool has_lagging = false;  // somebody below the target is to be disconnected
};

// A row that is read as free, or as a predecessor's: the next subscriber joins after our fence, and begins at the
// target or later (B2). So what is read afterwards of the row may be of either.
Publisher::Survey Publisher::survey(std::uint64_t target) const noexcept {
  Survey survey{.limit = target, .held_by = nobody};
  for (std::uint32_t i = 0; i < subscribers_max_; ++i) {
    const auto& subscriber = subscribers_[i];
    if (load(subscriber.claim, acquire) == 0) continue;    // B4 <- B3 (leave): its cursor began at 0
    const auto cursor = load(subscriber.cursor, acquire);  // B8 <- B7 (step), B6 <- B5 (join)
    if (cursor > target) continue;
    const bool is_joining = holds_everything(subscriber, cursor);
    if (!is_joining && !has_policy(subscriber, SubscriberPolicy::block)) {
      survey.has_lagging |= has_policy(subscriber, SubscriberPolicy::disconnect) &&
                            load(subscriber.disconnected, relaxed) != load(subscriber.joins, relaxed);
      continue;
    }
    const auto position = is_joining ? cleared_ : std::max(cursor - 1, cleared_);
    if (position >= survey.limit) continue;
    survey.limit = position;
    survey.held_by = i;
  }
  return survey;
}

// Disconnect whoever is below `least` and has that policy; who is above limits us. Returns the limit.
std::uint64_t Publisher::disconnect_below(std::uint64_t least, std::uint64_t limit) const noexcept {
  for (std::uint32_t i = 0; i < subscribers_max_; ++i) {
    auto& subscriber = subscribers_[i];
    if (load(subscriber.claim, acquire) == 0) continue;
    // `joins` on both sides: cursor and policy are of one subscription. A newer one begins above the limit.
    const auto join = load(subscriber.joins, acquire);     // B6 <- B5 (begin), B16 (renew)
    const auto cursor = load(subscriber.cursor, acquire);  // B8 <- B7, B6 <- B5
    if (cursor == 0 || cursor > limit || !has_policy(subscriber, SubscriberPolicy::disconnect)) continue;
    if (load(subscriber.disconnected, relaxed) == join || load(subscriber.joins, acquire) != join) continue;
    if (cursor > least) {
      limit = cursor - 1;
      continue;
    }
    store(subscriber.disconnected, join, release);  // precedes every floor above its cursor
    crash_point("broadcast.floor.disconnected");    // recovery: its subscription is over
  }
  return limit;
}

// Find out how far the floor may be raised: to `target` if nobody objects. Who has the policy disconnect objects
// from `least` on.
void Publisher::clear(std::uint64_t least, std::uint64_t target) noexcept {
  auto& announced = end_.row->floor_next;
  store(announced, target, release);
  crash_point(
      "broadcast.floor.announced");  // recovery: no message was dropped; the next publisher begins anew
  // B1 -> B2 (join): either we see the claim of who joins, or it sees the target.
  std::atomic_thread_fence(seq_cst);
  const auto found = survey(target);
  held_by_ = found.held_by;
  cleared_ = found.has_lagging ? disconnect_below(std::min(least, found.limit), found.limit) : found.limit;
  if (cleared_ == target) return;
  store(announced, cleared_, release);  // who joins now may have what we cannot drop
  crash_point("broadcast.floor.withdrawn");
}

// Whether the one that held us up when we looked last still does.
bool Publisher::is_held_up() const noexcept {
  if (held_by_ == nobody) return false;
  const auto& subscriber = subscribers_[held_by_];
  if (load(subscriber.claim, acquire) == 0) return false;
  const auto cursor = load(subscriber.cursor, acquire);
  return holds_everything(subscriber, cursor) ||
         (cursor <= cleared_ + 1 && has_policy(subscriber, SubscriberPolicy::block));
}

std::uint64_t Publisher::room(std::uint64_t wanted) noexcept {
  const auto capacity = end_.capacity();
  wanted = std::min(wanted, capacity);
  if (capacity - (tail_ - cleared_) < wanted && !is_held_up()) {
    const auto least = tail_ + wanted - capacity;
    clear(least, std::min(tail_, std::max(least, cleared_ + capacity / cleared_share)));
  }
  return capacity - (tail_ - cleared_);
}

Status Publisher::drop_until(std::uint64_t floor) noexcept {
  while (floor_ < floor) {
    const auto dropped = end_.pop(floor_);
    if (!dropped) return dropped.error();
    // B9 -> B10 (next): the floor precedes what is written into the slot. Who finds the block dropped finds the floor.
    std::atomic_thread_fence(release);
    if (*dropped) (void)end_.lane->heap().release(*dropped);
  }
  return Status::ok;
}

Status Publisher::trim(std::uint64_t keep) noexcept {
  if (tail_ - floor_ <= keep) return Status::ok;
  const auto goal = tail_ - keep;
  if (cleared_ < goal && !is_held_up()) clear(goal, goal);
  const auto status = drop_until(std::min(goal, cleared_));
  return status == Status::ok && floor_ < goal ? Status::full : status;
}

bool Publisher::shed() noexcept {
  const auto before = floor_;
  const auto kept = tail_ - before;
  const auto waited_for = std::min(unread(), kept);
  (void)trim(waited_for < kept ? waited_for + (kept - waited_for) / 2 : kept / 2);
  return floor_ != before;
}

// --- publish -----------------------------------------------------------------------------------------------

Status Publisher::make_slot() noexcept {
  if (closed_) return Status::closed;
  if (tail_ - floor_ < end_.capacity()) return Status::ok;
  if (room() != 0) return drop_until(floor_ + 1);
  count_up(end_.row->refused);
  return Status::full;
}

Status Publisher::push(const Message& message, Reference reference) noexcept {
  if (const auto status = end_.lane->heap().may_move(reference); status != Status::ok) return status;
  if (const auto status = make_slot(); status != Status::ok) return status;
  if (const auto status = end_.lane->heap().make_findable(reference); status != Status::ok) return status;
  end_.push(tail_, message, reference);
  wake_all(end_.segment(), end_.row->consumers_waiting);
  return Status::ok;
}

Status Publisher::push(const Message& message) noexcept {
  if (const auto status = make_slot(); status != Status::ok) return status;
  end_.push(tail_, message);
  wake_all(end_.segment(), end_.row->consumers_waiting);
  return Status::ok;
}

// The block lies in another queue's slot, from which only this lane takes: it is its sole holder's to make findable. If
// the lane dies before it is here, it is findable where it is, and nothing else is different.
std::expected<std::uint64_t, Status> Publisher::make_place(Handle handle, std::uint32_t) noexcept {
  auto status = make_slot();
  if (status == Status::ok && handle) status = end_.lane->heap().make_findable_of(handle);
  if (status != Status::ok) return std::unexpected(status);
  return tail_;
}

void Publisher::arrive(std::uint64_t, const Message& message, Handle handle, std::uint32_t cell) noexcept {
  end_.arrive(tail_, message, handle, cell);
}

void Publisher::arrived(std::uint64_t, std::uint64_t bytes) noexcept {
  end_.told(tail_, 1, bytes);
  wake_all(end_.segment(), end_.row->consumers_waiting);
}

void Publisher::close() noexcept {
  closed_ = true;
  store(end_.row->closed, 1, release);  // C1 -> C2 (ended): the stamps precede it
  wake_all(end_.segment(), end_.row->consumers_waiting);
}

WaitSource Publisher::room_source() noexcept {
  // Not const in truth: looking for room remembers what it finds.
  const auto has_room = [](const void* of) noexcept {
    auto& self = *const_cast<Publisher*>(static_cast<const Publisher*>(of));
    return self.room() != 0;
  };
  return {.of = this, .ready = has_room, .marks = nullptr};  // subscribers know who has the role
}

}  // namespace sluice
