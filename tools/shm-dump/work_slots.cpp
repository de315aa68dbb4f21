#include "tools/shm-dump/work_slots.hpp"

#include "ipc/queues.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <algorithm>

namespace sluice::tools {

namespace {

// The message and its stamp of one moment, where the slot stands still for that long.
std::uint64_t read_slot(const Message& message, WorkSlot& slot) noexcept {
  constexpr int tries = 4;
  std::uint64_t word = 0;
  for (int i = 0; i < tries; ++i) {
    word = load(message.stamp, acquire);
    slot.handle = load(message.handle, relaxed);
    slot.bytes = load(message.length, relaxed);
    slot.receive_ns = load(message.receive_ns, relaxed);
    std::atomic_thread_fence(acquire);
    if (load(message.stamp, relaxed) == word) break;
  }
  return word;
}

WorkLeases& leases_of(std::vector<WorkLeases>& leases, const WorkSlot& slot) {
  const auto place = std::ranges::lower_bound(leases, slot.lane, {}, &WorkLeases::lane);
  if (place != leases.end() && place->lane == slot.lane) return *place;
  return *leases.insert(place, {slot.lane, 0, slot});
}

}  // namespace

std::uint64_t visit_work_slots(const Segment& segment, const QueueEntry& queue,
                               const std::function<void(const WorkSlot&)>& visit) {
  if (queue.state != QueueState::ready || !queue.broken.empty()) return 0;
  const auto& row = queue_row(segment, queue.index);
  const auto* ring = reinterpret_cast<const Message*>(segment.unit_address(queue.first_unit));
  const std::uint64_t capacity = queue.capacity;
  const auto first = queue.tail - capacity;  // the lowest position that a slot can be for
  std::uint64_t unreadable = 0;
  for (std::uint64_t i = 0; i < capacity; ++i) {
    const auto index = (queue.tail + i) & (capacity - 1);
    WorkSlot slot;
    const auto word = read_slot(ring[index], slot);
    const auto base = work_word::Base::get(word);
    // A stamp has 40 bits of the position: the rest is that of tail, which has moved on meanwhile.
    const auto distance = (base + index - first) & work_word::Base::max;
    const auto farthest = 2 * capacity + (load(row.tail, acquire) - queue.tail);
    if (work_word::State::get(word) > static_cast<std::uint64_t>(WorkState::leased) || base % capacity != 0 ||
        distance > farthest) {
      ++unreadable;
      continue;
    }
    slot.state = work_word::state(word);
    if (slot.state == WorkState::empty) continue;
    slot.position = first + distance;
    slot.lane = work_word::Lane::get(word);
    slot.deliveries = work_word::Deliveries::get(word);
    if (slot.state == WorkState::writing) slot.handle = slot.bytes = slot.receive_ns = 0;
    visit(slot);
  }
  return unreadable;
}

WorkSlots read_work_slots(const Segment& segment, const QueueEntry& queue) {
  WorkSlots slots;
  slots.unreadable = visit_work_slots(segment, queue, [&](const WorkSlot& slot) {
    if (slots.in_use() == 0 || slot.position < slots.oldest.position) slots.oldest = slot;
    if (slot.state == WorkState::writing) {
      ++slots.writing;
      return;
    }
    if (slot.deliveries != 0) slots.redelivered.push_back(slot);
    if (slot.state == WorkState::leased) {
      ++slots.leased;
      ++leases_of(slots.leases, slot).count;
      return;
    }
    if (slots.waiting++ == 0) slots.oldest_waiting = slot;
    if (queue.deliveries_max != 0 && slot.deliveries >= queue.deliveries_max) ++slots.parked;
  });
  if (slots.in_use() != 0) slots.span = queue.tail - std::min(queue.tail, slots.oldest.position);
  return slots;
}

}  // namespace sluice::tools
