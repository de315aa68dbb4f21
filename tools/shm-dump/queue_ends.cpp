#include "tools/shm-dump/queue_ends.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

// "2 of 32 subscribers, 1 parked, up to 5 behind"
std::string describe_subscribers(const QueueEntry& queue) {
  auto text = fmt::format("{} of {} subscribers", queue.subscribers.size(), queue.subscribers_max);
  const auto parked = std::ranges::count_if(queue.subscribers, &SubscriberEntry::is_parked);
  if (parked != 0) text += fmt::format(", {} parked", parked);
  const auto* slowest = queue.slowest();
  return slowest == nullptr || slowest->lag == 0 ? text
                                                 : fmt::format("{}, up to {} behind", text, slowest->lag);
}

}  // namespace

QueueView QueueView::read(const Segment& segment) {
  QueueView view;
  view.queues = read_queue_table(segment);
  view.lanes = read_lane_table(segment);
  view.processes = read_process_table(segment);
  return view;
}

const QueueEntry* QueueView::queue(std::uint64_t index) const noexcept {
  const auto found = std::ranges::find(queues, index, &QueueEntry::index);
  return found == queues.end() ? nullptr : &*found;
}

std::string QueueView::queue_title(std::uint64_t index) const {
  const auto* found = queue(index);
  return found == nullptr ? fmt::format("queue {} (no such queue)", index) : found->name;
}

const ProcessEntry* QueueView::process_of(std::uint64_t lane) const noexcept {
  if (lane == 0 || lane > lanes.size() || !lanes[lane - 1].active) return nullptr;
  const auto row = lanes[lane - 1].process;
  return row < processes.size() && processes[row].presence != Presence::free ? &processes[row] : nullptr;
}

bool QueueView::is_served(std::uint64_t lane) const noexcept {
  const auto* process = process_of(lane);
  return process != nullptr && process->presence != Presence::dead;
}

std::string QueueView::brief(std::uint64_t lane) const {
  const auto* process = process_of(lane);
  if (process == nullptr) return fmt::format("lane {} (gone)", lane);
  return fmt::format("{} {}{}", process->role, process->pid,
                     process->presence == Presence::dead ? " (dead)" : "");
}

std::string QueueView::brief_role(std::uint64_t claim) const {
  if (claim == 0) return "-";
  const auto lane = lane_claim::Lane::get(claim);
  if (lane != 0 && lane <= lanes.size() && lanes[lane - 1].incarnation != lane_claim::Incarnation::get(claim))
    return fmt::format("lane {} (gone)", lane);
  return brief(lane);
}

std::string QueueView::writer_of(const QueueEntry& queue) const {
  if (queue.writer == 0) return "-";
  const auto row = process_claim::Row::get(queue.writer);
  if (row >= processes.size()) return fmt::format("process row {}, which is none", row);
  return processes[row].incarnation == process_claim::Incarnation::get(queue.writer)
             ? process_name(processes[row])
             : fmt::format("process row {} (an earlier holder of it)", row);
}

std::string QueueView::producer_of(const QueueEntry& queue) const {
  if (queue.is_map()) return writer_of(queue);
  return queue.is_work() ? "any" : brief_role(queue.producer);
}

std::string QueueView::consumer_of(const QueueEntry& queue) const {
  if (queue.is_map()) return queue.told == 0 ? "" : fmt::format("told to queue {}", queue.told - 1);
  if (queue.is_broadcast()) return describe_subscribers(queue);
  if (!queue.is_work()) return brief_role(queue.consumer);
  const auto& leases = queue.work.leases;
  if (leases.empty()) return "any";
  if (leases.size() == 1) return fmt::format("{} leased by {}", queue.work.leased, brief(leases[0].lane));
  const auto dead =
      std::ranges::count_if(leases, [&](const WorkLeases& lease) { return !is_served(lease.lane); });
  return fmt::format("{} leased by {} lanes{}", queue.work.leased, leases.size(),
                     dead == 0 ? "" : fmt::format(", {} dead", dead));
}

std::string QueueView::subscriber_title(const SubscriberEntry& subscriber) const {
  const auto owner = subscriber.is_parked ? "parked" : describe(subscriber.claim);
  return subscriber.name.empty() ? owner : fmt::format("{}: {}", subscriber.name, owner);
}

std::string QueueView::holdup_of(const QueueEntry& queue) const {
  if (const auto* holder = queue.holder(); holder != nullptr) return subscriber_title(*holder);
  if (!queue.is_work() || !queue.is_full() || queue.depth() >= queue.capacity) return "";
  const auto& oldest = queue.work.oldest;
  if (oldest.state == WorkState::full) return fmt::format("@{} waits", oldest.position);
  return fmt::format("@{} is {} by {}", oldest.position,
                     oldest.state == WorkState::leased ? "leased" : "being written", lane_title(oldest.lane));
}

std::vector<std::uint64_t> QueueView::asleep(std::uint64_t marks) const {
  std::vector<std::uint64_t> found;
  for (const auto& lane : lanes)
    if (lane.sleeping && (marks >> (lane.lane % 64) & 1) != 0) found.push_back(lane.lane);
  return found;
}

}  // namespace sluice::tools
