#include "ipc/work_queue.hpp"

#include "ipc/message_ring.hpp"
#include "shm/block.hpp"
#include "shm/crash_point.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace sluice {

namespace {

// Whether a slot for `base` is for an earlier position than one with `other`; both are modulo 2^40.
bool is_before(std::uint64_t base, std::uint64_t other) noexcept {
  return ((base - other) & work_word::Base::max) > work_word::Base::max / 2;
}

void raise(std::uint64_t& word, std::uint64_t value) noexcept {
  auto found = load(word, relaxed);
  while (found < value && !cas(word, found, value, relaxed)) {}
}

}  // namespace

// ---- Creating --------------------------------------------------------------------------------------------

Expected<QueueId> create_work_queue(Lane& lane, std::string_view name, const WorkOptions& options) {
  if (auto sound = check_capacity(name, options.capacity); !sound) return std::unexpected(sound.error());
  if (options.deliveries_max > work_word::Deliveries::max)
    return fail(Status::bad_argument, fmt::format("queue {}: {} deliveries, expected at most {}", name,
                                                  options.deliveries_max, work_word::Deliveries::max));
  if ((options.deliveries_max == 0) != options.dead_letter.empty())
    return fail(Status::bad_argument,
                fmt::format("queue {}: a limit of deliveries and a dead letter queue go together", name));
  std::uint64_t dead_letter = 0;
  if (!options.dead_letter.empty()) {
    const auto target = find_queue(lane.segment(), options.dead_letter);
    if (!target) return std::unexpected(target.error());
    const auto kind = static_cast<QueueKind>(load(queue_row(lane.segment(), target->index).kind, relaxed));
    if (kind != QueueKind::work)
      return fail(Status::bad_argument, fmt::format("queue {}: found {}, expected a work queue",
                                                    options.dead_letter, kind_name(kind)));
    dead_letter = packed(*target);
  }
  const auto slots = std::bit_ceil(options.capacity);
  return create_queue(lane, name,
                      {.kind = QueueKind::work,
                       .capacity = slots,
                       .slots = slots,
                       .slot_bytes = sizeof(Message),
                       .policy = options.policy,
                       .deliveries_max = options.deliveries_max,
                       .dead_letter = dead_letter});
}

Expected<QueueId> find_or_create_work_queue(Lane& lane, std::string_view name, const WorkOptions& options) {
  const auto id = find_or_create(lane.segment(), name, QueueKind::work, options.policy,
                                 [&] { return create_work_queue(lane, name, options); });
  if (!id) return id;
  const auto& row = queue_row(lane.segment(), id->index);
  const auto same =
      expect_same(*id, name,
                  {{"capacity", load(row.capacity, relaxed), std::bit_ceil(options.capacity)},
                   {"limit of deliveries", load(row.deliveries_max, relaxed), options.deliveries_max}});
  if (!same || options.dead_letter.empty()) return same;
  const auto target = find_queue(lane.segment(), options.dead_letter);
  if (!target) return target;
  const auto found = unpacked(load(row.dead_letter, relaxed));
  if (found == *target) return id;
  const bool is_there = found.index < lane.segment().header().queue_count;
  return fail(Status::bad_argument,
              fmt::format("queue {}: found the dead letter queue {}, expected {}", name,
                          is_there ? queue_name(queue_row(lane.segment(), found.index)) : "of a damaged row",
                          options.dead_letter));
}

std::expected<WorkQueue, Status> WorkQueue::attach(Lane& lane, QueueId queue) noexcept {
  const auto end = RingEnd::open(lane, queue, QueueKind::work);
  if (!end) return std::unexpected(end.error());
  WorkQueue opened;
  opened.lane_ = &lane;
  opened.row_ = end->row;
  opened.ring_ = end->slots;
  opened.id_ = queue;
  opened.mask_ = end->mask;
  opened.version_ = ~std::uint64_t{0};
  return opened;
}

std::expected<WorkQueue, Status> WorkQueue::open(Lane& lane, QueueId queue) noexcept {
  auto opened = attach(lane, queue);
  if (!opened) return opened;
  const auto word = load(opened->row_->dead_letter, relaxed);
  if (word == 0) return opened;
  auto dead_letter = attach(lane, unpacked(word));
  if (!dead_letter) return dead_letter;
  opened->dead_letter_.reset(new (std::nothrow) WorkQueue(std::move(*dead_letter)));
  if (!opened->dead_letter_) return std::unexpected(Status::exhausted);
  return opened;
}

// ---- Pushing ---------------------------------------------------------------------------------------------

bool WorkQueue::has_room() const noexcept {
  const auto position = load(row_->tail, acquire);
  // Another state of the same turn: claimed, and tail is behind. The push will see.
  return !is_before(work_word::Base::get(load(at(position).stamp, acquire)), base_of(position));  // W4 <- W3
}

// Claim the slot at tail for the cell. Nothing is pushed after a close: who sees the queue closed after its claim
// gives it up, and who ends sees the claim.
std::expected<std::uint64_t, Status> WorkQueue::claim_slot(std::uint32_t cell_index) noexcept {
  auto& cell = lane_->heap().cell(cell_index);
  const auto refuse = [&](Status status) {
    store(cell.aux, cell_aux::at_rest, sluice::release);
    return std::unexpected(status);
  };
  for (;;) {
    if (closed()) return refuse(Status::closed);
    auto position = load(row_->tail, acquire);
    const auto base = base_of(position);
    auto& slot = at(position);
    auto word = load(slot.stamp, acquire);  // W4 <- W3 (done): who worked on it is through
    if (word != work_word::make(WorkState::empty, base)) {
      if (!is_before(work_word::Base::get(word), base)) {
        cas(row_->tail, position, position + 1, acq_rel);  // claimed; whoever did has not said so yet
      } else if (load(row_->tail, acquire) == position) {
        raise(row_->high_water, capacity());
        // The slot at tail is the oldest: if it is worked on, dropping others makes no room.
        if (load(row_->policy, relaxed) == static_cast<std::uint32_t>(QueuePolicy::drop_oldest) &&
            work_word::state(word) == WorkState::full && drop(position - capacity(), word))
          continue;
        return refuse(Status::full);
      }
      continue;
    }
    store(cell.aux, aux(cell_aux::claim, position), sluice::release);
    crash_point("work.push.intended");  // recovery: no claim of ours, the cell keeps what it holds
    if (!cas(slot.stamp, word, work_word::make(WorkState::writing, base, lane_->id()), seq_cst)) continue;
    crash_point("work.push.claimed");  // recovery: the claim is taken back, the position stays empty
    auto tail = position;
    cas(row_->tail, tail, position + 1, acq_rel);
    if (closed()) {  // L2 <- L1 (close)
      store(slot.stamp, work_word::make(WorkState::empty, base + capacity()), sluice::release);
      crash_point("work.push.withdrawn");
      wake_all(lane_->segment(),
               row_->consumers_waiting);  // it may have been what kept the queue from ending
      return refuse(Status::closed);
    }
    return position;
  }
}

void WorkQueue::publish(const Message& message, Handle handle, std::uint64_t position) noexcept {
  auto& slot = at(position);
  fill_slot(slot, message, handle);
  crash_point("work.push.filled");
  // W1 -> W2 (take): the message precedes its stamp
  store(slot.stamp, work_word::make(WorkState::full, base_of(position)), sluice::release);
  crash_point("work.push.published");  // recovery: not WRITING any more, the cell is void
}

Status WorkQueue::push(const Message& message, Handle handle, std::uint32_t cell_index) noexcept {
  auto& heap = lane_->heap();
  const auto position = make_place({}, cell_index);
  if (!position) return position.error();
  auto& cell = heap.cell(cell_index);
  store(cell.aux, aux(cell_aux::publish, *position), sluice::release);
  crash_point("work.push.announced");  // recovery: still WRITING, as if it was not there
  const auto length = load(message.length, relaxed);
  publish(message, handle, *position);
  store(cell.handle, 0, sluice::release);
  crash_point("work.push.emptied");
  store(cell.aux, cell_aux::at_rest, sluice::release);
  crash_point("work.push.cleared");
  heap.unreserve_cell(cell_index);
  last_pushed_ = *position;
  pushed(*position, length);
  return Status::ok;
}

std::expected<std::uint64_t, Status> WorkQueue::make_place(Handle, std::uint32_t cell) noexcept {
  const auto position = claim_slot(cell);
  if (!position && position.error() == Status::full &&
      load(row_->policy, relaxed) != static_cast<std::uint32_t>(QueuePolicy::block))
    fetch_add(row_->refused, 1, relaxed);
  return position;
}

// The cell holds nothing, only tells of the claim.
void WorkQueue::arrive(std::uint64_t position, const Message& message, Handle handle,
                       std::uint32_t cell) noexcept {
  store(lane_->heap().cell(cell).aux, aux(cell_aux::publish, position), sluice::release);
  crash_point("queue.forward.announced");  // recovery: still WRITING, it stays where it is
  publish(message, handle, position);
}

void WorkQueue::pushed(std::uint64_t position, std::uint64_t bytes) noexcept {
  fetch_add(row_->bytes_in, bytes, relaxed);
  if (position % high_water_step == 0)
    raise(row_->high_water,
          std::min(position + 1 - std::min(load(row_->head, relaxed), position), capacity()));
  auto& counters = lane_->counters();
  count_up(counters.messages_out);
  count_up(counters.bytes_out, bytes);
  wake_one(lane_->segment(), row_->consumers_waiting);
  // Room comes for several at once when the oldest lease is the last to end: who got in lets the next one know.
  if (load(row_->producers_waiting, relaxed) != 0 && has_room())
    wake_one(lane_->segment(), row_->producers_waiting);
}

Status WorkQueue::push(const Message& message, Reference reference) noexcept {
  if (const auto status = lane_->heap().may_move(reference); status != Status::ok) return status;
  return push(message, reference.handle, reference.cell);
}

Status WorkQueue::push(const Message& message) noexcept {
  const auto cell = lane_->heap().reserve_cell();
  if (!cell) return cell.error();
  const auto status = push(message, {}, *cell);
  if (status != Status::ok) lane_->heap().unreserve_cell(*cell);
  return status;
}

void WorkQueue::close() noexcept {
  store(row_->closed, 1, seq_cst);  // L1 -> L2 (claim_slot, ended)
  wake_all(lane_->segment(), row_->consumers_waiting);
  wake_all(lane_->segment(), row_->producers_waiting);
}

void WorkQueue::reopen() noexcept {
  store(row_->closed, 0, seq_cst);
  wake_all(lane_->segment(), row_->producers_waiting);
}

// ---- Waiting ---------------------------------------------------------------------------------------------

WaitSource WorkQueue::messages() const noexcept {
  return {this,
          [](const void* of) noexcept {
            const auto& queue = *static_cast<const WorkQueue*>(of);
            return queue.has_message() || queue.ended();
          },
          &row_->consumers_waiting, &row_->take_waits};
}

WaitSource WorkQueue::room_source() noexcept {
  return {this,
          [](const void* of) noexcept {
            const auto& queue = *static_cast<const WorkQueue*>(of);
            return queue.has_room() || queue.closed();
          },
          &row_->producers_waiting, &row_->push_waits};
}

}  // namespace sluice
