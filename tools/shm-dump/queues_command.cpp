// `shm-dump queues`: how full each queue is, and who is at its ends.
#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/commands.hpp"
#include "tools/shm-dump/lane_table.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

// "2 of 32 subscribers, up to 5 behind"
std::string describe_subscribers(const QueueEntry& queue) {
  auto text = fmt::format("{} of {} subscribers", queue.subscribers.size(), queue.subscribers_max);
  if (queue.subscribers.empty()) return text;
  const auto slowest = std::ranges::max_element(queue.subscribers, {}, &SubscriberEntry::lag);
  return slowest->lag == 0 ? text : fmt::format("{}, up to {} behind", text, slowest->lag);
}

struct Ends {
  std::vector<LaneEntry> lanes;
  std::vector<ProcessEntry> processes;

  std::string describe(std::uint64_t claim) const { return describe_role(lanes, processes, claim); }
  std::string consumer_of(const QueueEntry& queue) const {
    if (queue.is_broadcast()) return describe_subscribers(queue);
    if (!queue.is_map()) return describe(queue.consumer);
    return queue.told == 0 ? "" : fmt::format("told to queue {}", queue.told - 1);
  }
  std::string producer_of(const QueueEntry& queue) const {
    if (!queue.is_map()) return describe(queue.producer);
    const auto row = process_claim::Row::get(queue.writer);
    if (queue.writer == 0) return "-";
    if (row >= processes.size()) return fmt::format("process row {}, which is none", row);
    return processes[row].incarnation == process_claim::Incarnation::get(queue.writer)
               ? process_name(processes[row])
               : fmt::format("process row {} (an earlier holder of it)", row);
  }
};

// "3/1024", or nothing where there is no ring yet.
std::string depth_of(const QueueEntry& queue) {
  if (queue.state != QueueState::ready) return "";
  return queue.depth() > queue.capacity && !queue.is_map()
             ? fmt::format("?/{}", queue.capacity)
             : fmt::format("{}/{}", queue.depth(), queue.capacity);
}

TableCell state_of(const QueueEntry& queue) {
  if (!queue.broken.empty()) return {fmt::format("broken: {}", queue.broken), Tone::bad};
  return {queue.closed ? "closed" : std::string(to_string(queue.state))};
}

void print_text(const std::vector<QueueEntry>& queues, const Ends& ends) {
  Table table({{"QUEUE", Align::right},
               {"NAME"},
               {"KIND"},
               {"DEPTH", Align::right},
               {"HEAD", Align::right},
               {"DELIVERED", Align::right},
               {"TAIL", Align::right},
               {"IN", Align::right},
               {"REDELIVERED", Align::right},
               {"PRODUCER"},
               {"CONSUMER"},
               {"STATE"}});
  for (const auto& queue : queues)
    table.add({queue.index, queue.name, std::string(queue_kind_name(queue.kind)), depth_of(queue), queue.head,
               queue.delivered, queue.tail, format_size(queue.bytes_in), queue.redelivered,
               ends.producer_of(queue), ends.consumer_of(queue), state_of(queue)});
  if (table.empty())
    fmt::print("no queues\n");
  else
    table.print();
}

Json role_json(std::uint64_t claim, const Ends& ends) {
  if (claim == 0) return nullptr;
  return {{"lane", lane_claim::Lane::get(claim)},
          {"incarnation", lane_claim::Incarnation::get(claim)},
          {"holder", ends.describe(claim)}};
}

// Null for a queue that has none by its kind.
Json subscribers_json(const QueueEntry& queue, const Ends& ends) {
  if (!queue.is_broadcast()) return nullptr;
  auto rows = Json::array();
  for (const auto& subscriber : queue.subscribers) {
    auto row = role_json(subscriber.claim, ends);
    row["policy"] = subscriber_policy_name(subscriber.policy);
    row["position"] = subscriber.is_joining ? Json(nullptr) : Json(subscriber.position);
    row["lag"] = subscriber.lag;
    row["lost"] = subscriber.lost;
    row["received"] = subscriber.received;
    row["disconnected"] = subscriber.is_disconnected;
    rows.push_back(std::move(row));
  }
  return rows;
}

Json to_json(const QueueEntry& queue, const Ends& ends) {
  return {{"index", queue.index},
          {"era", queue.era},
          {"name", queue.name},
          {"kind", queue_kind_name(queue.kind)},
          {"state", to_string(queue.state)},
          {"broken", queue.broken.empty() ? Json(nullptr) : Json(queue.broken)},
          {"closed", queue.closed},
          {"capacity", queue.capacity},
          {"depth", queue.depth()},
          {"head", queue.head},
          {"delivered", queue.delivered},
          {"tail", queue.tail},
          {"bytes_in", queue.bytes_in},
          {"redelivered", queue.redelivered},
          {"first_unit", queue.first_unit},
          {"units", queue.unit_count},
          {"producer", role_json(queue.producer, ends)},
          {"consumer", role_json(queue.consumer, ends)},
          {"subscribers", subscribers_json(queue, ends)},
          {"writer", queue.writer == 0 ? Json(nullptr) : Json(ends.producer_of(queue))},
          {"told_to", queue.told == 0 ? Json(nullptr) : Json(queue.told - 1)}};
}

}  // namespace

void add_queues_command(CLI::App& app) {
  auto* command = app.add_subcommand("queues", "How full each queue is, who is at its ends");
  auto options = std::make_shared<DumpOptions>();
  on_dump(*command, options, [options](const Segment& segment) {
    const auto queues = read_queue_table(segment);
    const Ends ends{read_lane_table(segment), read_process_table(segment)};
    if (options->json) {
      auto document = dump_document(segment, "queues");
      document["rows"] = segment.header().queue_count;
      auto& rows = document["queues"] = Json::array();
      for (const auto& queue : queues) rows.push_back(to_json(queue, ends));
      print_json(document);
    } else {
      print_text(queues, ends);
    }
    return ExitCode::ok;
  });
}

}  // namespace sluice::tools
