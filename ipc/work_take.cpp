// The consumer's half of a work queue.
#include "ipc/work_queue.hpp"
#include "shm/block.hpp"
#include "shm/crash_point.hpp"

#include <algorithm>

namespace sluice {

namespace {

constexpr std::uint64_t front_step = 16;  // positions that the front may lag behind this lane's own
constexpr std::uint32_t count_step = 16;  // messages that are done until the row counts their bytes
constexpr std::uint64_t no_version = ~std::uint64_t{0};

// What a slot's stamp says of a position.
enum class Found : std::uint8_t {
  nothing,  // was never pushed, nor anything after it
  claimed,  // is being pushed
  waiting,
  taken,  // is leased or done
};

Found look(std::uint64_t word, std::uint64_t base) noexcept {
  const auto found = work_word::Base::get(word);
  if (found != base)  // of the next turn: done; of the one before: the ring is full up to here
    return ((found - base) & work_word::Base::max) <= work_word::Base::max / 2 ? Found::taken
                                                                               : Found::nothing;
  switch (work_word::state(word)) {
    case WorkState::writing: return Found::claimed;
    case WorkState::full: return Found::waiting;
    case WorkState::leased: return Found::taken;
    case WorkState::empty: break;
  }
  return Found::nothing;
}

}  // namespace

// ---- Taking ----------------------------------------------------------------------------------------------

// The version first: a position that is read after it is as low as that version made it, or was raised since.
void WorkQueue::read_front() noexcept {
  const auto version = load(row_->delivered, acquire);  // F2 <- F1 (lower_work_front)
  front_ = load(row_->head, acquire);
  if (version != version_ || front_ > scan_) scan_ = front_;
  version_ = version;
}

// Not over what has come back since read_front(): its version is another one then.
void WorkQueue::raise_front() noexcept {
  auto position = front_;
  auto version = version_;
  if (scan_ > front_ && cas_wide(row_->head, row_->delivered, position, version, scan_, version_))
    front_ = scan_;
}

bool WorkQueue::is_over_limit(std::uint64_t word) const noexcept {
  const auto limit = load(row_->deliveries_max, relaxed);
  return limit != 0 && work_word::Deliveries::get(word) >= limit;
}

// Lease the first message that waits, for the cell; those over the limit of deliveries too, if `over_limit`.
std::expected<WorkLease, Status> WorkQueue::lease_next(std::uint32_t cell_index, bool over_limit) noexcept {
  auto& cell = lane_->heap().cell(cell_index);
  read_front();
  std::uint64_t first_claimed = ~std::uint64_t{0};
  for (auto position = scan_;;) {
    auto& slot = at(position);
    auto word = load(slot.stamp, acquire);  // W2 <- W1 (publish), W5 (give_back)
    const auto found = look(word, base_of(position));
    if (found == Found::nothing || position - front_ > steps_max()) break;
    if (found == Found::claimed) first_claimed = std::min(first_claimed, position);
    if (found == Found::waiting && (over_limit || !is_over_limit(word))) {
      // What was being pushed when it was passed may be there by now, and its producer may have pushed this after it.
      if (const auto earlier = first_waiting(first_claimed, position, over_limit); earlier != position) {
        position = earlier;
        continue;
      }
      store(cell.aux, aux(cell_aux::lease, position), sluice::release);
      crash_point("work.take.intended");  // recovery: not LEASED by us, the cell is empty
      const auto deliveries = work_word::Deliveries::get(word);
      if (!cas(slot.stamp, word,
               work_word::make(WorkState::leased, base_of(position), lane_->id(), deliveries), acq_rel))
        continue;
      crash_point("work.take.leased");  // recovery: it goes back, delivered once more
      if (position == scan_) ++scan_;
      if (scan_ - front_ >= front_step) raise_front();
      return WorkLease{position, cell_index, static_cast<std::uint32_t>(deliveries)};
    }
    if (found == Found::taken && position == scan_) ++scan_;
    ++position;
  }
  raise_front();
  version_ = no_version;  // the next search begins at the front
  store(cell.aux, cell_aux::at_rest, sluice::release);
  return std::unexpected(Status::empty);
}

// The first position of those from `first` on, which were passed, at which a message waits now; else `end`.
std::uint64_t WorkQueue::first_waiting(std::uint64_t first, std::uint64_t end,
                                       bool over_limit) const noexcept {
  for (auto position = first; position < end; ++position) {
    const auto word = load(at(position).stamp, acquire);  // W2 <- W1 (publish)
    if (look(word, base_of(position)) == Found::waiting && (over_limit || !is_over_limit(word)))
      return position;
  }
  return end;
}

std::expected<WorkLease, Status> WorkQueue::take() noexcept {
  auto& heap = lane_->heap();
  for (bool can_bury = buries();;) {
    const auto cell = heap.reserve_cell();
    if (!cell) return std::unexpected(cell.error());
    const auto lease = lease_next(*cell, can_bury);
    if (!lease) {
      heap.unreserve_cell(*cell);
      count_done();
      return lease;
    }
    if (load(row_->deliveries_max, relaxed) == 0 || lease->deliveries < load(row_->deliveries_max, relaxed)) {
      if (lease->deliveries != 0) {
        count_up(lane_->counters().redelivered);
        fetch_add(row_->redelivered, 1, relaxed);
      }
      return lease;
    }
    const auto buried = bury(*lease);
    if (buried == Status::no_cell) return std::unexpected(buried);
    can_bury = buried == Status::ok;
  }
}

// Send a message that was delivered too often away. If it cannot be, it stays and waits.
Status WorkQueue::bury(const WorkLease& lease) noexcept {
  const auto status = forward(lease, *dead_letter_, *message(lease));
  if (status == Status::ok) {
    fetch_add(row_->dead_lettered, 1, relaxed);
    return status;
  }
  const auto policy = static_cast<QueuePolicy>(load(dead_letter_->row_->policy, relaxed));
  if (status == Status::full && policy == QueuePolicy::fail) return acknowledge(lease);
  give_back(lease, lease.deliveries);
  return status;
}

// Whether a push would end here rather than wait: there is room, or can be made, or it would be dropped.
bool WorkQueue::takes_one() const noexcept {
  if (has_room()) return true;
  switch (static_cast<QueuePolicy>(load(row_->policy, relaxed))) {
    case QueuePolicy::fail: return true;
    case QueuePolicy::drop_oldest:
      return work_word::state(load(at(load(row_->tail, acquire)).stamp, acquire)) == WorkState::full;
    case QueuePolicy::block: break;
  }
  return false;
}

// Whether what is over the limit can be sent away.
bool WorkQueue::buries() const noexcept {
  return dead_letter_ && !dead_letter_->closed() && dead_letter_->takes_one();
}

bool WorkQueue::has_message() const noexcept {
  const bool can_bury = buries();
  const auto front = load(row_->head, acquire);
  for (auto position = front; position - front <= steps_max(); ++position) {
    const auto word = load(at(position).stamp, acquire);  // W2 <- W1, W5
    const auto found = look(word, base_of(position));
    if (found == Found::nothing) return false;
    if (found == Found::waiting && (can_bury || !is_over_limit(word))) return true;
  }
  return false;
}

bool WorkQueue::is_done(std::uint64_t position) const noexcept {
  const auto word = load(at(position).stamp, acquire);  // W4 <- W3 (done)
  return work_word::Base::get(word) != base_of(position);
}

// L2 <- L1 (close): who claimed a slot and saw the queue open before is seen here.
bool WorkQueue::ended() const noexcept { return closed() && is_empty(); }

std::uint64_t WorkQueue::in_use() const noexcept {
  std::uint64_t found = 0;
  for (std::uint64_t i = 0; i <= mask_; ++i)
    found += work_word::state(load(ring_[i].stamp, acquire)) != WorkState::empty ? 1U : 0U;
  return found;
}

bool WorkQueue::is_empty() const noexcept {
  for (std::uint64_t i = 0; i <= mask_; ++i)
    if (work_word::state(load(ring_[i].stamp, seq_cst)) != WorkState::empty) return false;
  return true;
}

// ---- Leases ----------------------------------------------------------------------------------------------

// The slot of a lease that this lane has; null: it has no such, or not any more.
Message* WorkQueue::slot_of(const WorkLease& lease) const noexcept {
  auto& heap = lane_->heap();
  if (lease.cell >= heap.lane().cell_count ||
      load(heap.cell(lease.cell).aux, relaxed) != aux(cell_aux::lease, lease.position))
    return nullptr;
  auto& slot = at(lease.position);
  const auto word = load(slot.stamp, relaxed);
  const bool is_ours = work_word::state(word) == WorkState::leased &&
                       work_word::Lane::get(word) == lane_->id() &&
                       work_word::Base::get(word) == base_of(lease.position);
  return is_ours ? &slot : nullptr;
}

const Message* WorkQueue::message(const WorkLease& lease) const noexcept { return slot_of(lease); }

std::span<std::byte> WorkQueue::bytes(const WorkLease& lease) const noexcept {
  const auto* slot = slot_of(lease);
  if (slot == nullptr) return {};
  const auto block = find_block(lane_->segment(), {slot->handle});
  if (!block || slot->offset > block->bytes || slot->length > block->bytes - slot->offset) return {};
  return block->span().subspan(slot->offset, slot->length);
}

std::expected<Reference, Status> WorkQueue::keep(const WorkLease& lease) noexcept {
  auto* slot = slot_of(lease);
  if (slot == nullptr) return std::unexpected(Status::stale);
  const Handle handle{load(slot->handle, relaxed)};
  const auto length = load(slot->length, relaxed);
  auto& heap = lane_->heap();
  auto& cell = heap.cell(lease.cell);
  if (handle) {
    store(cell.aux, aux(cell_aux::acknowledge, lease.position), sluice::release);
    crash_point("work.done.announced");
    store(cell.handle, handle.value, sluice::release);
    crash_point("work.done.filled");  // recovery: LEASED still, the slot holds it and it goes back
  }
  empty_slot(*slot, lease.position);
  crash_point("work.done.emptied");  // recovery: not LEASED, the cell holds it
  store(cell.aux, cell_aux::at_rest, sluice::release);
  crash_point("work.done.cleared");
  if (!handle) heap.unreserve_cell(lease.cell);
  finish(length);
  return handle ? Reference{handle, lease.cell} : Reference{};
}

Status WorkQueue::acknowledge(const WorkLease& lease) noexcept {
  const auto reference = keep(lease);
  if (!reference || !*reference) return reference ? Status::ok : reference.error();
  auto& heap = lane_->heap();
  if (heap.release(*reference) != Status::ok) {  // it named no live block
    store(heap.cell(reference->cell).handle, 0, sluice::release);
    heap.unreserve_cell(reference->cell);
  }
  return Status::ok;
}

Status WorkQueue::reject(const WorkLease& lease) noexcept {
  if (slot_of(lease) == nullptr) return Status::stale;
  give_back(lease, std::min<std::uint64_t>(lease.deliveries + 1, work_word::Deliveries::max));
  return Status::ok;
}

void WorkQueue::give_back(const WorkLease& lease, std::uint64_t deliveries) noexcept {
  auto& heap = lane_->heap();
  // W5 -> W2 (take)
  store(at(lease.position).stamp, work_word::make(WorkState::full, base_of(lease.position), 0, deliveries),
        sluice::release);
  crash_point("work.reject.returned");  // recovery: the front is lowered for each lease, over or not
  lower_work_front(*row_, lease.position);
  crash_point("work.reject.lowered");
  store(heap.cell(lease.cell).aux, cell_aux::at_rest, sluice::release);
  heap.unreserve_cell(lease.cell);
  wake_one(lane_->segment(), row_->consumers_waiting);
}

// Make room, for who pushes, by dropping the message at `position`, a whole ring behind: the oldest that there is; over
// the limit or not. That one or none: another makes no room. False: there is no cell for that.
bool WorkQueue::drop(std::uint64_t position, std::uint64_t word) noexcept {
  auto& heap = lane_->heap();
  const auto index = heap.reserve_cell();
  if (!index) return false;
  auto& cell = heap.cell(*index);
  const auto deliveries = work_word::Deliveries::get(word);
  store(cell.aux, aux(cell_aux::lease, position), sluice::release);
  crash_point("work.take.intended");
  if (!cas(at(position).stamp, word,
           work_word::make(WorkState::leased, base_of(position), lane_->id(), deliveries), acq_rel)) {
    store(cell.aux, cell_aux::at_rest, sluice::release);
    heap.unreserve_cell(*index);
    return true;  // somebody has taken it
  }
  crash_point("work.take.leased");
  fetch_add(row_->dropped, 1, relaxed);
  const auto status = acknowledge({position, *index, static_cast<std::uint32_t>(deliveries)});
  read_front();
  scan_ = std::max(scan_, position + 1);  // what was before it is done
  if (scan_ - front_ >= front_step) raise_front();
  return status == Status::ok;
}

void WorkQueue::empty_slot(Message& slot, std::uint64_t position) noexcept {
  // W3 -> W4 (claim_slot): the message was read
  store(slot.stamp, work_word::make(WorkState::empty, base_of(position) + capacity()), sluice::release);
}

void WorkQueue::finish(std::uint64_t bytes) noexcept {
  auto& counters = lane_->counters();
  count_up(counters.messages_in);
  count_up(counters.bytes_in, bytes);
  bytes_done_ += bytes;
  if (++done_ == count_step) count_done();
  wake_one(lane_->segment(), row_->producers_waiting);
  if (load(row_->consumers_waiting, relaxed) != 0 && closed())  // this may have been the last
    wake_all(lane_->segment(), row_->consumers_waiting);
}

void WorkQueue::count_done() noexcept {
  if (bytes_done_ != 0) fetch_add(row_->bytes_out, bytes_done_, relaxed);
  bytes_done_ = done_ = 0;
}

}  // namespace sluice
