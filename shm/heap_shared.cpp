// Blocks with several holders, and those that may not have any: clone, look-up, the last drop, ownership, resize.
#include "shm/crash_point.hpp"
#include "shm/heap.hpp"
#include "shm/shared.hpp"

#include <algorithm>
#include <cstring>

namespace sluice {

std::expected<Reference, Status> Heap::clone(Reference reference) noexcept {
  if (!holds(reference)) return std::unexpected(Status::stale);
  const auto cell = reserve_cell();
  if (!cell) return std::unexpected(cell.error());
  if (const auto status = clone_reference(lane_, reference.handle, *cell, false); status != Status::ok) {
    unreserve_cell(*cell);
    return std::unexpected(status);
  }
  count_up(lane_.row->counters.clones);
  return Reference{reference.handle, *cell};
}

std::expected<Reference, Status> Heap::look_up(Handle handle) noexcept {
  const auto cell = reserve_cell();
  if (!cell) return std::unexpected(cell.error());
  if (const auto status = clone_reference(lane_, handle, *cell, true); status != Status::ok) {
    unreserve_cell(*cell);
    return std::unexpected(status);
  }
  count_up(lane_.row->counters.clones);
  return Reference{handle, *cell};
}

Status Heap::make_findable(Reference reference) noexcept {
  if (!holds(reference)) return Status::stale;
  const auto found = find_block(*lane_.segment, reference.handle);
  if (!found) return found.error();
  auto& word = *found->word;
  constexpr auto flags = truth::Flags::make(truth::flag_shared | truth::flag_findable);
  auto low = found->low;
  if ((truth::Flags::get(low) & truth::flag_shared) == 0) {
    store(word.low, low | flags, sluice::release);  // the sole holder's still
  } else {
    // The tag stays: it is not this lane's to remove, and nothing is counted.
    for (auto tag = load(word.tag, acquire); !cas_wide(word.low, word.tag, low, tag, low | flags, tag);)
      continue;
  }
  crash_point("block.share.findable");
  return Status::ok;
}

Status Heap::release_shared(Reference reference, const BlockView& block) noexcept {
  auto& slab = slabs_[block.unit];
  const bool own_slab = !block.is_run && slab.truth != nullptr;
  switch (drop_shared(lane_, reference.handle, reference.cell, own_slab)) {
    case Dropped::stale: return Status::stale;
    case Dropped::others: free_cells_.push(reference.cell); break;
    case Dropped::freed:
      free_cells_.push(reference.cell);
      count_up(lane_.row->counters.frees_local);
      slot_over(slab, block.slot, load(block.word->low, relaxed));
      break;
    case Dropped::freeing:
      if (block.is_run) {
        free_run(lane_, block, reference.cell);
        free_cells_.push(reference.cell);
        count_up(lane_.row->counters.frees_local);
      } else {
        add_pending(reference, block);
      }
      break;
  }
  return Status::ok;
}

std::expected<std::span<std::byte>, Status> Heap::own(Reference reference) const noexcept {
  if (!holds(reference)) return std::unexpected(Status::stale);
  const auto found = find_block(*lane_.segment, reference.handle);
  if (!found) return std::unexpected(found.error());
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
