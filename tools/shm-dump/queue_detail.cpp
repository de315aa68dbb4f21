#include "tools/shm-dump/queue_detail.hpp"

#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/block_holders.hpp"
#include "tools/shm-dump/queue_sizing.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace sluice::tools {

namespace {

constexpr std::size_t messages_listed = 20;

std::string describe_kind(const QueueEntry& queue) {
  return fmt::format("{} of {} {}, units {} to {}", queue_kind_name(queue.kind), queue.capacity,
                     queue.is_map() ? "pages" : "messages", queue.first_unit,
                     std::uint64_t{queue.first_unit} + std::max(queue.unit_count, 1U) - 1);
}

std::string describe_depth(const QueueEntry& queue) {
  auto text = fmt::format("{} of {}", queue.depth(), queue.capacity);
  if (queue.is_map()) return text;
  if (queue.is_broadcast())
    return text + fmt::format(" are kept, positions {} to {}", queue.head, queue.tail);
  if (!queue.is_work()) {
    const auto shown = queue.delivered - std::min(queue.head, queue.delivered);
    return text + fmt::format(": {} shown to its consumer, head {}, tail {}", shown, queue.head, queue.tail);
  }
  const auto& work = queue.work;
  text += fmt::format(": {} waiting", work.waiting);
  if (work.parked != 0) text += fmt::format(" ({} parked)", work.parked);
  return text + fmt::format(", {} leased, {} being written", work.leased, work.writing);
}

TableCell describe_state(const QueueEntry& queue, const QueueView& view) {
  if (!queue.broken.empty()) return {fmt::format("broken: {}", queue.broken), Tone::bad};
  auto text = queue.closed ? "closed" : std::string(to_string(queue.state));
  if (queue.work.unreadable != 0)
    return {fmt::format("{}, {} slots cannot be read: `check` tells", text, queue.work.unreadable),
            Tone::bad};
  if (const auto holdup = view.holdup_of(queue); !holdup.empty())
    return {queue.is_broadcast()
                ? fmt::format("{}, full: held up by {}", text, holdup)
                : fmt::format("{}, full: {}, and the ring has gone round to it", text, holdup),
            Tone::bad};
  return queue.is_full() ? TableCell(text + ", full", Tone::bad) : TableCell(text);
}

std::string age_of_message(const Segment& segment, std::uint64_t receive_ns) {
  const auto age = received_ago(segment, receive_ns);
  return age ? format_duration(*age) : "";
}

std::string describe_oldest(const Segment& segment, const WorkSlot& slot) {
  const auto age = age_of_message(segment, slot.receive_ns);
  return fmt::format("@{}{}", slot.position, age.empty() ? "" : fmt::format(", received {} ago", age));
}

void add_limit(const QueueEntry& queue, const QueueView& view, Fields& fields) {
  if (queue.deliveries_max == 0 && queue.dead_letter == 0) return fields.add("limit", "none");
  fields.add("limit",
             fmt::format("{} deliveries, then to {}", queue.deliveries_max,
                         queue.dead_letter == 0 ? "nowhere" : view.queue_title(queue.dead_letter - 1)));
}

// For each that sleeps: what for, and who.
void add_sleepers(const QueueView& view, const std::string& what, std::uint64_t marks, Fields& fields) {
  std::vector<std::string> lanes;
  for (const auto lane : view.asleep(marks)) lanes.push_back(view.lane_title(lane));
  if (!lanes.empty()) fields.add(what, fmt::format("{}", fmt::join(lanes, ", ")));
}

void add_counters(const QueueEntry& queue, Fields& fields) {
  const auto& counters = queue.counters;
  if (!queue.is_broadcast())
    fields.add("high water", fmt::format("{} of {}", queue.high_water(), queue.capacity));
  fields.add("in", fmt::format("{} messages, {}", counters.messages_in, format_size(counters.bytes_in)));
  fields.add("out", fmt::format("{} messages, {}", counters.messages_out, format_size(counters.bytes_out)));
  fields.add("waits", fmt::format("{} for room, {} for a message", counters.push_waits, counters.take_waits));
  fields.add("redelivered", counters.redelivered);
  fields.add("lost", fmt::format("{} refused, {} dropped, {} dead letters", counters.refused,
                                 counters.dropped, counters.dead_lettered));
}

std::string_view state_of(const SubscriberEntry& subscriber) {
  if (subscriber.is_disconnected) return "disconnected";
  if (subscriber.is_parked) return "parked";
  return subscriber.is_joining ? "joins or leaves" : "reads";
}

void print_subscribers(const QueueEntry& queue, const QueueView& view) {
  if (queue.subscribers.empty()) return;
  Table table({{"SUBSCRIBER"},
               {"POLICY"},
               {"NEXT", Align::right},
               {"BEHIND", Align::right},
               {"READ", Align::right},
               {"AGAIN", Align::right},
               {"LOST", Align::right},
               {"STATE"}});
  for (const auto& subscriber : queue.subscribers) {
    const bool is_served = view.is_served(lane_claim::Lane::get(subscriber.claim));
    const bool is_bad = subscriber.is_disconnected || &subscriber == queue.holder();
    table.add({{view.subscriber_title(subscriber), is_served ? Tone::plain : Tone::bad},
               std::string(subscriber_policy_name(subscriber.policy)),
               subscriber.is_joining ? "" : fmt::format("@{}", subscriber.position),
               subscriber.lag,
               subscriber.received,
               subscriber.redelivered,
               {std::to_string(subscriber.lost), subscriber.lost == 0 ? Tone::plain : Tone::bad},
               {std::string(state_of(subscriber)), is_bad ? Tone::bad : Tone::plain}});
  }
  fmt::print("\n");
  table.print();
}

void print_leases(const Segment& segment, const QueueEntry& queue, const QueueView& view) {
  if (queue.work.leases.empty()) return;
  Table table({{"LEASED BY"},
               {"LEASES", Align::right},
               {"OLDEST", Align::right},
               {"DELIVERED BEFORE", Align::right},
               {"RECEIVED AGO", Align::right}});
  for (const auto& lease : queue.work.leases)
    table.add({{view.lane_title(lease.lane), view.is_served(lease.lane) ? Tone::plain : Tone::bad},
               lease.count,
               fmt::format("@{}", lease.oldest.position),
               lease.oldest.deliveries,
               age_of_message(segment, lease.oldest.receive_ns)});
  fmt::print("\n");
  table.print();
}

void print_redelivered(const Segment& segment, const QueueEntry& queue, const QueueView& view) {
  const auto& messages = queue.work.redelivered;
  if (messages.empty()) return;
  Table table({{"MESSAGE", Align::right},
               {"DELIVERED BEFORE", Align::right},
               {"BLOCK"},
               {"BYTES", Align::right},
               {"RECEIVED AGO", Align::right},
               {"NOW"}});
  for (std::size_t i = 0; i < std::min(messages.size(), messages_listed); ++i) {
    const auto& slot = messages[i];
    const bool is_parked = queue.deliveries_max != 0 && slot.deliveries >= queue.deliveries_max;
    table.add({fmt::format("@{}", slot.position), slot.deliveries,
               slot.handle == 0 ? "-" : format_handle(slot.handle), slot.bytes,
               age_of_message(segment, slot.receive_ns),
               slot.state == WorkState::leased ? fmt::format("leased by {}", view.lane_title(slot.lane))
               : is_parked                     ? "parked"
                                               : "waits"});
  }
  fmt::print("\n");
  table.print();
  if (messages.size() > messages_listed)
    fmt::print("… and {} more (--json lists them)\n", messages.size() - messages_listed);
}

}  // namespace

void print_queue_detail(const Segment& segment, const QueueEntry& queue, const QueueView& view) {
  Fields fields;
  fields.add("queue", fmt::format("{}: {}", queue.index, queue.name));
  fields.add("state", describe_state(queue, view));
  if (queue.state == QueueState::ready) {
    fields.add("kind", describe_kind(queue));
    if (!queue.is_map()) fields.add("policy", std::string(queue_policy_name(queue.policy)));
    if (queue.is_work()) {
      add_limit(queue, view, fields);
    } else if (queue.is_map()) {
      fields.add("writer", view.writer_of(queue));
      fields.add("told to", queue.told == 0 ? "-" : view.queue_title(queue.told - 1));
    } else {
      fields.add("producer", view.describe(queue.producer));
      fields.add("consumer", queue.is_broadcast() ? view.consumer_of(queue) : view.describe(queue.consumer));
    }
    if (queue.broken.empty()) {
      fields.add("depth", describe_depth(queue));
      if (queue.work.waiting != 0) fields.add("oldest", describe_oldest(segment, queue.work.oldest_waiting));
      if (!queue.is_map()) add_counters(queue, fields);
      add_sleepers(view, "asleep for room", queue.producers_waiting, fields);
      add_sleepers(view, "asleep for more", queue.consumers_waiting, fields);
      if (const auto sizing = sizing_of(queue); !sizing.advice.empty()) fields.add("sizing", sizing.advice);
    }
  }
  fields.print();
  print_subscribers(queue, view);
  print_leases(segment, queue, view);
  print_redelivered(segment, queue, view);
}

}  // namespace sluice::tools
