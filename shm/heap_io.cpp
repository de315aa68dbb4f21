// Blocks in the hands of devices: marking them, and getting them back from quarantine.
#include "shm/crash_point.hpp"
#include "shm/heap.hpp"
#include "shm/isolation.hpp"
#include "shm/shared.hpp"

namespace sluice {

// Change flags of a live block that this lane holds; the count and the tag stay. busy: it has one of `none_of`.
Status Heap::change_flags(Handle handle, std::uint64_t set, std::uint64_t clear,
                          std::uint64_t none_of) noexcept {
  auto& word = held_word(handle);
  auto low = load(word.low, acquire);
  for (auto tag = load(word.tag, acquire);;) {
    const auto flags = truth::Flags::get(low);
    if (truth::state(low) != BlockState::live || truth::Generation::get(low) != split_.generation(handle))
      return Status::stale;
    if ((flags & none_of) != 0) return Status::busy;
    const auto changed = truth::Flags::set(low, (flags | set) & ~clear);
    if ((flags & truth::flag_shared) == 0) {
      store(word.low, changed, sluice::release);  // the sole holder's alone
      return Status::ok;
    }
    // The tag is not this lane's to remove, and nothing is counted.
    if (cas_wide(word.low, word.tag, low, tag, changed, tag)) return Status::ok;
  }
}

Status Heap::make_findable_of(Handle handle) noexcept {
  const auto found = find_block(*lane_.segment, handle);
  return found ? mark_findable(handle) : found.error();
}

Status Heap::make_findable(Reference reference) noexcept {
  return holds(reference) ? mark_findable(reference.handle) : Status::stale;
}

Status Heap::mark_findable(Handle handle) noexcept {
  const auto status = change_flags(handle, truth::flag_shared | truth::flag_findable, 0, 0);
  if (status == Status::ok) crash_point("block.share.findable");
  return status;
}

// The cell is marked first and unmarked last: a flag without a mark is what a death leaves, and stays.
Status Heap::begin_io(Reference reference) noexcept {
  if (!holds(reference)) return Status::stale;
  auto& aux = lane_.cells[reference.cell].aux;
  if (load(aux, relaxed) != cell_aux::at_rest) return Status::busy;
  store(aux, cell_aux::Kind::make(cell_aux::kernel), sluice::release);
  const auto status = change_flags(reference.handle, truth::flag_io, 0, truth::flag_io);
  if (status != Status::ok) {
    store(aux, cell_aux::at_rest, sluice::release);
    return status;
  }
  crash_point("block.io.begun");  // recovery: isolated at the last drop
  return Status::ok;
}

Status Heap::end_io(Reference reference) noexcept {
  if (!holds(reference)) return Status::stale;
  auto& aux = lane_.cells[reference.cell].aux;
  if (cell_aux::Kind::get(load(aux, relaxed)) != cell_aux::kernel) return Status::bad_argument;
  const auto status = change_flags(reference.handle, 0, truth::flag_io, 0);
  if (status == Status::ok) store(aux, cell_aux::at_rest, sluice::release);
  return status;
}

// Try again what could not be isolated when its holder had died: by now the devices may be done. One lane at a time:
// a cell that names a quarantined block is void, until the block is lifted and it is the one that holds it.
void Heap::lift_quarantine() noexcept {
  const auto& segment = *lane_.segment;
  auto& quarantined = segment.control().quarantined;
  auto& lifter = segment.control().quarantine_lifter;
  std::uint64_t nobody = 0;
  if (!cas(lifter, nobody, lane_claim::make(lane_.id, lane_.incarnation), acq_rel)) return;
  crash_point("block.quarantine.claimed");  // recovery: step 4 gives it up, when no cell of the lane is left
  const auto units = segment.units_committed();
  for (std::uint32_t unit = 0; unit < units && load(quarantined, relaxed) != 0; ++unit) {
    const auto word = load(segment.unit(unit).word, acquire);
    const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
    std::uint32_t slots = 0;
    if (unit_word::state(word) == UnitState::run)
      slots = 1;
    else if (unit_word::state(word) == UnitState::slab && size_class < classes_->count() &&
             classes_->bytes(size_class) >= page_bytes)
      slots = classes_->slots(size_class);
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
      auto& low = segment.truth_word(unit, slot).low;
      auto found = load(low, acquire);
      if (truth::state(found) != BlockState::quarantined || free_cells_.count == 0) continue;
      const auto generation = truth::Generation::get(found);
      const Reference reference{split_.make(generation, unit, slot), free_cells_.pop()};
      auto& cell = lane_.cells[reference.cell];
      store(cell.handle, reference.handle.value, sluice::release);
      crash_point("block.quarantine.held");  // recovery: neither live nor being freed, so the cell is void
      if (cas(low, found, truth::make(generation, 0, BlockState::freeing, truth::flag_io), acq_rel)) {
        crash_point("block.quarantine.lifted");  // recovery: as at a last drop
        fetch_add(quarantined, ~std::uint64_t{0}, relaxed);
        (void)finish_release(reference, locate(segment, reference.handle), true);
      } else {  // not there any more
        store(cell.handle, 0, sluice::release);
        free_cells_.push(reference.cell);
      }
    }
  }
  store(lifter, 0, sluice::release);
}

}  // namespace sluice
