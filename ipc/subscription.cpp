#include "ipc/subscription.hpp"

#include "ipc/message_ring.hpp"
#include "shm/crash_point.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace sluice {

namespace {

using Name = std::array<std::uint64_t, sizeof(SubscriberRow::name) / sizeof(std::uint64_t)>;

Name to_words(std::string_view name) noexcept {
  Name words{};
  std::memcpy(words.data(), name.data(), std::min(name.size(), subscription_name_max));
  return words;
}

// The first word decides: who finds it finds the others.
Name load_name(const SubscriberRow& row) noexcept {
  Name words{};
  words[0] = load(row.name[0], acquire);  // B14 <- B13 (store_name)
  for (std::size_t i = 1; i < words.size() && words[0] != 0; ++i) words[i] = load(row.name[i], relaxed);
  return words;
}

void store_name(SubscriberRow& row, const Name& words) noexcept {
  for (std::size_t i = words.size(); --i != 0;) store(row.name[i], words[i], relaxed);
  store(row.name[0], words[0], release);  // B13 -> B14 (load_name)
}

bool is_taken(ClaimState state) noexcept { return state == ClaimState::held || state == ClaimState::parked; }

// Of those that make one name at once the lowest row wins, unless a higher one had won before it came. Who is
// higher gives way by itself; who is lower takes the claim of the higher out of naming, or finds that it came too
// late.
bool win_name(std::span<SubscriberRow> rows, SubscriberRow& mine, std::uint64_t self,
              const Name& name) noexcept {
  std::atomic_thread_fence(
      seq_cst);  // B15 <-> B15: of two that make one name, at least one finds the other's
  for (auto& other : rows) {
    auto claim = load(other.claim, acquire);
    while (&other != &mine && claim != 0 && load_name(other) == name) {
      if (is_taken(subscriber_claim::state(claim))) return false;
      if (subscriber_claim::state(claim) == ClaimState::beaten) break;
      if (&other < &mine) return false;
      if (cas(other.claim, claim, subscriber_claim::make(ClaimState::beaten, subscriber_claim::owner(claim)),
              acq_rel)) {
        crash_point("broadcast.join.beaten");
        break;
      }
    }
  }
  crash_point("broadcast.join.looked");
  auto naming = subscriber_claim::make(ClaimState::naming, self);
  return cas(mine.claim, naming, self, acq_rel);
}

}  // namespace

bool is_subscription_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= subscription_name_max && name.find('\0') == std::string_view::npos;
}

std::string subscription_name(const SubscriberRow& row) {
  const auto words = load_name(row);
  const auto* text = reinterpret_cast<const char*>(words.data());
  return {text, strnlen(text, subscription_name_max)};
}

bool is_durable(const SubscriberRow& row) noexcept { return load(row.name[0], acquire) != 0; }

std::string why_not_joined(Status status, std::string_view name) {
  if (!name.empty() && !is_subscription_name(name))
    return fmt::format("found a subscription's name of {} bytes, expected 1 to {}, none of them 0",
                       name.size(), subscription_name_max);
  if (status == Status::busy) return fmt::format("another lane has the subscription \"{}\"", name);
  if (status == Status::incompatible)
    return fmt::format("found a segment of layout {}.{}, expected {}.{} for a subscription with a name",
                       layout_major, layout_minor_of_names - 1, layout_major, layout_minor_of_names);
  return std::string(to_string(status));
}

FoundSubscription find_subscription(std::span<SubscriberRow> rows, std::string_view name) noexcept {
  const auto words = to_words(name);
  for (auto& row : rows) {
    const auto claim = load(row.claim, acquire);  // B12 <- B11 (give_subscription)
    if (claim != 0 && is_taken(subscriber_claim::state(claim)) && load_name(row) == words)
      return {&row, claim};
  }
  return {};
}

SubscriberRow* claim_free_row(std::span<SubscriberRow> rows, std::uint64_t claim) noexcept {
  for (auto& row : rows) {
    std::uint64_t nobody = 0;
    if (load(row.claim, relaxed) != 0 || !cas(row.claim, nobody, claim, acq_rel))
      continue;                             // B4 <- B3 (free_row): its cursor is 0
    crash_point("broadcast.join.claimed");  // recovery: it holds everything until the row is freed
    return &row;
  }
  return nullptr;
}

std::expected<SubscriberRow*, Status> claim_new_name(std::span<SubscriberRow> rows, std::uint64_t self,
                                                     std::string_view name) noexcept {
  auto* row = claim_free_row(rows, subscriber_claim::make(ClaimState::naming, self));
  if (row == nullptr) return std::unexpected(Status::exhausted);
  const auto words = to_words(name);
  store_name(*row, words);
  crash_point("broadcast.join.named");  // recovery: without a cursor it is nothing yet, the row is freed
  if (!win_name(rows, *row, self, words)) {
    free_row(*row);
    return std::unexpected(Status::busy);
  }
  crash_point("broadcast.join.won");
  return row;
}

Status claim_parked(const FoundSubscription& found, std::uint64_t self) noexcept {
  auto claim = found.claim;
  if (subscriber_claim::state(claim) != ClaimState::parked) return Status::busy;
  if (!cas(found.row->claim, claim, self, acq_rel)) return Status::busy;  // B12 <- B11 (give_subscription)
  crash_point("broadcast.resume.claimed");                                // recovery: parked again, as it was
  return Status::ok;
}

void free_row(SubscriberRow& row) noexcept {
  store(row.cursor, 0, release);  // who claims the row holds everything from the first
  crash_point("broadcast.leave.holding");
  if (is_durable(row)) {
    store(row.name[0], 0, release);
    crash_point("broadcast.leave.unnamed");
  }
  store(row.claim, 0, release);  // B3 -> B4 (claim_free_row): with the cursor at 0, and no name
  crash_point("broadcast.leave.left");
}

bool give_subscription(SubscriberRow& row, std::uint64_t claim) noexcept {
  const auto found = load(row.claim, acquire);
  if (subscriber_claim::state(found) == ClaimState::parked || subscriber_claim::owner(found) != claim)
    return false;
  if (!is_durable(row) || load(row.cursor, relaxed) == 0) {
    free_row(row);
    return true;
  }
  // Its owner died while he changed the policy. The cursor may be below the floor: only one that loses may be there.
  if (load(row.policy, relaxed) == static_cast<std::uint32_t>(SubscriberPolicy::settling)) {
    store(row.policy, static_cast<std::uint32_t>(SubscriberPolicy::lose_oldest), release);
    crash_point("broadcast.park.settled");
  }
  // B11 -> B12 (find_subscription, claim_parked): cursor and what was shown precede it
  store(row.claim, subscriber_claim::parked(load(row.joins, relaxed)), release);
  crash_point("broadcast.park.parked");
  return true;
}

Status unsubscribe(Lane& lane, QueueId queue, std::string_view name) noexcept {
  if (!is_subscription_name(name)) return Status::bad_argument;
  const auto end = RingEnd::open(lane, queue, QueueKind::broadcast);
  if (!end) return end.error();
  const auto ring = sound_ring(lane.segment(), *end->row);
  if (!ring) return Status::corrupt;
  const auto found = find_subscription(ring->subscribers, name);
  if (!found) return Status::not_found;
  // Killed in between, it is parked again.
  if (const auto status = claim_parked(found, lane_claim::make(lane.id(), lane.incarnation()));
      status != Status::ok)
    return status;
  free_row(*found.row);
  ring_role(lane.segment(), end->row->producer);
  return Status::ok;
}

}  // namespace sluice
