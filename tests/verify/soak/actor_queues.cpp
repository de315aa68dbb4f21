// What an actor does with work queues and broadcasts. Much of it in bursts with nothing between: a death among these is
// a death in the middle of one.
#include "tests/verify/soak/actor.hpp"

#include "tests/support/must.hpp"

#include <algorithm>
#include <stdexcept>

namespace sluice::verify {

namespace {

constexpr std::size_t leases_max = 6;

}  // namespace

// ---- Work ------------------------------------------------------------------------------------------------

void Actor::work() {
  if (!work_) work_.emplace(*first_lane_, *stage_.witness, slot_);
  if (!work_->open()) return work_in(Role::sharer);
  if (chance(300)) work_->turn(static_cast<std::uint32_t>(random_() % work_queues));
  for (auto left = random_() % 32; left != 0; --left) {
    const auto queue = static_cast<std::uint32_t>(random_() % work_queues);
    const auto what = random_() % 16;
    if (what < 5) {
      const auto reference = what == 0 ? first_->give() : what == 1 ? Reference{} : first_->another_small();
      if (work_->push(queue, reference, first_->bytes_of(reference))) continue;
      if (reference) first_->give_back(reference);
      // Closed, perhaps, by somebody who is dead.
      if (work_->queue(queue).closed() && chance(4)) work_->turn(queue);
    } else if (what < 10) {
      if (work_->leases() < leases_max) work_->take(queue);
    } else if (work_->leases() != 0) {
      end_lease();
    }
  }
  if (chance(3))
    while (work_->leases() != 0) end_lease();
}

void Actor::end_lease() {
  const auto lease = random_() % work_->leases();
  const auto what = random_() % 16;
  if (what < 3) return work_->reject(lease);
  if (what < 8 && work_->forward(lease, static_cast<std::uint32_t>(random_() % work_dropping))) return;
  if (what < 11) {
    if (const auto kept = work_->keep(lease)) first_->keep(kept);
    return;
  }
  work_->acknowledge(lease);
}

// ---- Broadcasts ------------------------------------------------------------------------------------------

std::optional<QueueId> Actor::broadcast(std::uint32_t broadcast) {
  const auto found =
      find_or_create_broadcast(*first_lane_, broadcast_name_of(broadcast),
                               {.capacity = broadcast_capacity_of(broadcast), .subscribers_max = 6});
  if (found) return *found;
  if (found.error().status != Status::exhausted && found.error().status != Status::busy)
    throw std::runtime_error("broadcast: " + found.error().message);
  return std::nullopt;
}

void Actor::cast() {
  if (!publisher_ && chance(8)) {
    const auto which = static_cast<std::uint32_t>(random_() % broadcasts);
    const auto queue = broadcast(which);
    if (queue) publisher_.claim(*first_lane_, *queue, which, stage_.witness->broadcast[which]);
  }
  if (!subscriber_) subscribe();
  if (publisher_) publish();
  if (subscriber_) return read();
  if (!publisher_) work_in(Role::sharer);
}

void Actor::publish() {
  for (auto left = random_() % 24; left != 0; --left) {
    const auto what = random_() % 8;
    const auto reference = what == 0 ? first_->give() : what == 1 ? Reference{} : first_->another_small();
    if (publisher_.publish(reference, first_->bytes_of(reference))) continue;
    if (reference) first_->give_back(reference);
    break;
  }
  if (chance(100)) publisher_.trim(random_() % publisher_.capacity());
  if (chance(300)) publisher_.rest(chance(2));
}

void Actor::subscribe() {
  const auto which = static_cast<std::uint32_t>(random_() % broadcasts);
  const auto queue = broadcast(which);
  if (!queue) return;
  auto& journal = stage_.witness->broadcast[which];
  constexpr SubscriberPolicy policies[] = {SubscriberPolicy::block, SubscriberPolicy::lose_oldest,
                                           SubscriberPolicy::disconnect};
  const auto what = random_() % 3;
  const auto value = what == 1
                         ? random_() % 80
                         : journal.published - std::min<std::uint64_t>(journal.published, random_() % 80);
  const auto start = what == 0 ? Start::from_now() : what == 1 ? Start::last(value) : Start::at(value);
  subscriber_.join(*first_lane_, *queue, which, journal, {.policy = policies[random_() % 3], .start = start});
}

void Actor::read() {
  for (auto left = random_() % 32; left != 0 && subscriber_; --left) {
    if (subscriber_.blocks() && chance(2)) {
      if (!subscriber_.read_in_place(chance(500) ? static_cast<long>(random_() % 500) : 0)) break;
      continue;
    }
    const auto taken = subscriber_.take();
    if (!taken) break;
    if (!*taken) continue;
    if (chance(4))
      first_->keep(*taken);
    else
      test::must(first_lane_->heap().release(*taken));
  }
  if (subscriber_ && chance(200)) subscriber_.leave();
}

}  // namespace sluice::verify
