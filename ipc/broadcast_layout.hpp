// A broadcast ring's shared words beside its messages: one row for each subscriber. Bytes only; docs/layout.md has
// the table. The rows follow the message slots in the ring's storage.
#pragma once

#include "ipc/message.hpp"
#include "shm/bits.hpp"
#include "shm/lane_layout.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

/// What becomes of a subscriber that the publisher has caught up with, all round the ring.
enum class SubscriberPolicy : std::uint32_t {
  block = 0,        // the publisher may not pass it: there is no room
  lose_oldest = 1,  // it loses what the publisher drops, and is told how many messages that were
  disconnect = 2,   // its subscription is over
  settling = 3,     // a durable one's policy is being changed: it holds everything, as while joining
};

/// What a claim of a subscriber's row says beside the lane.
enum class ClaimState : std::uint64_t {
  held = 0,    // the row is the lane's; all zero: nobody's
  parked = 1,  // a durable subscription that no lane has
  naming = 2,  // the lane is about to make a durable subscription, and has not won the name
  beaten = 3,  // another lane has won that name: this one gives the row up
};

/// SubscriberRow::claim: a lane_claim, with a state. Parked: no lane, and the low bits of `joins` for an incarnation,
/// so that the word says which subscription it is.
namespace subscriber_claim {
using State = BitField<54, 2>;
static_assert(lane_claim::Incarnation::shift + lane_claim::Incarnation::width <= State::shift);

constexpr std::uint64_t make(ClaimState state, std::uint64_t claim) noexcept {
  return State::set(claim, static_cast<std::uint64_t>(state));
}
constexpr std::uint64_t parked(std::uint64_t joins) noexcept {
  return make(ClaimState::parked, lane_claim::make(0, joins));
}
constexpr ClaimState state(std::uint64_t word) noexcept { return static_cast<ClaimState>(State::get(word)); }
/// Whose it is, whatever the state; of a parked one nobody's.
constexpr std::uint64_t owner(std::uint64_t word) noexcept { return State::set(word, 0); }
}  // namespace subscriber_claim

inline constexpr std::size_t subscription_name_max = 31;  // bytes; 8 to a word, and a zero at the end

// The first line is the subscriber's: while somebody has the claim, only that lane writes there, or who recovers it.
// Of the second the publisher writes the first word, the subscriber the rest.
struct alignas(128) SubscriberRow {
  std::uint64_t claim;  // subscriber_claim.  W: subscriber (CAS), recoverer.  R: publisher
  std::uint64_t joins;  // counts the subscriptions that the row has been
  // The stamp of the message that is read next: its position + 1. 0: joining or leaving, holds everything. Never 0
  // once a durable subscription was made, until it ends
  std::uint64_t cursor;
  std::uint32_t policy;  // SubscriberPolicy; means nothing while cursor is 0
  std::uint32_t reserved;
  std::uint64_t joined;    // position at which it began
  std::uint64_t lost;      // messages that were dropped before it had read them
  std::uint64_t received;  // messages that it has read
  std::uint64_t bytes;     // of their payload

  // The value of `joins` whose subscriber was disconnected last. W: publisher.  R: subscriber
  alignas(64) std::uint64_t disconnected;
  // Of a durable subscription.  W: subscriber.  R: the next one
  std::uint64_t shown;        // the highest stamp that a subscriber was shown in place
  std::uint64_t redelivered;  // messages read that a predecessor had been shown
  std::uint64_t reserved_end;
  std::uint64_t name[4];  // filled up with zeroes; the first word is written last. 0: not durable
};
static_assert(sizeof(SubscriberRow) == 128 && offsetof(SubscriberRow, cursor) == 16);
static_assert(offsetof(SubscriberRow, joined) == 32 && offsetof(SubscriberRow, disconnected) == 64);
static_assert(offsetof(SubscriberRow, name) == 96 &&
              sizeof(SubscriberRow::name) == subscription_name_max + 1);
static_assert(std::is_trivially_copyable_v<SubscriberRow>);

/// Message slots that a subscriber's row takes the place of.
inline constexpr std::uint64_t slots_per_subscriber = sizeof(SubscriberRow) / sizeof(Message);
/// The fewest message slots of a broadcast: the rows behind them are 128-byte aligned.
inline constexpr std::uint32_t broadcast_capacity_min = 2;
inline constexpr std::uint32_t subscribers_limit = 1024;

}  // namespace sluice
