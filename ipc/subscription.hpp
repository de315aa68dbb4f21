// Who has the row of a subscriber: claiming it, naming it, giving it up, taking it over. What is read, and from where,
// is in subscriber.cpp.
//
// A row with a name is a durable subscription. It outlives its owner: given up by him, or by who recovers him, it is
// parked, and its cursor holds or loses messages as its policy says, until somebody joins under the name.
//
//   make     claim (naming) ; name ; fence ; look at the others ; claim (held) ; ... ; cursor = start
//   park     claim = PARKED(joins)
//   resume   claim: PARKED(joins) -> held
//   end      cursor = 0 ; name = 0 ; claim = 0
//
// Invariants (docs/recovery.md#durable-subscriptions, docs/decisions/0015-durable-subscriptions.md)
//   1. A durable subscription is a row that is claimed, has a name and a cursor. No two have one name.
//   2. A free row has neither name nor cursor.
//   3. A parked claim tells which of the row's subscriptions it is: who compares and swaps it read that one's name.
// Thread safety: as each says; rows are shared by all lanes.
#pragma once

#include "ipc/queues.hpp"

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>

namespace sluice {

/// Of 1 to subscription_name_max bytes, none of them zero.
bool is_subscription_name(std::string_view name) noexcept;
/// As it is in the row; empty: it has none.
std::string subscription_name(const SubscriberRow& row);
bool is_durable(const SubscriberRow& row) noexcept;
/// Why a join with that name, or without one, was refused, for people: what was found and what was expected.
std::string why_not_joined(Status status, std::string_view name);

/// A row, and its claim as it was when the name was read.
struct FoundSubscription {
  SubscriberRow* row = nullptr;
  std::uint64_t claim = 0;
  explicit operator bool() const noexcept { return row != nullptr; }
};
/// The durable subscription of that name: parked, or a lane's, which may be making or ending it at this moment.
FoundSubscription find_subscription(std::span<SubscriberRow> rows, std::string_view name) noexcept;

/// Claim a row that nobody has; null: there is none. Its cursor is 0: it holds everything.
SubscriberRow* claim_free_row(std::span<SubscriberRow> rows, std::uint64_t claim) noexcept;
/// Claim a row for a new durable subscription of that name, for a lane that claims as `self`.
/// errors  exhausted; busy  another lane has made or is making it. It holds nothing then
std::expected<SubscriberRow*, Status> claim_new_name(std::span<SubscriberRow> rows, std::uint64_t self,
                                                     std::string_view name) noexcept;
/// Take a parked subscription over.  errors  busy  somebody else did, or has it
Status claim_parked(const FoundSubscription& found, std::uint64_t self) noexcept;

/// End the subscription and free the row. By who has the claim.
void free_row(SubscriberRow& row) noexcept;
/// Give up a row that is the claimant's, by himself or by who recovers him: a durable subscription is parked,
/// everything else is freed.  false: it is not his
bool give_subscription(SubscriberRow& row, std::uint64_t claim) noexcept;

/// End a durable subscription that is parked, and forget its name. A publisher that it held up is woken.
///
/// errors   not_found; busy  a lane has it; bad_argument  the queue is no broadcast, or that is no name
///          stale  the queue is gone; corrupt
/// threads  the lane's; O(subscribers_max)
Status unsubscribe(Lane& lane, QueueId queue, std::string_view name) noexcept;

}  // namespace sluice
