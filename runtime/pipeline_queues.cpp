#include "runtime/pipeline_queues.hpp"

#include "ipc/broadcast.hpp"
#include "ipc/processes.hpp"
#include "ipc/subscription.hpp"
#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

namespace sluice {

namespace {

std::string stream_name(const QueuePlan& plan, std::uint32_t index) {
  return plan.streams == 0 ? plan.name : fmt::format("{}.{}", plan.name, index);
}

// Another process that creates the same name holds it for microseconds, unless it died: then it is recovered.
Expected<QueueId> create_patiently(const std::function<Expected<QueueId>()>& create) {
  auto id = create();
  for (int attempt = 0; attempt < 100 && !id && id.error().status == Status::busy; ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    id = create();
  }
  return id;
}

std::string role_of(const ProcessRow& row) {
  char role[role_bytes + 1] = {};
  std::copy_n(row.role, role_bytes, role);
  return role;
}

std::string describe(const ProcessRow& row) {
  return fmt::format("{} (pid {})", role_of(row), load(row.pid, relaxed));
}

// "worker-0 (pid 1234)" for a role's claim word, empty for nobody.
std::string describe_claim(const Segment& segment, std::uint64_t claim) {
  const auto lane = lane_claim::Lane::get(claim);
  if (lane == 0 || lane >= segment.header().lane_count) return {};
  const auto process = lane_word::Process::get(load(segment.lane_row(lane).word, acquire));
  return process < segment.header().process_count ? describe(process_row(segment, process)) : std::string();
}

}  // namespace

// ---- Opening -----------------------------------------------------------------------------------------------

Expected<PipelineQueues> PipelineQueues::open(Lane& lane, const PipelinePlan& plan) {
  PipelineQueues result(lane, plan);
  result.queues_.resize(plan.queues.size());
  result.connect();
  for (std::size_t queue = 0; queue < plan.queues.size(); ++queue)
    if (auto opened = result.open(queue); !opened) return std::unexpected(opened.error());
  // Before any stream is created: a refusal leaves them as they are.
  if (auto same = result.check_numbers(); !same) return std::unexpected(same.error());
  for (std::size_t queue = 0; queue < plan.queues.size(); ++queue)
    if (auto created = result.create_streams(queue); !created) return std::unexpected(created.error());
  return result;
}

Expected<void> PipelineQueues::open(std::size_t queue) {
  const auto& plan = plan_->queues[queue];
  auto& opened = queues_[queue];
  if (!opened.rings.empty()) return {};
  if (plan.kind == QueueKind::stream) return find_streams(queue);
  std::string_view dead_letter;
  if (plan.dead_letter) {  // it must be there before
    if (auto before = open(*plan.dead_letter); !before) return before;
    dead_letter = plan_->queues[*plan.dead_letter].name;
  }
  const auto id = create_patiently([&] {
    if (plan.kind == QueueKind::broadcast)
      return find_or_create_broadcast(*lane_, plan.name, {plan.capacity, plan.subscribers_max});
    return find_or_create_work_queue(*lane_, plan.name,
                                     {.capacity = plan.capacity,
                                      .policy = plan.policy,
                                      .deliveries_max = plan.deliveries_max,
                                      .dead_letter = dead_letter});
  });
  if (!id) return std::unexpected(id.error());
  opened.rings.push_back({plan.name, *id});
  if (plan.kind == QueueKind::work) {
    auto work = WorkQueue::open(*lane_, *id);
    if (!work) return fail(work.error(), fmt::format("queue {}: {}", plan.name, to_string(work.error())));
    opened.work = std::move(*work);
  }
  return {};
}

// They are created in order. Those beyond the plan's are left by an earlier run with more workers; where no stage takes from
// them nobody could serve what is there: it stays.
Expected<void> PipelineQueues::find_streams(std::size_t queue) {
  const auto& plan = plan_->queues[queue];
  auto& opened = queues_[queue];
  const auto last = opened.is_taken_from && plan.streams != 0 ? lane_->segment().header().queue_count
                                                              : std::max(1U, plan.streams);
  for (std::uint32_t i = 0; i < last; ++i) {
    const auto id = find_stream(stream_name(plan, i));
    if (!id) break;
    opened.rings.push_back({stream_name(plan, i), *id});
  }
  opened.found = static_cast<std::uint32_t>(opened.rings.size());
  return {};
}

Expected<void> PipelineQueues::create_streams(std::size_t queue) {
  const auto& plan = plan_->queues[queue];
  if (plan.kind != QueueKind::stream) return {};
  auto& rings = queues_[queue].rings;
  for (std::uint32_t i = 0; i < std::max(1U, plan.streams); ++i) {
    const auto name = stream_name(plan, i);
    const auto id =
        create_patiently([&] { return find_or_create_stream(*lane_, name, plan.capacity, plan.policy); });
    if (!id) return std::unexpected(id.error());
    if (i == rings.size()) rings.push_back({name, *id});
  }
  return {};
}

std::optional<QueueId> PipelineQueues::find_stream(const std::string& name) const {
  const auto id = find_queue(lane_->segment(), name);
  if (!id || load(queue_row(lane_->segment(), id->index).kind, relaxed) !=
                 static_cast<std::uint32_t>(QueueKind::stream))
    return std::nullopt;
  return *id;
}

// Who passes a flow on chooses its stream by their number. With another number the rest of a flow that is on its way would
// go another way than its beginning; where streams end, each tells its own flows, and any number may serve them.
Expected<void> PipelineQueues::check_numbers() const {
  const PipelineGraph graph(*plan_);
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& queue = queues_[i];
    if (!queue.is_passed_on || (queue.found == 0 || queue.found == plan_->queues[i].streams)) continue;
    for (std::size_t before = 0; before < queues_.size(); ++before)
      for (const auto& ring : queues_[before].rings)
        if ((before == i || graph.reaches(before, i)) && !is_empty(before, ring))
          return fail(
              Status::busy,
              fmt::format(
                  "queue {}: found messages in {} of a run with {} streams, expected as many workers until "
                  "they are done",
                  plan_->queues[i].name, ring.name, queue.found));
  }
  return {};
}

void PipelineQueues::connect() {
  if (plan_->ingress_into) queues_[*plan_->ingress_into].from_outside = true;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if (plan_->queues[i].streams == 0) queues_[i].from_outside = true;
    if (plan_->queues[i].dead_letter) queues_[*plan_->queues[i].dead_letter].is_dead_letter = true;
  }
  for (const auto& stage : plan_->stages) {
    if (stage.from) queues_[*stage.from].is_taken_from = true;
    if (stage.into && !stage.from) queues_[*stage.into].from_outside = true;
    if (stage.into) queues_[*stage.into].is_passed_on = true;
    if (stage.from && stage.into) queues_[*stage.from].is_passed_on = true;
  }
}

std::vector<std::string> PipelineQueues::names_into(std::size_t queue, std::uint32_t worker,
                                                    std::uint32_t workers) const {
  const auto& rings = queues_[queue].rings;
  if (workers > 1 && plan_->queues[queue].kind == QueueKind::stream) return {rings[worker].name};
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < std::max(1U, plan_->queues[queue].streams); ++i) {
    names.push_back(rings[i].name);
    if (plan_->queues[queue].kind != QueueKind::stream) break;
  }
  return names;
}

std::vector<std::string> PipelineQueues::names_from(std::size_t queue, std::uint32_t worker) const {
  const auto& rings = queues_[queue].rings;
  if (plan_->queues[queue].kind != QueueKind::stream) return {rings.front().name};
  std::vector<std::string> names;
  const auto workers = std::max(1U, plan_->queues[queue].streams);
  for (std::size_t i = worker; i < rings.size(); i += workers) names.push_back(rings[i].name);
  return names;
}

// ---- Before a run ------------------------------------------------------------------------------------------

std::string PipelineQueues::holder() const {
  const auto& segment = lane_->segment();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& queue = queues_[i];
    const bool is_consumed = queue.is_taken_from || plan_->queues[i].mirrored;
    for (const auto& ring : queue.rings)
      for (const auto* role : {&row(ring).producer, &row(ring).consumer}) {
        if (role == &row(ring).consumer && !is_consumed) continue;  // somebody from outside
        if (auto text = describe_claim(segment, load(*role, acquire)); !text.empty()) return text;
      }
  }
  // Nobody has a role at a work queue: who would still push into it or take from it is known by name.
  for (std::uint32_t i = 0; i < segment.header().process_count; ++i) {
    const auto& process = process_row(segment, i);
    if (process_word::state(load(process.word, acquire)) == ProcessState::free) continue;
    const auto role = role_of(process);
    if (plan_->ingress_into && role == "ingress") return describe(process);
    for (const auto& stage : plan_->stages)
      for (std::uint32_t worker = 0; worker < stage_workers_max; ++worker)
        if (role == stage.worker_name(worker)) return describe(process);
  }
  return {};
}

// Before anything is published, so that nobody misses the first messages; and where a worker has died its place stays.
Expected<std::vector<std::string>> PipelineQueues::subscribe() {
  std::vector<std::string> notes;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if (plan_->queues[i].kind != QueueKind::broadcast) continue;
    const auto& ring = queues_[i].rings.front();
    // Of a run with more workers: nobody would read for them.
    for (const auto& stage : plan_->stages)
      for (std::uint32_t worker = stage.from == i ? stage.workers : 0; worker < stage_workers_max; ++worker)
        if (unsubscribe(*lane_, ring.id, stage.worker_name(worker)) == Status::ok)
          notes.push_back(fmt::format("queue {}: the subscription {} of another run is over", ring.name,
                                      stage.worker_name(worker)));
    for (const auto& stage : plan_->stages)
      for (std::uint32_t worker = 0; stage.from == i && worker < stage.workers; ++worker) {
        const auto name = stage.worker_name(worker);
        const auto made = ensure_subscription(*lane_, ring.id, {.policy = stage.lagging, .name = name});
        if (!made)
          return fail(made.error(),
                      fmt::format("queue {}: {}", ring.name, why_not_joined(made.error(), name)));
      }
    note_others(i, notes);
  }
  return notes;
}

// Somebody else's, who may come back; or of a stage that is no more. Who is to know has to be told.
void PipelineQueues::note_others(std::size_t queue, std::vector<std::string>& notes) const {
  const auto& ring = queues_[queue].rings.front();
  const auto sound = sound_ring(lane_->segment(), row(ring), QueueKind::broadcast);
  if (!sound) return;
  for (const auto& subscriber : sound->subscribers) {
    const auto name = subscription_name(subscriber);
    if (name.empty() || subscriber_claim::state(load(subscriber.claim, acquire)) != ClaimState::parked)
      continue;
    const bool is_ours = std::ranges::any_of(plan_->stages, [&](const StagePlan& stage) {
      for (std::uint32_t worker = 0; stage.from == queue && worker < stage.workers; ++worker)
        if (stage.worker_name(worker) == name) return true;
      return false;
    });
    if (!is_ours)
      notes.push_back(fmt::format(
          "queue {0}: the subscription {1} is parked, no stage reads for it, and it may hold the queue "
          "up; to end it: sluice segment unsubscribe {2} {0} {1}",
          ring.name, name, lane_->segment().path()));
  }
}

// Claiming a role opens the ring, and it is given back.
Status PipelineQueues::reopen() {
  first_flow_ = load(pipeline_state(lane_->segment()).next_flow, acquire);
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    auto& queue = queues_[i];
    if (queue.work) {
      queue.work.reopen();
      continue;
    }
    const auto rings = std::span(queue.rings).first(std::max(1U, plan_->queues[i].streams));
    for (const auto& ring : plan_->queues[i].kind == QueueKind::stream ? rings : rings.first(1)) {
      const auto status = [&] {
        if (plan_->queues[i].kind == QueueKind::broadcast) {
          const auto publisher = Publisher::claim(*lane_, ring.id);
          return publisher ? Status::ok : publisher.error();
        }
        const auto producer = StreamProducer::claim(*lane_, ring.id);
        return producer ? Status::ok : producer.error();
      }();
      if (status != Status::ok) return status;
    }
  }
  return Status::ok;
}

// ---- Ending ------------------------------------------------------------------------------------------------

// `over_below`: and say that flows below it which have not ended never will; 0: say nothing.
bool PipelineQueues::end_stream(const Ring& ring, std::uint64_t over_below) {
  auto& shared = row(ring);
  if (is_closed(ring)) return true;
  if (load(shared.producer, acquire) != 0) return false;
  // By the stamps: where a producer has died tail may be behind head.
  if (pushed_messages(lane_->segment(), shared) - load(shared.head, acquire) >= shared.capacity) return false;
  auto producer = StreamProducer::claim(*lane_, ring.id);
  if (!producer) return false;
  Message restart{};
  restart.kind = MessageKind::restart;
  restart.flow = over_below;
  if (over_below == 0 || producer->push(restart) == Status::ok) producer->close();
  return is_closed(ring);
}

bool PipelineQueues::close(std::size_t index) {
  auto& queue = queues_[index];
  const auto& plan = plan_->queues[index];
  if (queue.work) {
    if (!queue.work.closed()) queue.work.close();
    return true;
  }
  if (plan.kind == QueueKind::broadcast) {
    const auto& ring = queue.rings.front();
    if (is_closed(ring)) return true;
    auto publisher = Publisher::claim(*lane_, ring.id);
    if (publisher) publisher->close();
    return publisher.has_value();
  }
  bool all = true;
  const auto next_flow = load(pipeline_state(lane_->segment()).next_flow, acquire);
  for (const auto& ring : queue.rings) all = end_stream(ring, plan.streams != 0 ? next_flow : 0) && all;
  return all;
}

void PipelineQueues::end_left_over() {
  for (std::size_t i = 0; i < queues_.size(); ++i)
    for (std::size_t ring = std::max(1U, plan_->queues[i].streams); ring < queues_[i].rings.size(); ++ring)
      (void)end_stream(queues_[i].rings[ring], first_flow_);
}

bool PipelineQueues::is_empty(std::size_t queue, const Ring& ring) const noexcept {
  const auto& shared = row(ring);
  switch (plan_->queues[queue].kind) {
    case QueueKind::work: return queues_[queue].work.is_empty();
    case QueueKind::broadcast: return unread_messages(lane_->segment(), shared) == 0;
    default: break;
  }
  const auto head = load(shared.head, acquire);
  return head == pushed_messages(lane_->segment(), shared);
}

bool PipelineQueues::finished(std::size_t index, std::uint32_t worker, std::string_view name) const {
  const auto& queue = queues_[index];
  const auto workers = std::max(1U, plan_->queues[index].streams);
  if (plan_->queues[index].kind == QueueKind::broadcast) {
    const auto& ring = queue.rings.front();
    return is_closed(ring) && unread_messages(lane_->segment(), row(ring), name) == 0;
  }
  const bool is_split = plan_->queues[index].kind == QueueKind::stream;
  for (std::size_t i = is_split ? worker : 0; i < queue.rings.size(); i += workers)
    if (!is_closed(queue.rings[i]) || !is_empty(index, queue.rings[i])) return false;
  return true;
}

std::uint64_t PipelineQueues::moves(std::span<const std::size_t> queues) const noexcept {
  std::uint64_t moves = 0;
  for (const auto queue : queues)
    for (const auto& ring : queues_[queue].rings)
      moves +=
          queues_[queue].work ? load(row(ring).tail, acquire) : pushed_messages(lane_->segment(), row(ring));
  return moves;
}

// What moves on is in the next queue before it has left the last: a message that escapes the look at both was pushed in
// between. Of that a work queue's tail tells, which is moved before the push, and other queues' stamps.
bool PipelineQueues::at_rest(std::span<const std::size_t> queues) const {
  const auto before = moves(queues);
  for (const auto queue : queues)
    for (const auto& ring : queues_[queue].rings)
      if (!is_empty(queue, ring)) return false;
  return moves(queues) == before;
}

PipelineTotals PipelineQueues::totals() const {
  PipelineTotals totals;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const auto& queue = queues_[i];
    for (const auto& ring : queue.rings) {
      const auto& shared = row(ring);
      // Of a work queue what is not done, wherever it lies: the front would tell late.
      const auto waiting_before = plan_->queues[i].kind == QueueKind::broadcast
                                      ? unread_messages(lane_->segment(), shared)
                                  : queue.work ? queue.work.in_use()
                                               : 0;
      const auto head = load(shared.head, acquire);  // first: it never passes the tail that is read after it
      const auto tail = load(shared.tail, acquire);
      const auto taken = plan_->queues[i].kind == QueueKind::stream ? std::min(head, tail)
                                                                    : tail - std::min(waiting_before, tail);
      totals.moves += tail + taken;
      totals.redelivered += load(shared.redelivered, relaxed);
      (queue.is_dead_letter && !queue.is_taken_from ? totals.dead_letters : totals.queued) += tail - taken;
      if (!queue.from_outside) continue;
      totals.pushed += tail;
      totals.taken += taken;
      totals.bytes += load(shared.bytes_in, relaxed);
    }
  }
  return totals;
}

}  // namespace sluice
