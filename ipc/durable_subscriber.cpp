// Durable subscriptions, by who reads them: joining under a name, going on where the last one stopped, ending.
#include "ipc/subscriber_opening.hpp"

#include <algorithm>

namespace sluice {

std::expected<Subscriber, Status> Subscriber::join_named(const Opened& opened,
                                                         const SubscriberOptions& options) noexcept {
  const auto found = find_subscription(opened.ring.subscribers, options.name);
  if (!found) return make(opened, options);
  if (const auto status = claim_parked(found, opened.self()); status != Status::ok)
    return std::unexpected(status);
  Subscriber subscriber(opened, *found.row, options.policy);
  subscriber.resume(opened.ring, options.start);
  return subscriber;
}

// The cursor was never away: what it holds is there.
void Subscriber::resume(const StreamRing& ring, const Start& start) noexcept {
  join_ = load(row_->joins, relaxed);
  position_ = load(row_->cursor, relaxed) - 1;
  shown_ = redeliver_below_ = load(row_->shown, relaxed);
  const auto policy = static_cast<SubscriberPolicy>(load(row_->policy, relaxed));
  if (policy == policy_ && !disconnected()) return;
  if (policy != SubscriberPolicy::block) return renew(ring, start);
  // The floor is not above the cursor now, and nobody was about to disconnect it: from here the new policy holds.
  store(row_->policy, static_cast<std::uint32_t>(policy_), release);
  crash_point("broadcast.resume.changed");
  ring_role(end_.segment(), end_.row->producer);
}

// The floor may have passed the cursor, and the publisher may be about to raise it, or to disconnect the subscription,
// by a look at its old policy. So it holds everything for a moment, and begins above what was announced, as who joins
// does; and it becomes another subscription of the row, which a disconnection that comes late does not mean. The
// cursor stays meanwhile: who is killed here has not lost the place.
void Subscriber::renew(const StreamRing& ring, const Start& start) noexcept {
  const bool is_over = disconnected();
  store(row_->policy, static_cast<std::uint32_t>(SubscriberPolicy::settling), release);
  crash_point("broadcast.renew.held");
  // B2 <- B1 (clear): the publisher sees that it holds, or had announced its target before.
  std::atomic_thread_fence(seq_cst);
  const auto floor = load(end_.row->floor_next, acquire);
  const auto tail = pushed_messages(ring, *end_.row);
  const auto stopped = position_;
  const auto wanted = is_over ? std::max(wanted_position(start, tail), stopped) : stopped;
  position_ = std::min(std::max(wanted, floor), tail);
  (is_over ? missed_ : lost_) = position_ - stopped;
  count_up(row_->lost, position_ - stopped);
  store(row_->cursor, position_ + 1, release);
  crash_point("broadcast.renew.moved");
  store(row_->joins, ++join_, release);  // B16 -> B6 (disconnect_below): the cursor precedes its number,
  crash_point("broadcast.renew.numbered");
  store(row_->policy, static_cast<std::uint32_t>(policy_),
        release);  // B17 -> B18 (has_policy): and both the policy
  crash_point("broadcast.renew.renewed");
  ring_role(end_.segment(), end_.row->producer);
}

void Subscriber::unsubscribe() noexcept {
  // A lane that was recovered has it no more, and it may be somebody else's.
  if (row_ != nullptr && end_.lane->is_ours() &&
      load(row_->claim, acquire) == lane_claim::make(end_.lane->id(), end_.lane->incarnation())) {
    free_row(*row_);
    ring_role(end_.segment(), end_.row->producer);
  }
  end_ = {};
  row_ = nullptr;
}

std::expected<bool, Status> ensure_subscription(Lane& lane, QueueId queue,
                                                const SubscriberOptions& options) noexcept {
  if (options.name.empty()) return std::unexpected(Status::bad_argument);
  const auto opened = Subscriber::open(lane, queue, options);
  if (!opened) return std::unexpected(opened.error());
  if (find_subscription(opened->ring.subscribers, options.name)) return false;
  const auto made = Subscriber::make(*opened, options);  // parked when it goes
  if (made) return true;
  if (made.error() == Status::busy && find_subscription(opened->ring.subscribers, options.name)) return false;
  return std::unexpected(made.error());
}

}  // namespace sluice
