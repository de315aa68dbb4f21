#include "ipc/subscription_audit.hpp"

#include "ipc/subscription.hpp"

#include <fmt/format.h>

#include <map>

namespace sluice {

namespace {

bool names_a_live_lane(const Segment& segment, std::uint64_t claim) noexcept {
  const auto lane = lane_claim::Lane::get(claim);
  if (lane == 0 || lane >= segment.header().lane_count) return false;
  const auto now = load(segment.lane_row(lane).word, acquire);
  return lane_word::Active::get(now) != 0 &&
         lane_word::Incarnation::get(now) == lane_claim::Incarnation::get(claim);
}

// What is wrong with the claim, or "".
std::string claim_fault(const Segment& segment, const SubscriberRow& row, std::uint64_t claim) {
  const auto state = subscriber_claim::state(claim);
  if (state != ClaimState::parked)
    return names_a_live_lane(segment, subscriber_claim::owner(claim))
               ? ""
               : fmt::format("is lane {} in an incarnation that is over", lane_claim::Lane::get(claim));
  const auto cursor = load(row.cursor, acquire);
  if (const auto joins = load(row.joins, acquire); claim != subscriber_claim::parked(joins))
    return fmt::format("is parked as {:#x}, expected {:#x}", claim, subscriber_claim::parked(joins));
  if (!is_durable(row)) return "is parked without a name";
  return cursor == 0 ? "is parked without a cursor" : "";
}

// What is wrong with policy and cursor, or "". Floor before cursor, cursor before tail: each only grows.
std::string cursor_fault(const QueueRow& queue, const StreamRing& ring, const SubscriberRow& row,
                         std::uint64_t claim, std::uint64_t floor) {
  const auto cursor = load(row.cursor, acquire);
  const auto policy = load(row.policy, relaxed);
  if (cursor == 0) return "";  // joining or leaving
  const bool is_parked = subscriber_claim::state(claim) == ClaimState::parked;
  const auto policy_max = is_parked || !is_durable(row)
                              ? SubscriberPolicy::disconnect  // a lane must be there
                              : SubscriberPolicy::settling;
  if (policy > static_cast<std::uint32_t>(policy_max))
    return fmt::format("has policy {}, expected at most {}", policy, static_cast<std::uint32_t>(policy_max));
  if (policy == static_cast<std::uint32_t>(SubscriberPolicy::block) && cursor - 1 < floor)
    return fmt::format("is at {}, and floor {} has passed it", cursor - 1, floor);
  if (const auto tail = pushed_messages(ring, queue); cursor - 1 > tail)
    return fmt::format("is at {}, tail {}", cursor - 1, tail);
  return "";
}

}  // namespace

void audit_subscribers(const Segment& segment, std::uint32_t index, const StreamRing& ring,
                       const std::function<void(std::string)>& violation) {
  const auto& queue = queue_row(segment, index);
  const auto floor = load(queue.head, acquire);
  std::map<std::string, std::size_t> names;
  for (std::size_t i = 0; i < ring.subscribers.size(); ++i) {
    const auto& row = ring.subscribers[i];
    const auto claim = load(row.claim, acquire);
    if (claim == 0) continue;
    const auto tell = [&](const std::string& what) {
      if (!what.empty()) violation(fmt::format("broadcast {}: subscriber {} {}", index, i, what));
    };
    tell(claim_fault(segment, row, claim));
    tell(cursor_fault(queue, ring, row, claim, floor));
    if (!is_durable(row) || load(row.cursor, acquire) == 0) continue;
    const auto name = subscription_name(row);
    if (const auto [other, is_new] = names.emplace(name, i); !is_new)
      tell(fmt::format("has the name \"{}\" of subscriber {}", name, other->second));
  }
}

}  // namespace sluice
