#include "tools/shm-dump/queue_json.hpp"

#include "tools/common/format.hpp"
#include "tools/shm-dump/queue_sizing.hpp"

namespace sluice::tools {

namespace {

Json role_json(std::uint64_t claim, const QueueView& view) {
  if (claim == 0) return nullptr;
  return {{"lane", lane_claim::Lane::get(claim)},
          {"incarnation", lane_claim::Incarnation::get(claim)},
          {"holder", view.describe(claim)}};
}

// Null for a queue that has none by its kind.
Json subscribers_json(const QueueEntry& queue, const QueueView& view) {
  if (!queue.is_broadcast()) return nullptr;
  auto rows = Json::array();
  for (const auto& subscriber : queue.subscribers) {
    Json row = subscriber.is_parked ? Json{{"lane", nullptr}, {"incarnation", nullptr}, {"holder", nullptr}}
                                    : role_json(subscriber.claim, view);
    row["name"] = subscriber.name.empty() ? Json(nullptr) : Json(subscriber.name);
    row["parked"] = subscriber.is_parked;
    row["policy"] = subscriber_policy_name(subscriber.policy);
    row["position"] = subscriber.is_joining ? Json(nullptr) : Json(subscriber.position);
    row["lag"] = subscriber.lag;
    row["lost"] = subscriber.lost;
    row["received"] = subscriber.received;
    row["redelivered"] = subscriber.redelivered;
    row["disconnected"] = subscriber.is_disconnected;
    rows.push_back(std::move(row));
  }
  return rows;
}

// Of a broadcast; that of a work queue is among what it has beside.
Json holdup_json(const QueueEntry& queue, const QueueView& view) {
  const auto holdup = queue.is_broadcast() ? view.holdup_of(queue) : "";
  return holdup.empty() ? Json(nullptr) : Json(holdup);
}

Json counters_json(const QueueEntry& queue) {
  const auto& counters = queue.counters;
  return {{"messages_in", counters.messages_in},
          {"messages_out", counters.messages_out},
          {"bytes_in", counters.bytes_in},
          {"bytes_out", counters.bytes_out},
          {"high_water", queue.high_water()},
          {"push_waits", counters.push_waits},
          {"take_waits", counters.take_waits},
          {"redelivered", counters.redelivered},
          {"refused", counters.refused},
          {"dropped", counters.dropped},
          {"dead_lettered", counters.dead_lettered}};
}

Json slot_json(const WorkSlot& slot) {
  return {{"position", slot.position},
          {"leased_by", slot.state == WorkState::leased ? Json(slot.lane) : Json(nullptr)},
          {"deliveries", slot.deliveries},
          {"handle", slot.handle == 0 ? Json(nullptr) : Json(format_handle(slot.handle))},
          {"bytes", slot.bytes}};
}

Json work_json(const QueueEntry& queue, const QueueView& view) {
  if (!queue.is_work()) return nullptr;
  const auto& work = queue.work;
  Json document = {{"waiting", work.waiting},   {"leased", work.leased},
                   {"writing", work.writing},   {"parked", work.parked},
                   {"span", work.span},         {"unreadable", work.unreadable},
                   {"oldest_waiting", nullptr}, {"deliveries_max", queue.deliveries_max},
                   {"dead_letter", nullptr}};
  const auto holdup = view.holdup_of(queue);
  document["held_up_by"] = holdup.empty() ? Json(nullptr) : Json(holdup);
  if (work.waiting != 0) document["oldest_waiting"] = work.oldest_waiting.position;
  if (queue.dead_letter != 0)
    document["dead_letter"] = {{"queue", queue.dead_letter - 1},
                               {"name", view.queue_title(queue.dead_letter - 1)}};
  auto& leases = document["leases"] = Json::array();
  for (const auto& lease : work.leases)
    leases.push_back({{"lane", lease.lane},
                      {"holder", view.lane_title(lease.lane)},
                      {"count", lease.count},
                      {"oldest", slot_json(lease.oldest)}});
  auto& redelivered = document["delivered_before"] = Json::array();
  for (const auto& slot : work.redelivered) redelivered.push_back(slot_json(slot));
  return document;
}

Json sizing_json(const QueueEntry& queue) {
  const auto sizing = sizing_of(queue);
  if (sizing.advice.empty()) return nullptr;
  return {{"advice", sizing.advice},
          {"capacity", sizing.capacity == 0 ? Json(nullptr) : Json(sizing.capacity)}};
}

}  // namespace

Json queue_json(const QueueEntry& queue, const QueueView& view) {
  return {{"index", queue.index},
          {"era", queue.era},
          {"name", queue.name},
          {"kind", queue_kind_name(queue.kind)},
          {"state", to_string(queue.state)},
          {"broken", queue.broken.empty() ? Json(nullptr) : Json(queue.broken)},
          {"closed", queue.closed},
          {"capacity", queue.capacity},
          {"depth", queue.depth()},
          {"full", queue.is_full()},
          {"head", queue.head},
          {"delivered", queue.is_work() ? Json(nullptr) : Json(queue.delivered)},
          {"tail", queue.tail},
          {"bytes_in", queue.counters.bytes_in},
          {"redelivered", queue.counters.redelivered},
          {"first_unit", queue.first_unit},
          {"units", queue.unit_count},
          {"producer", role_json(queue.producer, view)},
          {"consumer", role_json(queue.consumer, view)},
          {"subscribers", subscribers_json(queue, view)},
          {"held_up_by", holdup_json(queue, view)},
          {"writer", queue.writer == 0 ? Json(nullptr) : Json(view.writer_of(queue))},
          {"told_to", queue.told == 0 ? Json(nullptr) : Json(queue.told - 1)},
          {"policy", queue.is_map() ? Json(nullptr) : Json(queue_policy_name(queue.policy))},
          {"counters", queue.is_map() ? Json(nullptr) : counters_json(queue)},
          {"asleep",
           {{"for_room", view.asleep(queue.producers_waiting)},
            {"for_messages", view.asleep(queue.consumers_waiting)}}},
          {"work", work_json(queue, view)},
          {"sizing", sizing_json(queue)}};
}

}  // namespace sluice::tools
