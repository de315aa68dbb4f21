#include "shm/heap.hpp"

#include "shm/crash_point.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include <sys/mman.h>

namespace sluice {

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
  if (!holds(reference)) return {};
  const auto view = find_block(*lane_.segment, reference.handle);
  return view ? view->span() : std::span<std::byte>{};
}

std::expected<std::uint32_t, Status> Heap::reserve_cell() noexcept {
  if (free_cells_.count == 0) flush();
  if (free_cells_.count == 0) return std::unexpected(Status::no_cell);
  return free_cells_.pop();
}

// --- allocate, slowly ------------------------------------------------------------------------------------

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
  const auto found = load(low, relaxed);
  if (found != truth::make(generation, 1, BlockState::live)) [[unlikely]] {
    if (is_lent(found, cell)) return Status::busy;
    if ((truth::Flags::get(found) & truth::flag_shared) != 0)
      return release_shared(reference, truth_word(slab, slot), nullptr);
    return Status::stale;  // released as another lane's, before this one adopted the slab
  }
  const auto word = freed_word(generation, split_);
  store(low, word, sluice::release);
  crash_point("block.free_local.freed");  // recovery: the generation is over, the cell is void
  store(cell.handle, 0, sluice::release);
  crash_point("block.free_local.cleared");
  free_cells_.push(reference.cell);
  count_up(lane_.row->counters.frees_local);
  slot_over(slab, slot, word);
  return Status::ok;
}

// A slot of an own slab whose truth word has become `word`: FREE or RETIRED.
void Heap::slot_over(Slab& slab, std::uint32_t slot, std::uint64_t word) noexcept {
  if (truth::state(word) == BlockState::free) [[likely]] {
    slot_freed(slab, slot);
  } else {
    --slab.usable;
    if (current_[slab.size_class] != &slab && slab.free_count == slab.usable) place(slab);
  }
}

// A run, a block in a slab that is not this lane's, or one that is shared.
Status Heap::release_elsewhere(Reference reference) noexcept {
  const auto found = find_block(*lane_.segment, reference.handle);
  if (!found) return found.error();  // FREEING: released before, and not flagged yet
  const auto& block = *found;
  if (is_lent(block.low, lane_.cells[reference.cell])) return Status::busy;
  if ((truth::Flags::get(block.low) & truth::flag_shared) != 0)
    return release_shared(reference, *block.word, &block);
  if (block.is_run) {
    free_run(lane_, block, reference.cell);
    free_cells_.push(reference.cell);
    count_up(lane_.row->counters.frees_local);
    return Status::ok;
  }
  store(block.word->low, truth::make(truth::Generation::get(block.low), 0, BlockState::freeing),
        sluice::release);
  crash_point("block.free_remote.freeing");  // recovery: the cell is there, the flag is set again
  add_pending(reference, block);
  return Status::ok;
}

// A block of another lane's slab is FREEING, and this cell is what it is found by until its owner is told.
void Heap::add_pending(Reference reference, const BlockView& block) noexcept {
  pending_[pending_count_++] = {reference.cell, block.unit, block.slot};
  pending_bytes_ += block.bytes;
  count_up(lane_.row->counters.frees_remote);
  if (pending_count_ == pending_max || pending_bytes_ >= pending_bytes_max) flush_pending();
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

}  // namespace sluice
