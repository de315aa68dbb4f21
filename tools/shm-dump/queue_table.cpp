#include "tools/shm-dump/queue_table.hpp"

#include "ipc/extents.hpp"
#include "ipc/subscription.hpp"
#include "ipc/work_audit.hpp"
#include "tools/common/format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>

namespace sluice::tools {

namespace {

// Head before tail, and again until head stood still: on a live queue the depth is then one it really had.
void read_positions(const QueueRow& row, QueueEntry& queue) noexcept {
  constexpr int tries = 8;
  for (int i = 0; i < tries; ++i) {
    queue.head = load(row.head, acquire);
    queue.delivered = load(row.delivered, acquire);
    queue.tail = load(row.tail, acquire);
    if (load(row.head, acquire) == queue.head) break;
  }
}

std::uint64_t slots_of(const QueueEntry& queue) noexcept {
  if (queue.is_broadcast()) return queue.capacity + queue.subscribers_max * slots_per_subscriber;
  return queue.is_map() ? queue.capacity + std::uint64_t{queue.capacity} / extent_group_pages
                        : queue.capacity;
}

// Why its slots cannot be walked, or "". From the copy: the row may change under our hands.
std::string find_fault(const Segment& segment, const QueueEntry& queue, std::uint32_t message_bytes) {
  const bool is_stream = queue.kind == static_cast<std::uint32_t>(QueueKind::stream);
  if (!is_stream && !queue.is_map() && !queue.is_work() && !queue.is_broadcast())
    return fmt::format("kind {} is unknown to this build", queue.kind);
  const auto slot_bytes = queue.is_map() ? sizeof(std::uint64_t) : sizeof(Message);
  if (message_bytes != slot_bytes)
    return fmt::format("{} of {} bytes, expected {}", queue.is_map() ? "slots" : "messages", message_bytes,
                       slot_bytes);
  if (queue.is_map() && (queue.capacity == 0 || queue.capacity % extent_group_pages != 0))
    return fmt::format("capacity {} is not a multiple of {}", queue.capacity, extent_group_pages);
  if (!queue.is_map() && (queue.capacity > queue_capacity_max || !std::has_single_bit(queue.capacity)))
    return fmt::format("capacity {} is not a power of two up to {}", queue.capacity, queue_capacity_max);
  if (queue.is_broadcast() && queue.capacity < broadcast_capacity_min)
    return fmt::format("capacity {} is below {}", queue.capacity, broadcast_capacity_min);
  const auto units = segment.units_committed();
  if (queue.unit_count > units || queue.first_unit > units - queue.unit_count)
    return fmt::format("its storage ends at unit {} of {}",
                       std::uint64_t{queue.first_unit} + queue.unit_count, units);
  if (slots_of(queue) * slot_bytes > queue.unit_count * unit_bytes)
    return fmt::format("{} {} do not fit into its {} units", slots_of(queue),
                       queue.is_map() ? "slots" : "messages", queue.unit_count);
  if (unit_word::state(load(segment.unit(queue.first_unit).word, acquire)) != UnitState::storage)
    return fmt::format("unit {} is not a queue's storage", queue.first_unit);
  if (!queue.is_map() && !queue.is_work() && queue.depth() > queue.capacity)
    return fmt::format("tail {} is more than {} messages after head {}", queue.tail, queue.capacity,
                       queue.head);
  return "";
}

// The queue before this one that has some of its units, or null. Only one of them is read: else a small file could
// name one ring thousands of times, and be listed as often.
const QueueEntry* sharer_of_units(const std::vector<QueueEntry>& table, const QueueEntry& queue) noexcept {
  const auto found = std::ranges::find_if(table, [&](const QueueEntry& other) {
    return other.state == QueueState::ready && other.broken.empty() &&
           queue.first_unit < std::uint64_t{other.first_unit} + other.unit_count &&
           other.first_unit < std::uint64_t{queue.first_unit} + queue.unit_count;
  });
  return found == table.end() ? nullptr : &*found;
}

using VisitBlock = std::function<void(const QueuedBlock&)>;

// Each from the checked copy: the row may change under our hands.
void visit_extents(const Segment& segment, const QueueEntry& queue, const VisitBlock& visit) {
  const auto* slots = reinterpret_cast<const std::uint64_t*>(segment.unit_address(queue.first_unit));
  for (std::uint64_t i = 0; i < slots_of(queue); ++i)
    if (const QueuedBlock block{i, load(slots[i], acquire), 0}; block.handle > extent_zeroes) visit(block);
}

// Of a ring that was checked. Cursors before tail: each only grows.
void read_subscribers(const Segment& segment, const QueueRow& row, QueueEntry& queue) {
  const auto* slots = reinterpret_cast<const Message*>(segment.unit_address(queue.first_unit));
  const auto* rows = reinterpret_cast<const SubscriberRow*>(slots + queue.capacity);
  for (std::uint32_t i = 0; i < queue.subscribers_max; ++i) {
    SubscriberEntry entry;
    const auto claim = load(rows[i].claim, acquire);
    if (claim == 0) continue;
    entry.is_parked = subscriber_claim::state(claim) == ClaimState::parked;
    entry.claim = entry.is_parked ? 0 : subscriber_claim::owner(claim);
    entry.name = escape_controls(subscription_name(rows[i]));
    const auto cursor = load(rows[i].cursor, acquire);
    entry.is_joining = cursor == 0;
    entry.position = entry.is_joining ? 0 : cursor - 1;
    entry.policy = load(rows[i].policy, relaxed);
    entry.is_disconnected = load(rows[i].disconnected, relaxed) == load(rows[i].joins, relaxed);
    entry.lost = load(rows[i].lost, relaxed);
    entry.received = load(rows[i].received, relaxed);
    entry.redelivered = load(rows[i].redelivered, relaxed);
    queue.subscribers.push_back(entry);
  }
  const auto tail = load(row.tail, acquire);
  for (auto& entry : queue.subscribers)
    if (!entry.is_joining && entry.position < tail) entry.lag = tail - entry.position;
}

// A message that was forwarded is in the other queue: the cells of its lane say so before its own queue does.
bool has_moved_on(const QueueEntry& queue, const WorkClaims& claims, std::uint64_t position,
                  std::uint64_t lane) {
  return claims.has_moved_on(static_cast<std::uint32_t>(queue.index), position, static_cast<LaneId>(lane));
}

void visit_stream(const Segment& segment, const QueueEntry& queue, const WorkClaims& claims,
                  const VisitBlock& visit) {
  const auto* ring = reinterpret_cast<const Message*>(segment.unit_address(queue.first_unit));
  const auto slot = [&](std::uint64_t position) -> const Message& {
    return ring[position & (queue.capacity - 1)];
  };
  auto end = queue.tail;  // behind the stamps by a push, of one or many
  while (end - queue.head < queue.capacity && load(slot(end).stamp, acquire) == end + 1) ++end;
  for (auto position = queue.head; position != end; ++position) {
    const auto& message = slot(position);
    const QueuedBlock block{position, load(message.handle, relaxed), load(message.receive_ns, relaxed)};
    if (block.handle != 0 && !has_moved_on(queue, claims, position, lane_claim::Lane::get(queue.consumer)))
      visit(block);
  }
}

void visit_work(const Segment& segment, const QueueEntry& queue, const WorkClaims& claims,
                const VisitBlock& visit) {
  visit_work_slots(segment, queue, [&](const WorkSlot& slot) {
    if (slot.handle == 0 || slot.state == WorkState::writing) return;
    const bool is_leased = slot.state == WorkState::leased;
    if (is_leased && has_moved_on(queue, claims, slot.position, slot.lane)) return;
    visit({slot.position, slot.handle, slot.receive_ns, is_leased ? slot.lane : 0, slot.deliveries});
  });
}

void read_counters(const QueueRow& row, QueueCounters& counters) noexcept {
  counters.bytes_in = load(row.bytes_in, relaxed);
  counters.bytes_out = load(row.bytes_out, relaxed);
  counters.high_water = load(row.high_water, relaxed);
  counters.push_waits = load(row.push_waits, relaxed);
  counters.take_waits = load(row.take_waits, relaxed);
  counters.redelivered = load(row.redelivered, relaxed);
  counters.refused = load(row.refused, relaxed);
  counters.dropped = load(row.dropped, relaxed);
  counters.dead_lettered = load(row.dead_lettered, relaxed);
}

// What its kind has beside the row; of a queue that is not broken.
void read_contents(const Segment& segment, QueueEntry& queue) {
  auto& counters = queue.counters;
  if (queue.is_map()) {
    visit_extents(segment, queue, [&](const QueuedBlock&) { ++queue.extents; });
    return;
  }
  if (queue.is_broadcast()) {
    read_subscribers(segment, queue_row(segment, queue.index), queue);
    for (const auto& subscriber : queue.subscribers) counters.dropped += subscriber.lost;
  }
  if (queue.is_work()) queue.work = read_work_slots(segment, queue);
  counters.messages_in = queue.tail;
  counters.messages_out = queue.tail - std::min(queue.tail, queue.depth());
}

}  // namespace

std::vector<QueueEntry> read_queue_table(const Segment& segment) {
  std::vector<QueueEntry> table;
  for (std::uint64_t i = 0; i < segment.header().queue_count; ++i) {
    const auto& row = queue_row(segment, i);
    const auto word = load(row.word, acquire);
    QueueEntry queue;
    queue.index = i;
    queue.state = queue_word::state(word);
    if (queue.state == QueueState::free) continue;
    queue.era = queue_word::Era::get(word);
    if (queue.state != QueueState::creating) queue.name = field_text(row.name);
    if (queue.state == QueueState::ready) {
      queue.kind = load(row.kind, relaxed);
      queue.capacity = load(row.capacity, relaxed);
      queue.first_unit = load(row.first_unit, relaxed);
      queue.unit_count = load(row.unit_count, relaxed);
      queue.producer = load(row.producer, relaxed);
      queue.consumer = load(row.consumer, relaxed);
      queue.policy = load(row.policy, relaxed);
      queue.deliveries_max = load(row.deliveries_max, relaxed);
      queue.dead_letter = load(row.dead_letter, relaxed) & 0xffffffff;
      queue.consumers_waiting = load(row.consumers_waiting, relaxed);
      queue.producers_waiting = load(row.producers_waiting, relaxed);
      read_counters(row, queue.counters);
      queue.writer = load(row.writer, relaxed);
      queue.told = load(row.change_stream, relaxed) & 0xffffffff;
      queue.closed = load(row.closed, relaxed) != 0;
      queue.subscribers_max = load(row.subscribers_max, relaxed);
      read_positions(row, queue);
      queue.broken = find_fault(segment, queue, load(row.message_bytes, relaxed));
      if (const auto* other = sharer_of_units(table, queue); queue.broken.empty() && other != nullptr)
        queue.broken = fmt::format("its units are those of queue {}", other->index);
      if (queue.broken.empty()) read_contents(segment, queue);
    } else if (queue.state > QueueState::ready) {
      queue.broken = "its state is unknown to this build";
    }
    table.push_back(std::move(queue));
  }
  return table;
}

void visit_blocks(const Segment& segment, const std::vector<QueueEntry>& queues,
                  const std::function<void(const QueueEntry&, const QueuedBlock&)>& visit) {
  std::optional<WorkClaims> claims;  // of all lanes, so gathered once, and before the slots
  for (const auto& queue : queues) {
    if (queue.state != QueueState::ready || !queue.broken.empty()) continue;
    const auto visit_block = [&](const QueuedBlock& block) { visit(queue, block); };
    if (queue.is_map()) {
      visit_extents(segment, queue, visit_block);
      continue;
    }
    if (!claims) claims.emplace(segment);
    if (queue.is_work())
      visit_work(segment, queue, *claims, visit_block);
    else
      visit_stream(segment, queue, *claims, visit_block);
  }
}

std::string_view to_string(QueueState state) noexcept {
  switch (state) {
    case QueueState::free: return "free";
    case QueueState::creating: return "creating";
    case QueueState::named: return "named";
    case QueueState::ready: return "ready";
  }
  return "invalid";
}

std::string_view queue_kind_name(std::uint32_t kind) noexcept {
  switch (static_cast<QueueKind>(kind)) {
    case QueueKind::none: return "none";
    case QueueKind::stream: return "stream";
    case QueueKind::work: return "work";
    case QueueKind::broadcast: return "broadcast";
    case QueueKind::extents: return "extents";
  }
  return "invalid";
}

std::string_view subscriber_policy_name(std::uint32_t policy) noexcept {
  switch (static_cast<SubscriberPolicy>(policy)) {
    case SubscriberPolicy::block: return "block";
    case SubscriberPolicy::lose_oldest: return "lose-oldest";
    case SubscriberPolicy::disconnect: return "disconnect";
    case SubscriberPolicy::settling: return "settling";
  }
  return "invalid";
}

std::string_view queue_policy_name(std::uint32_t policy) noexcept {
  switch (static_cast<QueuePolicy>(policy)) {
    case QueuePolicy::block: return "block";
    case QueuePolicy::fail: return "fail";
    case QueuePolicy::drop_oldest: return "drop-oldest";
  }
  return "invalid";
}

}  // namespace sluice::tools
