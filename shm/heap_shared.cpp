// Blocks with several holders, and what only a sole holder may do: clone, look-up, last drop; own, resize.
#include "shm/crash_point.hpp"
#include "shm/heap.hpp"
#include "shm/isolation.hpp"
#include "shm/shared.hpp"

#include <algorithm>
#include <cstring>

namespace sluice {

// The word of a handle that a cell of this lane holds: the cell vouches for unit and slot.
TruthWord& Heap::held_word(Handle handle) const noexcept {
  return lane_.segment->truth_word(split_.unit(handle), split_.slot(handle));
}

std::expected<Reference, Status> Heap::add_reference(TruthWord& word, Handle handle,
                                                     bool needs_findable) noexcept {
  const auto cell = reserve_cell();
  if (!cell) return std::unexpected(cell.error());
  if (const auto status = clone_reference(lane_, word, handle, *cell, needs_findable); status != Status::ok)
      [[unlikely]] {
    unreserve_cell(*cell);
    return std::unexpected(status);
  }
  count_up(lane_.row->counters.clones);
  return Reference{handle, *cell};
}

std::expected<Reference, Status> Heap::clone(Reference reference) noexcept {
  if (!holds(reference)) return std::unexpected(Status::stale);
  return add_reference(held_word(reference.handle), reference.handle, false);
}

std::expected<Reference, Status> Heap::clone_of(Handle handle) noexcept {
  const auto found = find_block(*lane_.segment, handle);
  if (!found) return std::unexpected(found.error());
  return add_reference(*found->word, handle, false);
}

std::expected<Reference, Status> Heap::look_up(Handle handle) noexcept {
  const auto found = find_block(*lane_.segment, handle);
  if (!found) return std::unexpected(found.error());
  return add_reference(*found->word, handle, true);
}

// `elsewhere` is the block as it was found, null if it is in a slab of this lane's own. After the last drop nothing
// of it can be looked up again: its slot, or its unit, may be somebody else's by then.
Status Heap::release_shared(Reference reference, TruthWord& word, const BlockView* elsewhere) noexcept {
  const auto dropped = drop_shared(lane_, word, reference.handle, reference.cell, elsewhere == nullptr);
  if (dropped == Dropped::stale) return Status::stale;
  if (dropped == Dropped::freeing || dropped == Dropped::freeing_io) [[unlikely]]
    return finish_release(reference,
                          elsewhere == nullptr ? locate(*lane_.segment, reference.handle) : *elsewhere,
                          dropped == Dropped::freeing_io);
  free_cells_.push(reference.cell);
  if (dropped == Dropped::freed) {
    count_up(lane_.row->counters.frees_local);
    slot_over(slabs_[split_.unit(reference.handle)], split_.slot(reference.handle), load(word.low, relaxed));
  }
  return Status::ok;
}

// Its last reference is gone: the block is FREEING, and the cell keeps it until its memory is given back.
Status Heap::finish_release(Reference reference, const BlockView& block, bool has_io) noexcept {
  if (has_io && !isolate_or_quarantine(lane_, block, reference.cell)) {
    free_cells_.push(reference.cell);
    return Status::ok;
  }
  auto& slab = slabs_[block.unit];
  if (block.is_run) {
    free_run(lane_, block, reference.cell);
    free_cells_.push(reference.cell);
    count_up(lane_.row->counters.frees_local);
  } else if (slab.truth != nullptr && lane_.owns(block.unit_word)) {
    const auto word = freed_word(split_.generation(reference.handle), split_);
    store(block.word->low, word, sluice::release);
    crash_point("block.free_local.freed");
    store(lane_.cells[reference.cell].handle, 0, sluice::release);
    free_cells_.push(reference.cell);
    count_up(lane_.row->counters.frees_local);
    slot_over(slab, block.slot, word);
  } else {
    add_pending(reference, block);
  }
  return Status::ok;
}

std::expected<std::span<std::byte>, Status> Heap::own(Reference reference) const noexcept {
  return holds(reference) ? own_of(reference.handle) : std::unexpected(Status::stale);
}

std::expected<std::span<std::byte>, Status> Heap::own_of(Handle handle) const noexcept {
  const auto found = find_block(*lane_.segment, handle);
  if (!found) return std::unexpected(found.error());
  if ((truth::Flags::get(found->low) & truth::flag_io) != 0) return std::unexpected(Status::busy);
  if (truth::Count::get(found->low) != 1 || (truth::Flags::get(found->low) & truth::flag_findable) != 0)
    return std::unexpected(Status::shared);
  return found->span();
}

std::expected<Reference, Status> Heap::resize(Reference reference, std::size_t bytes) noexcept {
  const auto old = own(reference);
  if (!old) return std::unexpected(old.error());
  if (bytes == 0) return std::unexpected(Status::bad_argument);
  if (bytes > lane_.segment->block_bytes_max()) return std::unexpected(Status::too_large);
  const auto rounded = bytes <= slab_block_bytes_max ? classes_->bytes(classes_->class_of(bytes))
                                                     : round_up(bytes, unit_bytes);
  if (rounded == old->size()) return reference;
  const auto moved = allocate(bytes);
  if (!moved) return moved;
  const auto target = this->bytes(*moved);
  std::memcpy(target.data(), old->data(), std::min(target.size(), old->size()));
  crash_point("block.resize.copied");  // recovery: both are held, both are dropped
  if (const auto status = release(reference); status != Status::ok) return std::unexpected(status);
  return moved;
}

}  // namespace sluice
