#include "tools/shm-dump/queue_watch.hpp"

#include "tools/common/format.hpp"
#include "tools/common/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace sluice::tools {

namespace {

// "0", "0.4", "12345"
std::string format_rate(double per_second) {
  return per_second > 0 && per_second < 9.95 ? fmt::format("{:.1f}", per_second)
                                             : fmt::format("{:.0f}", per_second);
}

std::string format_bytes(double per_second) {
  return format_size(static_cast<std::uint64_t>(std::llround(std::min(per_second, 9e18))));
}

// How many messages the slowest subscriber has yet to read.
std::uint64_t lag_of(const QueueEntry& queue) {
  const auto* slowest = queue.slowest();
  return slowest == nullptr ? 0 : slowest->lag;
}

TableCell state_of(const QueueEntry& queue) {
  if (!queue.broken.empty()) return {fmt::format("broken: {}", queue.broken), Tone::bad};
  if (const auto parked = queue.parked_holder(); !parked.empty())
    return {fmt::format("full: held by {}, parked", parked), Tone::bad};
  if (queue.is_full()) return {"full", Tone::bad};
  if (const auto lag = lag_of(queue); lag != 0) return {fmt::format("{} behind", lag)};
  return {queue.closed ? "closed" : std::string(to_string(queue.state))};
}

}  // namespace

void print_changes(const std::vector<QueueChange>& changes) {
  Table table({{"QUEUE"},
               {"DEPTH", Align::right},
               {"LEASED", Align::right},
               {"IN/S", Align::right},
               {"OUT/S", Align::right},
               {"BYTES IN/S", Align::right},
               {"BYTES OUT/S", Align::right},
               {"ROOM WAITS", Align::right},
               {"TAKE WAITS", Align::right},
               {"AGAIN", Align::right},
               {"LOST", Align::right},
               {"STATE"}});
  for (const auto& change : changes) {
    const auto& queue = change.now;
    const auto& grown = change.grown;
    const auto lost = grown.refused + grown.dropped + grown.dead_lettered;
    table.add({queue.name,
               fmt::format("{}/{}", queue.depth(), queue.capacity),
               queue.is_work() ? std::to_string(queue.work.leased) : "",
               format_rate(change.per_second(&QueueCounters::messages_in)),
               format_rate(change.per_second(&QueueCounters::messages_out)),
               format_bytes(change.per_second(&QueueCounters::bytes_in)),
               format_bytes(change.per_second(&QueueCounters::bytes_out)),
               grown.push_waits,
               grown.take_waits,
               grown.redelivered,
               {std::to_string(lost), lost == 0 ? Tone::plain : Tone::bad},
               state_of(queue)});
  }
  if (table.empty())
    fmt::print("no queues\n");
  else
    table.print();
}

Json changes_json(const std::vector<QueueChange>& changes) {
  auto rows = Json::array();
  for (const auto& change : changes) {
    const auto& queue = change.now;
    const auto& grown = change.grown;
    rows.push_back({{"index", queue.index},
                    {"era", queue.era},
                    {"name", queue.name},
                    {"kind", queue_kind_name(queue.kind)},
                    {"broken", queue.broken.empty() ? Json(nullptr) : Json(queue.broken)},
                    {"capacity", queue.capacity},
                    {"depth", queue.depth()},
                    {"full", queue.is_full()},
                    {"leased", queue.is_work() ? Json(queue.work.leased) : Json(nullptr)},
                    {"lag", queue.is_broadcast() ? Json(lag_of(queue)) : Json(nullptr)},
                    {"high_water", queue.high_water()},
                    {"messages_in_per_s", change.per_second(&QueueCounters::messages_in)},
                    {"messages_out_per_s", change.per_second(&QueueCounters::messages_out)},
                    {"bytes_in_per_s", change.per_second(&QueueCounters::bytes_in)},
                    {"bytes_out_per_s", change.per_second(&QueueCounters::bytes_out)},
                    {"push_waits", grown.push_waits},
                    {"take_waits", grown.take_waits},
                    {"redelivered", grown.redelivered},
                    {"refused", grown.refused},
                    {"dropped", grown.dropped},
                    {"dead_lettered", grown.dead_lettered}});
  }
  return rows;
}

}  // namespace sluice::tools
