// The slabs of a heap: which list each is on, and where the next one comes from.
#include "shm/crash_point.hpp"
#include "shm/heap.hpp"

#include <bit>
#include <cstring>

namespace sluice {

namespace {

constexpr std::uint32_t harvest_slabs_per_call =
    64;  // keeps one slow path bounded; the walk goes on next time

}  // namespace

// --- lists ------------------------------------------------------------------------------------------------

Heap::SlabList& Heap::list_of(const Slab& slab, List list) noexcept {
  switch (list) {
    case list_partial: return partial_[slab.size_class];
    case list_full: return full_[slab.size_class];
    default: return empty_;
  }
}

void Heap::link(Slab& slab, List list) noexcept {
  auto& target = list_of(slab, list);
  slab.list = list;
  slab.next = none;
  slab.previous = target.tail;
  (target.tail == none ? target.head : slabs_[target.tail].next) = slab.unit;
  target.tail = slab.unit;
  ++target.count;
}

void Heap::unlink(Slab& slab) noexcept {
  if (slab.list == list_none) return;
  auto& from = list_of(slab, static_cast<List>(slab.list));
  (slab.previous == none ? from.head : slabs_[slab.previous].next) = slab.next;
  (slab.next == none ? from.tail : slabs_[slab.next].previous) = slab.previous;
  --from.count;
  slab.list = list_none;
}

// Put a slab that is not current where its free count says. An empty one above the cache goes to the pool.
void Heap::place(Slab& slab) noexcept {
  unlink(slab);
  if (slab.free_count == 0) {
    link(slab, list_full);
  } else if (slab.free_count < slab.usable) {
    link(slab, list_partial);
  } else if (empty_.count < empty_slabs_max) {
    link(slab, list_empty);
  } else {
    forget(slab);
  }
}

// Give an empty slab's unit to the pool.
void Heap::forget(Slab& slab) noexcept {
  slab.truth = nullptr;
  return_slab(lane_, slab.unit);
  count_up(lane_.row->counters.slabs_returned);
}

Heap::Slab* Heap::make_current(Slab& slab) noexcept {
  unlink(slab);
  return current_[slab.size_class] = &slab;
}

// --- sources of slots --------------------------------------------------------------------------------------

// A current slab of the class with a free slot, from the nearest place that has one.
Heap::Slab* Heap::refill(std::uint32_t size_class) noexcept {
  if (Slab* slab = current_[size_class]) {
    if (slab->free_count != 0 || harvest(*slab) != 0) return slab;
    current_[size_class] = nullptr;
    place(*slab);
  }
  if (Slab* slab = take_partial(size_class)) return slab;
  auto& flagged = lane_.row->remote_classes;
  if (const auto bit = std::uint64_t{1} << size_class; (load(flagged, relaxed) & bit) != 0) {
    fetch_and(flagged, ~bit, seq_cst);  // before the bits are looked at: see flag_remote_free
    if (Slab* slab = harvest_full(size_class, harvest_slabs_per_call)) return slab;
  }
  if (Slab* slab = take_empty(size_class)) return slab;
  if (Slab* slab = adopt_orphan(size_class)) return slab;
  if (Slab* slab = take_fresh(size_class)) return slab;
  return last_resort(size_class);
}

Heap::Slab* Heap::take_partial(std::uint32_t size_class) noexcept {
  const auto unit = partial_[size_class].head;
  return unit == none ? nullptr : make_current(slabs_[unit]);
}

Heap::Slab* Heap::take_empty(std::uint32_t size_class) noexcept {
  // One of the class first: it needs no new cut.
  for (auto unit = empty_.head; unit != none; unit = slabs_[unit].next)
    if (slabs_[unit].size_class == size_class) return make_current(slabs_[unit]);
  if (empty_.head == none) return nullptr;
  auto& slab = slabs_[empty_.head];
  if (recut_slab(lane_, slab.unit, size_class) != Status::ok) return nullptr;
  unlink(slab);
  auto& recut = rebuild(slab.unit, size_class);
  if (recut.free_count != 0) return make_current(recut);
  place(recut);  // every slot of the class is retired
  return nullptr;
}

Heap::Slab* Heap::take_fresh(std::uint32_t size_class) noexcept {
  for (;;) {
    const auto unit = take_slab(lane_, size_class);
    if (!unit) return nullptr;
    count_up(lane_.row->counters.slabs_cut);
    auto& slab = rebuild(*unit, size_class);
    if (slab.free_count != 0) return make_current(slab);
    place(slab);
  }
}

// Take back what others have freed in one slab. Returns how many slots.
std::uint32_t Heap::harvest(Slab& slab) noexcept {
  auto& remote = lane_.segment->remote_bits(slab.unit);
  const auto words = (slab.slots + 63U) / 64;
  std::uint32_t taken = 0;
  for (std::uint32_t word = 0; word < words; ++word) {
    if (load(remote.words[word], seq_cst) == 0) continue;  // after the hint was cleared: see flag_remote_free
    auto bits = exchange(remote.words[word], 0, acquire);  // F2 <- F1 (flag_remote_free)
    crash_point("block.harvest.taken");  // recovery: FREEING without its bit; the adopter frees it
    while (bits != 0) {
      const auto slot = word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
      bits &= bits - 1;
      if (slot >= slab.slots) break;  // stray, from when the unit was cut otherwise
      auto& low = truth_word(slab, slot).low;
      const auto found = load(low, acquire);
      if (!truth::is_given_up(found)) continue;  // stray
      const auto freed = freed_word(truth::Generation::get(found), split_);
      store(low, freed, sluice::release);
      crash_point("block.harvest.freed");
      if (truth::state(freed) == BlockState::free) {
        slab.free[word] |= std::uint64_t{1} << (slot % 64);
        ++slab.free_count;
      } else {
        --slab.usable;
      }
      ++taken;
    }
  }
  count_up(lane_.row->counters.harvested, taken);
  return slab.free_count == 0 ? 0 : taken;
}

// Look through up to `slabs_max` full slabs of the class, from where the last search stopped. The caller has
// cleared the class's flag; it is set again unless every full slab was looked at.
Heap::Slab* Heap::harvest_full(std::uint32_t size_class, std::uint32_t slabs_max) noexcept {
  auto& list = full_[size_class];
  Slab* found = nullptr;
  auto left = list.count;
  for (; left != 0 && slabs_max != 0 && found == nullptr; --left, --slabs_max) {
    auto& slab = slabs_[list.head];
    unlink(slab);
    if (harvest(slab) != 0)
      found = &slab;
    else
      link(slab, list_full);  // to the tail
  }
  if (left != 0) fetch_or(lane_.row->remote_classes, std::uint64_t{1} << size_class, relaxed);
  return found == nullptr ? nullptr : make_current(*found);
}

bool Heap::orphaned(std::uint64_t word) const noexcept {
  if (unit_word::state(word) != UnitState::slab) return false;
  const auto lane = unit_word::Lane::get(word);
  if (lane >= lane_.segment->header().lane_count) return false;
  const auto owner =
      load(lane_.segment->lane_row(lane).word, acquire);  // O1 <- O2 (recover_lane): all it did is seen
  return lane_word::Incarnation::get(owner) != unit_word::Tag::get(word);
}

bool Heap::adopt(std::uint32_t unit, std::uint64_t word) noexcept {
  const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
  if (size_class >= classes_->count()) return false;
  if (!cas(lane_.segment->unit(unit).word, word, lane_.slab_word(size_class), acq_rel)) return false;
  crash_point("slab.adopt.claimed");
  auto& slab = rebuild(unit, size_class);
  crash_point("slab.adopt.rebuilt");
  count_up(lane_.row->counters.slabs_adopted);
  place(slab);
  return true;
}

// Slabs whose lane was released, of one class. A vain search is not repeated until another lane was released.
Heap::Slab* Heap::adopt_orphan(std::uint32_t size_class) noexcept {
  const auto& segment = *lane_.segment;
  const auto releases = load(segment.control().orphan_generation, acquire);
  if (orphans_seen_[size_class] == releases) return nullptr;
  const auto units = segment.units_committed();
  for (std::uint32_t unit = 0; unit < units; ++unit) {
    const auto word = load(segment.unit(unit).word, relaxed);
    if (unit_word::Class::get(word) != size_class || !orphaned(word) || !adopt(unit, word)) continue;
    if (Slab* slab = take_partial(size_class)) return slab;
    if (slabs_[unit].list == list_empty && slabs_[unit].size_class == size_class)
      return make_current(slabs_[unit]);
  }
  orphans_seen_[size_class] = releases;
  return nullptr;
}

// Before saying that there is no room: harvest every slab, adopt every orphan, give empty ones back. With
// `size_class` class_count_max nothing is wanted but free units.
Heap::Slab* Heap::last_resort(std::uint32_t size_class) noexcept {
  const auto& segment = *lane_.segment;
  if (load(segment.control().quarantined, relaxed) != 0) lift_quarantine();
  for (std::uint32_t each = 0; each < classes_->count(); ++each) {
    for (auto left = full_[each].count; left != 0; --left) {
      auto& slab = slabs_[full_[each].head];
      harvest(slab);
      place(slab);
    }
    for (auto left = partial_[each].count; left != 0; --left) {
      auto& slab = slabs_[partial_[each].head];
      harvest(slab);
      place(slab);
    }
    if (Slab* slab = current_[each]; slab != nullptr && each != size_class) {
      harvest(*slab);
      if (slab->free_count == slab->usable) {
        current_[each] = nullptr;
        place(*slab);
      }
    }
  }
  const auto units = segment.units_committed();
  for (std::uint32_t unit = 0; unit < units; ++unit) {
    const auto word = load(segment.unit(unit).word, relaxed);
    if (orphaned(word)) adopt(unit, word);
  }
  if (size_class == class_count_max) {
    while (empty_.head != none) {
      auto& slab = slabs_[empty_.head];
      unlink(slab);
      forget(slab);
    }
    return nullptr;
  }
  if (Slab* slab = take_partial(size_class)) return slab;
  if (Slab* slab = take_empty(size_class)) return slab;
  return take_fresh(size_class);
}

// Learn a slab from its truth words: after cutting, recutting or adopting it.
Heap::Slab& Heap::rebuild(std::uint32_t unit, std::uint32_t size_class) noexcept {
  auto& slab = slabs_[unit];
  std::memset(slab.free, 0, sizeof slab.free);
  slab.truth = &lane_.segment->truth_word(unit, 0);
  slab.unit = unit;
  slab.next = slab.previous = none;
  slab.free_count = 0;
  slab.cursor = 0;
  slab.size_class = static_cast<std::uint8_t>(size_class);
  slab.list = list_none;
  slab.slots = slab.usable = static_cast<std::uint16_t>(classes_->slots(size_class));
  for (std::uint32_t slot = 0; slot < slab.slots; ++slot) {
    auto& low = truth_word(slab, slot).low;
    auto found = load(low, acquire);
    if (truth::is_given_up(found)) {  // the bit may be lost; the owner needs none
      found = freed_word(truth::Generation::get(found), split_);
      store(low, found, sluice::release);
    }
    if (truth::state(found) == BlockState::free) {
      slab.free[slot / 64] |= std::uint64_t{1} << (slot % 64);
      ++slab.free_count;
    } else if (truth::state(found) == BlockState::retired) {
      --slab.usable;
    }
  }
  return slab;
}

}  // namespace sluice
