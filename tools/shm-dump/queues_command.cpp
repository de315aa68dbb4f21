// `shm-dump queues`: how full each queue is, and who is at its ends; all of one; how fast they go.
#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/commands.hpp"
#include "tools/shm-dump/queue_detail.hpp"
#include "tools/shm-dump/queue_ends.hpp"
#include "tools/shm-dump/queue_json.hpp"
#include "tools/shm-dump/queue_watch.hpp"
#include "tools/shm-dump/watch.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace sluice::tools {

namespace {

struct QueuesOptions {
  DumpOptions dump;
  WatchOptions watch;
  std::string name;  // empty: all
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
  if (queue.work.unreadable != 0)
    return {fmt::format("{} slots unreadable", queue.work.unreadable), Tone::bad};
  if (const auto parked = queue.parked_holder(); !parked.empty())
    return {fmt::format("full: held by {}, parked", parked), Tone::bad};
  if (queue.is_full())
    return {queue.is_work() && queue.depth() < queue.capacity
                ? fmt::format("full: held at @{}", queue.work.oldest.position)
                : "full",
            Tone::bad};
  if (queue.work.parked != 0) return {fmt::format("{} parked", queue.work.parked), Tone::bad};
  return {queue.closed ? "closed" : std::string(to_string(queue.state))};
}

void print_table(const QueueView& view) {
  Table table({{"#", Align::right},
               {"NAME"},
               {"KIND"},
               {"DEPTH", Align::right},
               {"HIGH", Align::right},
               {"IN", Align::right},
               {"OUT", Align::right},
               {"AGAIN", Align::right},
               {"LOST", Align::right},
               {"PRODUCER"},
               {"CONSUMER"},
               {"STATE"}});
  for (const auto& queue : view.queues) {
    const auto& counters = queue.counters;
    const auto lost = counters.refused + counters.dropped + counters.dead_lettered;
    const auto count = [&](std::uint64_t value) { return queue.is_map() ? "" : std::to_string(value); };
    table.add({queue.index,
               queue.name,
               std::string(queue_kind_name(queue.kind)),
               depth_of(queue),
               queue.is_broadcast() ? "" : count(queue.high_water()),
               count(counters.messages_in),
               count(counters.messages_out),
               count(counters.redelivered),
               {count(lost), lost == 0 ? Tone::plain : Tone::bad},
               view.producer_of(queue),
               view.consumer_of(queue),
               state_of(queue)});
  }
  if (table.empty())
    fmt::print("no queues\n");
  else
    table.print();
}

bool is_wanted(const QueueEntry& queue, const std::string& name) {
  return name.empty() || queue.name == name;
}

// One line: which name was asked for, and which there are.
ExitCode report_missing(const QueuesOptions& options, const std::vector<QueueEntry>& queues) {
  constexpr std::size_t names_listed = 10;
  std::vector<std::string> names;
  for (const auto& queue : queues)
    if (!queue.name.empty() && names.size() <= names_listed) names.push_back(queue.name);
  if (names.size() > names_listed) names.back() = "…";
  print_error(fmt::format(
      "{}: no queue is called '{}', expected {}", options.dump.path, options.name,
      names.empty() ? "none: there are no queues" : fmt::format("one of {}", fmt::join(names, ", "))));
  return ExitCode::not_found;
}

void print_document(const Segment& segment, const QueueView& view, const QueuesOptions& options) {
  auto document = dump_document(segment, "queues");
  document["rows"] = segment.header().queue_count;
  auto& rows = document["queues"] = Json::array();
  for (const auto& queue : view.queues)
    if (is_wanted(queue, options.name)) rows.push_back(queue_json(queue, view));
  print_json(document);
}

std::vector<QueueEntry> wanted_queues(const Segment& segment, const std::string& name) {
  auto queues = read_queue_table(segment);
  std::erase_if(queues, [&](const QueueEntry& queue) { return !is_wanted(queue, name); });
  return queues;
}

ExitCode watch_queues(const Segment& segment, const QueuesOptions& options) {
  auto before = wanted_queues(segment, options.name);
  const bool json = options.dump.json;
  return watch(options.watch, json, [&](std::uint64_t number, double seconds) {
    auto now = wanted_queues(segment, options.name);
    const auto changes = compare_looks(before, now, seconds);
    if (json) {
      auto document = dump_document(segment, "queues-watch");
      document["round"] = number;
      document["seconds"] = seconds;
      document["queues"] = changes_json(changes);
      print_json_line(document);
    } else {
      const auto time = static_cast<std::uint64_t>(
          std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count());
      fmt::print("{}  {}, the last {:.3g} s\n", escape_controls(segment.path()), format_local_time(time),
                 seconds);
      print_changes(changes);
    }
    before = std::move(now);
  });
}

ExitCode show_queues(const Segment& segment, const QueuesOptions& options) {
  const auto view = QueueView::read(segment);
  const auto found = std::ranges::find_if(
      view.queues, [&](const QueueEntry& queue) { return is_wanted(queue, options.name); });
  if (!options.name.empty() && found == view.queues.end()) return report_missing(options, view.queues);
  if (options.watch.is_on()) return watch_queues(segment, options);
  if (options.dump.json)
    print_document(segment, view, options);
  else if (!options.name.empty())
    print_queue_detail(segment, *found, view);
  else
    print_table(view);
  return ExitCode::ok;
}

}  // namespace

void add_queues_command(CLI::App& app) {
  auto* command =
      app.add_subcommand("queues", "How full each queue is, who is at its ends, how fast it goes");
  auto options = std::make_shared<QueuesOptions>();
  const std::shared_ptr<DumpOptions> dump(options, &options->dump);
  on_dump(*command, dump, [options](const Segment& segment) { return show_queues(segment, *options); });
  command->add_option("NAME", options->name, "All of one queue");
  add_watch_options(*command, std::shared_ptr<WatchOptions>(options, &options->watch));
}

}  // namespace sluice::tools
