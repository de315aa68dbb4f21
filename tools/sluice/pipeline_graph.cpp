#include "tools/sluice/pipeline_graph.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

namespace sluice::tools {

namespace {

template <class... Arguments>
std::unexpected<Error> wrong(const std::string& place, fmt::format_string<Arguments...> format,
                             Arguments&&... arguments) {
  return fail(Status::bad_argument, fmt::format("{}{}{}", place, place.empty() ? "" : ": ",
                                                fmt::format(format, std::forward<Arguments>(arguments)...)));
}

QueueKind kind_of(const std::string& word) {
  if (word == "work") return QueueKind::work;
  return word == "broadcast" ? QueueKind::broadcast : QueueKind::stream;
}

QueuePolicy policy_of(const std::optional<std::string>& word) {
  if (word == "fail") return QueuePolicy::fail;
  return word == "drop-oldest" ? QueuePolicy::drop_oldest : QueuePolicy::block;
}

SubscriberPolicy lagging_of(const std::optional<std::string>& word) {
  if (word == "lose-oldest") return SubscriberPolicy::lose_oldest;
  return word == "disconnect" ? SubscriberPolicy::disconnect : SubscriberPolicy::block;
}

std::string_view word_of(QueueKind kind) {
  if (kind == QueueKind::work) return "work queue";
  return kind == QueueKind::broadcast ? "broadcast" : "stream";
}

// The checks in the order in which what they find is worth saying.
class Planner {
 public:
  explicit Planner(const Topology& topology) : topology_(topology) {}

  Expected<PipelinePlan> plan() {
    for (const auto step :
         {&Planner::take_queues, &Planner::take_stages, &Planner::connect_dead_letters, &Planner::check_names,
          &Planner::check_owners, &Planner::check_cycles, &Planner::check_order, &Planner::check_sinks})
      if (auto done = (this->*step)(); !done) return std::unexpected(done.error());
    return std::move(plan_);
  }

 private:
  Expected<void> take_queues();
  Expected<void> take_stages();
  Expected<void> connect_dead_letters();
  Expected<void> check_names();
  Expected<void> check_owners();
  Expected<void> check_queue(std::size_t queue);
  Expected<void> check_cycles();
  Expected<void> check_order();
  Expected<void> check_sinks();

  std::optional<std::size_t> find(const std::string& name) const {
    const auto found = std::ranges::find(plan_.queues, name, &QueuePlan::name);
    if (found == plan_.queues.end()) return std::nullopt;
    return static_cast<std::size_t>(found - plan_.queues.begin());
  }
  std::string known() const {
    if (plan_.queues.empty()) return "and there is no [[queue]]";
    std::vector<std::string> names;
    for (const auto& queue : plan_.queues) names.push_back(queue.name);
    return fmt::format("expected one of {}", fmt::join(names, ", "));
  }
  // Of a queue, or of the device that publishes into it.
  std::string place_of(std::size_t queue) const {
    return queue < topology_.queues.size() ? topology_.queues[queue].place : std::string();
  }
  bool is_dead_letter(std::size_t queue) const {
    return std::ranges::any_of(plan_.queues,
                               [&](const QueuePlan& other) { return other.dead_letter == queue; });
  }
  bool is_ordered(std::size_t queue, std::size_t steps) const;
  bool is_whole(std::size_t queue, SubscriberPolicy lagging, std::size_t steps) const;

  const Topology& topology_;
  PipelinePlan plan_;
};

Expected<void> Planner::take_queues() {
  for (const auto& settings : topology_.queues) {
    auto& queue = plan_.queues.emplace_back();
    queue.name = *settings.name;
    queue.kind = kind_of(*settings.kind);
    queue.capacity = static_cast<std::uint32_t>(settings.capacity.value_or(topology_.queue_capacity));
    queue.policy = policy_of(settings.policy);
    queue.deliveries_max = static_cast<std::uint32_t>(settings.deliveries_max.value_or(0));
    queue.subscribers_max =
        static_cast<std::uint32_t>(settings.subscribers_max.value_or(queue.subscribers_max));
  }
  for (const auto& device : topology_.devices) {
    if (!device.publish) continue;
    if (const auto taken = find(*device.publish))
      return wrong(place_of(*taken),
                   "queue {}: device '{}' publishes into a stream of that name, which is its own",
                   *device.publish, *device.name);
    auto& queue = plan_.queues.emplace_back();
    queue.name = *device.publish;
    queue.capacity = topology_.queue_capacity;
    queue.streams = 0;
  }
  if (!topology_.ingress_into) return {};
  plan_.ingress_into = find(*topology_.ingress_into);
  if (!plan_.ingress_into)
    return wrong("", "into: found '{}', which is no queue, {}", *topology_.ingress_into, known());
  return {};
}

Expected<void> Planner::take_stages() {
  for (const auto& settings : topology_.stages) {
    StagePlan stage;
    stage.name = *settings.name;
    stage.workers = static_cast<std::uint32_t>(settings.workers.value_or(1));
    stage.lagging = lagging_of(settings.lagging);
    for (const auto& [key, name, queue] :
         {std::tuple("from", &settings.from, &stage.from), std::tuple("into", &settings.into, &stage.into)}) {
      if (!*name) continue;
      *queue = find(**name);
      if (!*queue)
        return wrong(settings.place, "stage {}: {}: found '{}', which is no queue, {}", stage.name, key,
                     **name, known());
    }
    const bool is_subscriber = stage.from && plan_.queues[*stage.from].kind == QueueKind::broadcast;
    if (settings.lagging && !is_subscriber)
      return wrong(settings.place, "stage {}: lagging: found without a broadcast to take from", stage.name);
    if (stage.from && plan_.queues[*stage.from].streams != 0)
      plan_.queues[*stage.from].streams = stage.workers;
    plan_.stages.push_back(std::move(stage));
  }
  return {};
}

Expected<void> Planner::connect_dead_letters() {
  for (std::size_t i = 0; i < topology_.queues.size(); ++i) {
    const auto& settings = topology_.queues[i];
    if (!settings.dead_letter) continue;
    const auto target = find(*settings.dead_letter);
    if (!target)
      return wrong(settings.place, "queue {}: dead-letter: found '{}', which is no queue, {}", *settings.name,
                   *settings.dead_letter, known());
    if (plan_.queues[*target].kind != QueueKind::work)
      return wrong(settings.place, "queue {}: dead-letter: found '{}', a {}, expected a work queue",
                   *settings.name, *settings.dead_letter, word_of(plan_.queues[*target].kind));
    plan_.queues[i].dead_letter = target;
  }
  for (std::size_t i = 0; i < plan_.queues.size(); ++i) {
    auto at = plan_.queues[i].dead_letter;
    for (std::size_t steps = 0; at && steps < plan_.queues.size() && *at != i; ++steps)
      at = plan_.queues[*at].dead_letter;
    if (at == i)
      return wrong(place_of(i),
                   "queue {}: dead-letter: its dead letters come back to it, and would go round for ever",
                   plan_.queues[i].name);
  }
  return {};
}

// Queues, streams of queues, and devices' contents share one directory.
Expected<void> Planner::check_names() {
  const auto is_stream_of = [](std::string_view name, const QueuePlan& queue) {
    if (queue.kind != QueueKind::stream || queue.streams == 0 || !name.starts_with(queue.name + "."))
      return false;
    const auto number = name.substr(queue.name.size() + 1);
    return !number.empty() && number.find_first_not_of("0123456789") == std::string_view::npos;
  };
  for (std::size_t i = 0; i < plan_.queues.size(); ++i) {
    for (const auto& other : plan_.queues)
      if (is_stream_of(plan_.queues[i].name, other))
        return wrong(place_of(i),
                     "queue {}: that is the name of a stream of queue {}, which has one for each worker",
                     plan_.queues[i].name, other.name);
    for (const auto& device : topology_.devices)
      if (device.target == "store" &&
          (device.name == plan_.queues[i].name || is_stream_of(*device.name, plan_.queues[i])))
        return wrong(place_of(i), "queue {}: device '{}' has that name in the segment", plan_.queues[i].name,
                     *device.name);
  }
  return {};
}

Expected<void> Planner::check_owners() {
  for (std::size_t i = 0; i < plan_.queues.size(); ++i)
    if (auto checked = check_queue(i); !checked) return checked;
  return {};
}

Expected<void> Planner::check_queue(std::size_t index) {
  const auto& queue = plan_.queues[index];
  const auto place = place_of(index);
  const auto kind = word_of(queue.kind);
  std::vector<std::string> producers, consumers;
  std::uint32_t producing_workers = 1, subscribers = 0;
  bool is_filled_by_program = false;
  if (plan_.ingress_into == index) producers.emplace_back("the ingress");
  for (std::size_t i = 0; i < topology_.devices.size(); ++i) {
    if (published_queue(topology_, i) != index) continue;
    producers.push_back("device " + *topology_.devices[i].name);
    if (topology_.devices[i].mirror)
      consumers.push_back("the mirror of device " + *topology_.devices[i].name);
  }
  for (const auto& stage : plan_.stages) {
    if (stage.into == index) producers.push_back("stage " + stage.name);
    if (stage.into == index) producing_workers = stage.workers;
    is_filled_by_program |= stage.into == index && !stage.from;
    if (stage.from == index) consumers.push_back("stage " + stage.name);
    if (stage.from == index) subscribers += stage.workers;
  }
  const bool is_published = queue.streams == 0;
  if (producers.empty() && !is_dead_letter(index))
    return wrong(place, "queue {}: nobody publishes into it, expected the ingress or a stage to", queue.name);
  if (consumers.empty() && queue.kind != QueueKind::broadcast && !is_dead_letter(index) && !is_published)
    return wrong(place, "queue {}: no stage takes from it, and it would fill up", queue.name);
  if (queue.kind != QueueKind::work && producers.size() > 1)
    return wrong(place, "queue {}: {} publish into it, but a {} has one producer: a work queue can have many",
                 queue.name, fmt::join(producers, " and "), kind);
  if (queue.kind == QueueKind::stream && consumers.size() > 1)
    return wrong(
        place,
        "queue {}: {} take from it, but a stream has one consumer: a broadcast gives each of them every "
        "message, a work queue each message to one",
        queue.name, fmt::join(consumers, " and "));
  if (queue.kind == QueueKind::stream && producing_workers > 1 && producing_workers != subscribers)
    return wrong(place,
                 "queue {}: {} workers of {} publish into the streams of {} workers, but each stream has one "
                 "producer: expected as many, or one, or a work queue",
                 queue.name, producing_workers, producers.front(), subscribers);
  if (queue.kind == QueueKind::stream && is_filled_by_program && producing_workers != subscribers)
    return wrong(
        place,
        "queue {}: {} makes messages for the streams of {} workers, but each of its workers fills one: "
        "expected as many, or a work queue",
        queue.name, producers.front(), subscribers);
  if (is_published && subscribers > 1)
    return wrong(place, "queue {}: {} workers take from the stream of {}, expected one", queue.name,
                 subscribers, producers.front());
  if (queue.kind == QueueKind::broadcast && producing_workers > 1)
    return wrong(
        place,
        "queue {}: {} workers of {} publish into it, but a broadcast has one producer: expected one worker",
        queue.name, producing_workers, producers.front());
  if (queue.kind == QueueKind::broadcast && subscribers > queue.subscribers_max)
    return wrong(place, "queue {}: {} workers subscribe to it, expected at most {} (subscribers-max)",
                 queue.name, subscribers, queue.subscribers_max);
  if (plan_.ingress_into == index && queue.policy == QueuePolicy::fail)
    return wrong(
        place,
        "queue {}: policy: found fail, but the ingress waits for room, as its clients do: expected block, or "
        "drop-oldest of a work queue",
        queue.name);
  return {};
}

Expected<void> Planner::check_cycles() {
  // Nobody waits for room in a work queue that drops: without these nothing may come round.
  auto waiting = plan_;
  const auto drops = [&](std::optional<std::size_t> queue) {
    return queue && plan_.queues[*queue].kind == QueueKind::work &&
           plan_.queues[*queue].policy != QueuePolicy::block;
  };
  std::erase_if(waiting.stages,
                [&](const StagePlan& stage) { return drops(stage.from) || drops(stage.into); });
  for (std::size_t i = 0; i < waiting.queues.size(); ++i)
    if (drops(i) || drops(waiting.queues[i].dead_letter)) waiting.queues[i].dead_letter.reset();
  const PipelineGraph graph(waiting);
  for (std::size_t i = 0; i < plan_.queues.size(); ++i) {
    const auto cycle = graph.cycle_of(i);
    if (cycle.empty()) continue;
    std::vector<std::string> names;
    for (const auto on : cycle) names.push_back(plan_.queues[on].name);
    return wrong(
        place_of(i),
        "queue {}: messages can go round in a cycle ({}) in which everybody may wait for room: one of "
        "these must be a work queue with policy fail or drop-oldest",
        plan_.queues[i].name, fmt::join(names, ", "));
  }
  return {};
}

// Whether who takes from the queue gets each flow's messages in order: then everything before it keeps them so.
bool Planner::is_ordered(std::size_t queue, std::size_t steps) const {
  if (plan_.queues[queue].kind == QueueKind::work || steps > plan_.queues.size()) return false;
  for (const auto& stage : plan_.stages)
    if (stage.into == queue && stage.from && !is_ordered(*stage.from, steps + 1)) return false;
  return true;
}

// Whether who takes from the queue, in a stage with that policy, gets everything.
bool Planner::is_whole(std::size_t queue, SubscriberPolicy lagging, std::size_t steps) const {
  if (plan_.queues[queue].policy != QueuePolicy::block || steps > plan_.queues.size()) return false;
  if (plan_.queues[queue].kind == QueueKind::broadcast && lagging != SubscriberPolicy::block) return false;
  for (const auto& stage : plan_.stages)
    if (stage.into == queue && stage.from && !is_whole(*stage.from, stage.lagging, steps + 1)) return false;
  return true;
}

Expected<void> Planner::check_order() {
  for (std::size_t i = 0; i < plan_.stages.size(); ++i) {
    const auto& stage = plan_.stages[i];
    if (!topology_.stages[i].sink) continue;
    if (!is_ordered(*stage.from, 0))
      return wrong(
          topology_.stages[i].place,
          "stage {}: sink: a flow becomes a file from its messages in order, and queue {} comes behind a work "
          "queue, which gives them to many: expected streams or a broadcast all the way",
          stage.name, plan_.queues[*stage.from].name);
    if (!is_whole(*stage.from, stage.lagging, 0))
      return wrong(
          topology_.stages[i].place,
          "stage {}: sink: a flow becomes a file from all of its messages, and some may be dropped before queue {} "
          "or at it: expected policy and lagging block all the way",
          stage.name, plan_.queues[*stage.from].name);
    if (plan_.queues[*stage.from].kind == QueueKind::broadcast && stage.workers > 1)
      return wrong(
          topology_.stages[i].place,
          "stage {}: sink: {} workers get every message of a broadcast, and would write the same files: expected "
          "one worker",
          stage.name, stage.workers);
  }
  return {};
}

Expected<void> Planner::check_sinks() {
  for (std::size_t i = 0; i < topology_.stages.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (topology_.stages[i].sink && topology_.stages[i].sink == topology_.stages[j].sink)
        return wrong(topology_.stages[i].place, "stage {}: sink: found '{}', which stage {} has already",
                     *topology_.stages[i].name, *topology_.stages[i].sink, *topology_.stages[j].name);
  return {};
}

}  // namespace

Expected<PipelinePlan> plan_of(const Topology& topology) { return Planner(topology).plan(); }

std::optional<std::size_t> published_queue(const Topology& topology, std::size_t device) {
  if (!topology.devices[device].publish) return std::nullopt;
  const auto published = [](const DeviceSettings& other) { return other.publish.has_value(); };
  const auto before = std::ranges::count_if(
      topology.devices.begin(), topology.devices.begin() + static_cast<std::ptrdiff_t>(device), published);
  return topology.queues.size() + static_cast<std::size_t>(before);
}

}  // namespace sluice::tools
