// A broadcast ring's shared words beside its messages: one row for each subscriber. Bytes only; docs/layout.md has
// the table. The rows follow the message slots in the ring's storage.
#pragma once

#include "ipc/message.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

/// What becomes of a subscriber that the publisher has caught up with, all round the ring.
enum class SubscriberPolicy : std::uint32_t {
  block = 0,        // the publisher may not pass it: there is no room
  lose_oldest = 1,  // it loses what the publisher drops, and is told how many messages that were
  disconnect = 2,   // its subscription is over
};

// The first line is the subscriber's: while somebody has the claim, only that lane writes there, or who recovers it.
// The second is the publisher's.
struct alignas(128) SubscriberRow {
  std::uint64_t claim;  // lane_claim.  W: subscriber (CAS), recoverer.  R: publisher
  std::uint64_t joins;  // counts the subscribers that the row has been
  // The stamp of the message that is read next: its position + 1. 0: joining or leaving, holds everything
  std::uint64_t cursor;
  std::uint32_t policy;  // SubscriberPolicy; means nothing while cursor is 0
  std::uint32_t reserved;
  std::uint64_t joined;    // position at which it began
  std::uint64_t lost;      // messages that were dropped before it had read them
  std::uint64_t received;  // messages that it has read
  std::uint64_t bytes;     // of their payload

  // The value of `joins` whose subscriber was disconnected last. W: publisher.  R: subscriber
  alignas(64) std::uint64_t disconnected;
  std::uint64_t reserved_end[7];
};
static_assert(sizeof(SubscriberRow) == 128 && offsetof(SubscriberRow, cursor) == 16);
static_assert(offsetof(SubscriberRow, joined) == 32 && offsetof(SubscriberRow, disconnected) == 64);
static_assert(std::is_trivially_copyable_v<SubscriberRow>);

/// Message slots that a subscriber's row takes the place of.
inline constexpr std::uint64_t slots_per_subscriber = sizeof(SubscriberRow) / sizeof(Message);
/// The fewest message slots of a broadcast: the rows behind them are 128-byte aligned.
inline constexpr std::uint32_t broadcast_capacity_min = 2;
inline constexpr std::uint32_t subscribers_limit = 1024;

}  // namespace sluice
