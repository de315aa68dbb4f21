#include "tools/shm-dump/queue_sizing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace sluice::tools {

namespace {

// A ring of fewer messages saves nothing: 16 are a kilobyte of the unit that it has anyway.
constexpr std::uint64_t capacity_least = 16;
// A stream's depth is looked at about once a round: fewer looks say little.
constexpr std::uint64_t rounds_least = 16;

Sizing larger(const QueueEntry& queue) {
  const auto& counters = queue.counters;
  std::string advice = "was full";
  if (const auto times = counters.push_waits + counters.refused + counters.dropped; times != 0)
    advice += fmt::format(" {} time{} ({} waits, {} refused, {} dropped)", times, times == 1 ? "" : "s",
                          counters.push_waits, counters.refused, counters.dropped);
  if (queue.capacity >= queue_capacity_max)
    return {0, advice + ": faster consumers, there is no larger capacity"};
  const auto capacity = 2 * std::uint64_t{queue.capacity};
  return {capacity, fmt::format("{}: larger, {} or more, or faster consumers", advice, capacity)};
}

}  // namespace

Sizing sizing_of(const QueueEntry& queue) {
  if (queue.state != QueueState::ready || !queue.broken.empty() || queue.is_map()) return {};
  const auto& counters = queue.counters;
  const auto seen = queue.high_water();
  if (seen > queue.capacity)
    return {0, fmt::format("high water {} of {} cannot be: no advice", seen, queue.capacity)};
  if (queue.is_work() && queue.is_full() && queue.depth() < queue.capacity)
    return {
        0, fmt::format("full for one message, @{}, that is held for long: larger only if that is meant to be",
                       queue.work.oldest.position)};
  if ((seen == queue.capacity && !queue.is_broadcast()) ||
      counters.push_waits + counters.refused + counters.dropped != 0)
    return larger(queue);
  if (queue.is_broadcast()) return {};  // as full as can be: old messages stay until their slots are needed
  if (counters.messages_in / rounds_least < queue.capacity)
    return {0, fmt::format("{} messages so far, less than {} rounds: too few to say", counters.messages_in,
                           rounds_least)};
  if (seen == 0) return {0, "nobody counted its high water: no advice"};
  // Of work the depth is looked at from time to time, and a lease that lasts keeps the ring from going round.
  const auto most = queue.is_work() ? std::max(seen + high_water_step - 1, queue.work.span) : seen;
  const auto enough = std::max(capacity_least, std::bit_ceil(2 * most));
  if (enough >= queue.capacity) return {0, fmt::format("high water {} of {}: it fits", seen, queue.capacity)};
  return {enough, fmt::format("high water {} of {}: capacity could be {}", seen, queue.capacity, enough)};
}

}  // namespace sluice::tools
