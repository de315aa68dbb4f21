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
  for (std::size_t queue = 0; queue < plan.queues.size(); ++queue)
    if (auto opened = result.open(queue); !opened) return std::unexpected(opened.error());
  result.connect();
  if (auto subscribed = result.subscribe(); !subscribed) return std::unexpected(subscribed.error());
  for (std::size_t queue = 0; queue < plan.queues.size(); ++queue) result.find_left_over(queue);
  return result;
}

Expected<void> PipelineQueues::open(std::size_t queue) {
  const auto& plan = plan_->queues[queue];
  auto& opened = queues_[queue];
  if (!opened.rings.empty()) return {};
  if (plan.kind == QueueKind::stream) return open_streams(queue);
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

Expected<void> PipelineQueues::open_streams(std::size_t queue) {
  const auto& plan = plan_->queues[queue];
  for (std::uint32_t i = 0; i < std::max(1U, plan.streams); ++i) {
    const auto name = stream_name(plan, i);
    const auto id =
        create_patiently([&] { return find_or_create_stream(*lane_, name, plan.capacity, plan.policy); });
    if (!id) return std::unexpected(id.error());
    queues_[queue].rings.push_back({name, *id});
  }
  return {};
}

// They are created in order. Where no stage takes from them nobody could serve what an earlier run left: it stays.
void PipelineQueues::find_left_over(std::size_t queue) {
  const auto& plan = plan_->queues[queue];
  if (plan.kind != QueueKind::stream || plan.streams == 0 || !queues_[queue].is_taken_from) return;
  for (std::uint32_t i = plan.streams; i < lane_->segment().header().queue_count; ++i) {
    const auto id = find_queue(lane_->segment(), stream_name(plan, i));
    if (!id) return;
    queues_[queue].rings.push_back({stream_name(plan, i), *id});
  }
}

void PipelineQueues::connect() {
  for (auto& queue : queues_) queue.from_outside = false;
  if (plan_->ingress_into) queues_[*plan_->ingress_into].from_outside = true;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if (plan_->queues[i].streams == 0) queues_[i].from_outside = true;
    if (plan_->queues[i].dead_letter) queues_[*plan_->queues[i].dead_letter].is_dead_letter = true;
  }
  for (const auto& stage : plan_->stages) {
    if (stage.from) queues_[*stage.from].is_taken_from = true;
    if (stage.into && !stage.from) queues_[*stage.into].from_outside = true;
  }
}

// Before anything is published, so that nobody misses the first messages; and where a worker has died its place stays.
Expected<void> PipelineQueues::subscribe() {
  for (const auto& stage : plan_->stages) {
    if (!stage.from || plan_->queues[*stage.from].kind != QueueKind::broadcast) continue;
    const auto& ring = queues_[*stage.from].rings.front();
    for (std::uint32_t worker = 0; worker < stage.workers; ++worker) {
      const auto name = stage.worker_name(worker);
      const auto made = ensure_subscription(*lane_, ring.id, {.policy = stage.lagging, .name = name});
      if (!made)
        return fail(made.error(), fmt::format("queue {}: {}", ring.name, why_not_joined(made.error(), name)));
    }
    // Of a run with more workers: nobody would read for them.
    for (std::uint32_t worker = stage.workers; worker < stage_workers_max; ++worker)
      if (unsubscribe(*lane_, ring.id, stage.worker_name(worker)) == Status::ok)
        ended_.push_back(fmt::format("queue {}: the subscription {} of a run with more workers is over",
                                     ring.name, stage.worker_name(worker)));
  }
  return {};
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
  // Nobody has a role at a work queue: who would still take from it is known by name.
  for (std::uint32_t i = 0; i < segment.header().process_count; ++i) {
    const auto& process = process_row(segment, i);
    if (process_word::state(load(process.word, acquire)) == ProcessState::free) continue;
    const auto role = role_of(process);
    for (const auto& stage : plan_->stages)
      for (std::uint32_t worker = 0; worker < stage.workers; ++worker)
        if (role == stage.worker_name(worker)) return describe(process);
  }
  return {};
}

// Claiming a role opens the ring, and it is given back.
Status PipelineQueues::reopen() {
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

// `with_word`: and say that flows which have not ended never will.
bool PipelineQueues::end_stream(const Ring& ring, bool with_word) {
  auto& shared = row(ring);
  if (is_closed(ring)) return true;
  if (load(shared.producer, acquire) != 0) return false;
  // By the stamps: where a producer has died tail may be behind head.
  if (pushed_messages(lane_->segment(), shared) - load(shared.head, acquire) >= shared.capacity) return false;
  auto producer = StreamProducer::claim(*lane_, ring.id);
  if (!producer) return false;
  Message restart{};
  restart.kind = MessageKind::restart;
  restart.flow = load(pipeline_state(lane_->segment()).next_flow, acquire);
  if (!with_word || restart.flow == 0 || producer->push(restart) == Status::ok) producer->close();
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
  for (const auto& ring : queue.rings) all = end_stream(ring, plan.streams != 0) && all;
  return all;
}

void PipelineQueues::end_left_over() {
  for (std::size_t i = 0; i < queues_.size(); ++i)
    for (std::size_t ring = std::max(1U, plan_->queues[i].streams); ring < queues_[i].rings.size(); ++ring)
      (void)end_stream(queues_[i].rings[ring], true);
}

bool PipelineQueues::is_empty(std::size_t queue, const Ring& ring) const noexcept {
  const auto& shared = row(ring);
  switch (plan_->queues[queue].kind) {
    case QueueKind::work: return queues_[queue].work.is_empty();
    case QueueKind::broadcast: return unread_messages(lane_->segment(), shared) == 0;
    default: break;
  }
  const auto head = load(shared.head, acquire);
  return head == load(shared.tail, acquire);
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
    for (const auto& ring : queues_[queue].rings) moves += load(row(ring).tail, acquire);
  return moves;
}

// What moves on is in the next queue before it has left the last: a message that escapes the look at both was pushed
// in between, and tail tells.
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
      const auto waiting_before =
          plan_->queues[i].kind == QueueKind::broadcast ? unread_messages(lane_->segment(), shared) : 0;
      const auto head = load(shared.head, acquire);  // first: it never passes the tail that is read after it
      const auto tail = load(shared.tail, acquire);
      const auto taken = plan_->queues[i].kind == QueueKind::broadcast ? tail - std::min(waiting_before, tail)
                                                                       : std::min(head, tail);
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
