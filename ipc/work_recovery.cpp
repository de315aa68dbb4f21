// What a dead lane left in work queues. Each store leaves a state from which the next recoverer does the rest.
#include "ipc/work_queue.hpp"

#include "shm/crash_point.hpp"

#include <algorithm>

namespace sluice {

namespace {

struct Place {
  StreamRing ring;
  QueueRow* row = nullptr;
  std::uint64_t position = 0;  // modulo 2^40
  Message* slot = nullptr;

  std::uint64_t base() const noexcept { return position & ~(ring.capacity - 1); }
  std::uint64_t next_base() const noexcept { return (base() + ring.capacity) & work_word::Base::max; }
  bool is(WorkState state) const noexcept {
    const auto word = load(slot->stamp, acquire);
    return work_word::state(word) == state && work_word::Base::get(word) == base();
  }
  bool is_by(WorkState state, const LaneView& lane) const noexcept {
    return is(state) && work_word::Lane::get(load(slot->stamp, acquire)) == lane.id;
  }
};

std::optional<Place> place_of(const Segment& segment, std::uint64_t aux) noexcept {
  const auto queue = cell_aux::Queue::get(aux);
  if (queue >= segment.header().queue_count) return std::nullopt;
  auto& row = queue_row(segment, queue);
  const auto ring = sound_ring(segment, row, QueueKind::work);
  if (!ring) return std::nullopt;
  const auto position = cell_aux::Position::get(aux);
  return Place{*ring, &row, position, &ring->at(position)};
}

// A claim that was not published becomes a position at which nothing was pushed.
void withdraw(const LaneView& lane, Cell& cell, std::uint64_t aux, const Place& place) noexcept {
  if (!place.is_by(WorkState::writing, lane)) {
    if (cell_aux::Kind::get(aux) == cell_aux::publish) store(cell.handle, 0, release);
    return;
  }
  // Without this the cell would say, once the slot is empty, that it was published.
  store(cell.aux, cell_aux::Kind::set(aux, cell_aux::claim), release);
  crash_point("recover.work.claim");
  store(place.slot->stamp, work_word::make(WorkState::empty, place.next_base()), release);
  crash_point("recover.work.withdrawn");
}

void give_back(const LaneView& lane, Cell& cell, std::uint64_t aux, const Place& place) noexcept {
  store(cell.handle, 0, release);
  store(cell.aux, cell_aux::Kind::set(aux, cell_aux::lease), release);
  crash_point("recover.work.lease");
  if (place.is_by(WorkState::leased, lane)) {
    const auto deliveries = work_word::Deliveries::get(load(place.slot->stamp, relaxed));
    const auto more = std::min(deliveries + 1, work_word::Deliveries::max);
    store(place.slot->stamp, work_word::make(WorkState::full, place.base(), 0, more), release);  // W5 -> W2
    crash_point("recover.work.returned");
  }
  // Also where nothing was leased: whoever gave it back may have died before this.
  const auto front = load(place.row->head, acquire);
  const auto behind = (front - place.position) & cell_aux::Position::max;
  lower_work_front(*place.row, behind <= cell_aux::Position::max / 2 ? front - behind : front);
  crash_point("recover.work.lowered");
}

}  // namespace

void lower_work_front(QueueRow& row, std::uint64_t position) noexcept {
  auto front = load(row.head, acquire);
  auto version = load(row.delivered, acquire);
  for (;;) {
    // Who lowers late may mean a position that was done long ago. All that is a ring behind tail is.
    const auto tail = load(row.tail, acquire);
    const auto least = tail - std::min<std::uint64_t>(tail, load(row.capacity, relaxed));
    const auto lowered = std::max(std::min(front, position), least);
    if (cas_wide(row.head, row.delivered, front, version, lowered, version + 1))
      return;  // F1 -> F2 (read_front)
  }
}

bool is_published(const LaneView& lane, std::uint64_t aux) noexcept {
  const auto place = place_of(*lane.segment, aux);
  return place && !place->is_by(WorkState::writing, lane);
}

void settle_work_cell(const LaneView& lane, Cell& cell) noexcept {
  const auto aux = load(cell.aux, acquire);
  const auto kind = cell_aux::Kind::get(aux);
  const auto place = place_of(*lane.segment, aux);
  if (!place) {  // no such queue: damaged
    if (kind != cell_aux::claim && kind != cell_aux::acknowledge) store(cell.handle, 0, release);
    return;
  }
  if (kind == cell_aux::claim || kind == cell_aux::publish) return withdraw(lane, cell, aux, *place);
  const bool is_leased = place->is_by(WorkState::leased, lane);
  if (kind == cell_aux::acknowledge && !is_leased) return;  // done: the cell holds the block
  if (kind != cell_aux::forwarded) return give_back(lane, cell, aux, *place);
  if (is_leased) store(place->slot->stamp, work_word::make(WorkState::empty, place->next_base()), release);
  crash_point("recover.forward.emptied");
}

bool work_cell_holds(const Segment& segment, std::uint64_t aux) noexcept {
  const auto place = place_of(segment, aux);
  if (!place) return true;
  switch (cell_aux::Kind::get(aux)) {
    case cell_aux::claim: return true;
    case cell_aux::publish: return place->is(WorkState::writing);
    case cell_aux::acknowledge: return !place->is(WorkState::leased);
    default: return false;  // leases hold nothing
  }
}

}  // namespace sluice
