#include "shm/heap.hpp"

#include "shm/crash_point.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include <sys/mman.h>

namespace sluice {

namespace {

constexpr std::uint32_t harvest_slabs_per_call =
    64;  // keeps one slow path bounded; the walk goes on next time

}  // namespace

Heap::Heap(const LaneView& lane)
    : lane_(lane),
      split_(lane.segment->split()),
      band_stride_(lane.segment->geometry().units_max * slots_per_band),
      classes_(&lane.segment->classes()) {
  // One record per unit that a handle can name; pages appear as units become this lane's.
  slabs_bytes_ = (std::size_t{1} << split_.unit_bits) * sizeof(Slab);
  void* memory = ::mmap(nullptr, slabs_bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();  // caught by Lane::claim
  slabs_ = static_cast<Slab*>(memory);
  orphans_seen_.fill(~std::uint64_t{0});
  free_cells_.items = std::make_unique<std::uint32_t[]>(lane.cell_count);
  for (auto cell = lane.cell_count; cell > recovery_cells; --cell)
    if (load(lane.cells[cell - 1].handle, relaxed) == 0) free_cells_.push(cell - 1);
}

Heap::~Heap() { ::munmap(slabs_, slabs_bytes_); }

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

// --- slots ------------------------------------------------------------------------------------------------

// The next free slot in the slab's order: word by word, and in a word every eighth slot, eight times. Truth words
// lie four to a cache line, and lines are fetched in pairs; the pair that the last block's consumer is writing is
// not needed for the next block (docs/decisions/0004-every-eighth-slot.md).
std::uint32_t Heap::next_slot(Slab& slab) noexcept {
  constexpr std::uint64_t every_eighth = 0x0101'0101'0101'0101;
  // The cursor counts places in that order: word:4 | column:3 | place:3.
  std::uint32_t word = slab.cursor / 64U;
  std::uint32_t column = slab.cursor / 8U % 8;
  auto bits =
      slab.free[word] & (every_eighth << column) & (~std::uint64_t{0} << (slab.cursor % 8U * 8 + column));
  while (bits == 0) {  // free_count is not 0: one turn round the slab finds it
    if (++column == 8) {
      column = 0;
      if (++word == (slab.slots + 63U) / 64) word = 0;
    }
    bits = slab.free[word] & (every_eighth << column);
  }
  const auto bit = static_cast<std::uint32_t>(std::countr_zero(bits));
  slab.free[word] &= ~(std::uint64_t{1} << bit);
  --slab.free_count;
  const auto next = word * 64 + column * 8 + bit / 8 + 1;
  slab.cursor = static_cast<std::uint16_t>(next / 64 < (slab.slots + 63U) / 64 ? next : 0);
  return word * 64 + bit;
}

Reference Heap::take_slot(Slab& slab) noexcept {
  const auto slot = next_slot(slab);
  // The next block's truth word and first line were last at whoever consumed it: fetch them while this one is
  // filled.
  if (const auto next = slot + 8U; next < slab.slots) {
    prefetch_to_write(&truth_word(slab, next));
    prefetch_to_write(lane_.segment->unit_address(slab.unit) +
                      std::size_t{next} * classes_->bytes(slab.size_class));
  }
  const auto index = free_cells_.pop();
  auto& low = truth_word(slab, slot).low;
  const auto generation = truth::next_generation(load(low, relaxed));  // only the owner leaves FREE
  const auto handle = split_.make(generation, slab.unit, slot);
  store(lane_.cells[index].handle, handle.value, sluice::release);
  crash_point("block.allocate.announced");  // recovery: the word is not LIVE, the cell is void
  store(low, truth::make(generation, 1, BlockState::live), sluice::release);
  crash_point("block.allocate.live");  // recovery: the cell holds the block
  count_up(lane_.row->counters.allocations);
  return {handle, index};
}

void Heap::slot_freed(Slab& slab, std::uint32_t slot) noexcept {
  slab.free[slot / 64] |= std::uint64_t{1} << (slot % 64);
  ++slab.free_count;
  if (current_[slab.size_class] == &slab) return;
  if (slab.free_count == 1 || slab.free_count == slab.usable) place(slab);
}

std::span<std::byte> Heap::bytes(Reference reference) const noexcept {
  const auto view = find_block(*lane_.segment, reference.handle);
  return view ? view->span() : std::span<std::byte>{};
}

std::expected<std::uint32_t, Status> Heap::reserve_cell() noexcept {
  if (free_cells_.count == 0) flush();
  if (free_cells_.count == 0) return std::unexpected(Status::no_cell);
  return free_cells_.pop();
}

// --- release ----------------------------------------------------------------------------------------------

Status Heap::release(Reference reference) noexcept {
  if (reference.cell >= lane_.cell_count) [[unlikely]]
    return Status::bad_argument;
  auto& cell = lane_.cells[reference.cell];
  if (!reference || load(cell.handle, relaxed) != reference.handle.value) [[unlikely]]
    return Status::stale;
  auto& slab = slabs_[split_.unit(reference.handle)];
  const auto slot = split_.slot(reference.handle);
  if (slab.truth == nullptr || slot >= slab.slots) return release_elsewhere(reference);

  auto& low = truth_word(slab, slot).low;
  const auto generation = split_.generation(reference.handle);
  if (load(low, relaxed) != truth::make(generation, 1, BlockState::live)) [[unlikely]]
    return Status::stale;  // released as another lane's, before this one adopted the slab
  const auto word = freed_word(generation, split_);
  store(low, word, sluice::release);
  crash_point("block.free_local.freed");  // recovery: the generation is over, the cell is void
  store(cell.handle, 0, sluice::release);
  crash_point("block.free_local.cleared");
  free_cells_.push(reference.cell);
  count_up(lane_.row->counters.frees_local);
  if (truth::state(word) == BlockState::free) [[likely]] {
    slot_freed(slab, slot);
  } else {
    --slab.usable;
    if (current_[slab.size_class] != &slab && slab.free_count == slab.usable) place(slab);
  }
  return Status::ok;
}

// A run, or a block in a slab that is not this lane's.
Status Heap::release_elsewhere(Reference reference) noexcept {
  const auto found = find_block(*lane_.segment, reference.handle);
  if (!found) return found.error();  // FREEING: released before, and not flagged yet
  const auto& block = *found;
  if (block.is_run) {
    free_run(lane_, block, reference.cell);
    free_cells_.push(reference.cell);
    count_up(lane_.row->counters.frees_local);
    return Status::ok;
  }
  store(block.word->low, truth::make(truth::Generation::get(block.low), 0, BlockState::freeing),
        sluice::release);
  crash_point("block.free_remote.freeing");  // recovery: the cell is there, the flag is set again
  pending_[pending_count_++] = {reference.cell, block.unit, block.slot};
  pending_bytes_ += block.bytes;
  count_up(lane_.row->counters.frees_remote);
  if (pending_count_ == pending_max || pending_bytes_ >= pending_bytes_max) flush_pending();
  return Status::ok;
}

// One locked instruction tells an owner of up to 64 blocks. The cells stay until then: they are what a
// recoverer finds the blocks by.
void Heap::flush_pending() noexcept {
  const auto& segment = *lane_.segment;
  std::uint32_t done = 0;
  static_assert(pending_max <= 32);
  for (std::uint32_t i = 0; i < pending_count_; ++i) {
    if ((done >> i & 1) != 0) continue;
    const auto unit = pending_[i].unit;
    const auto word = pending_[i].slot / 64;
    std::uint64_t bits = 0;
    for (std::uint32_t j = i; j < pending_count_; ++j) {
      if (pending_[j].unit != unit || pending_[j].slot / 64 != word) continue;
      bits |= std::uint64_t{1} << (pending_[j].slot % 64);
      done |= 1U << j;
    }
    auto& owner = flag_remote_free(segment, unit, word, bits);
    crash_point("block.free_remote.flagged");  // recovery: flagged again, a stray bit
    if (waker_ != nullptr && load(owner.doorbell.waiting, relaxed) != 0) waker_(owner);
  }
  for (std::uint32_t i = 0; i < pending_count_; ++i) {
    store(lane_.cells[pending_[i].cell].handle, 0, sluice::release);
    free_cells_.push(pending_[i].cell);
  }
  crash_point("block.free_remote.cleared");
  pending_count_ = 0;
  pending_bytes_ = 0;
}

// --- slow paths -------------------------------------------------------------------------------------------

std::expected<Reference, Status> Heap::allocate_slow(std::size_t bytes) noexcept {
  if (bytes == 0) return std::unexpected(Status::bad_argument);
  if (bytes > lane_.segment->block_bytes_max()) return std::unexpected(Status::too_large);
  flush();
  if (free_cells_.count == 0) return std::unexpected(Status::no_cell);
  auto& counters = lane_.row->counters;
  count_up(counters.slow_paths);
  if (bytes > slab_block_bytes_max) {
    const auto cell = free_cells_.pop();
    const auto units = (bytes + unit_bytes - 1) / unit_bytes;
    auto handle = take_run(lane_, units, cell);
    if (!handle && handle.error() == Status::exhausted) {
      // Empty slabs of our own and of the dead are units too.
      last_resort(class_count_max);
      handle = take_run(lane_, units, cell);
    }
    if (!handle) {
      free_cells_.push(cell);
      count_up(counters.exhausted);
      return std::unexpected(handle.error());
    }
    count_up(counters.runs_taken);
    count_up(counters.allocations);
    return Reference{*handle, cell};
  }
  Slab* slab = refill(classes_->class_of(bytes));
  if (slab == nullptr) {
    count_up(counters.exhausted);
    return std::unexpected(Status::exhausted);
  }
  return take_slot(*slab);
}

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
      if (truth::state(found) != BlockState::freeing) continue;  // stray
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
    if (truth::state(found) == BlockState::freeing) {  // the bit may be lost; the owner needs none
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
