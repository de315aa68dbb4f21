// Blocks by handle: look-up with every check in its order, and the stores by which a sole holder gives a
// block back. What a lane's private caches add is in heap.hpp.
#pragma once

#include "shm/segment.hpp"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace sluice {

/// A block as a valid handle leads to it. Stays true for as long as the caller holds a reference.
struct BlockView {
  TruthWord* word = nullptr;
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;  // capacity: the class's, or the run's
  std::uint64_t low = 0;    // the truth word's low half as it was checked
  std::uint64_t unit_word = 0;
  std::uint32_t unit = 0;
  std::uint32_t slot = 0;
  bool is_run = false;

  std::span<std::byte> span() const noexcept { return {data, bytes}; }
};

/// Follow a handle.
///
/// errors   stale  null, out of range, not a block, not live, or of another generation
/// threads  any; wait-free
std::expected<BlockView, Status> find_block(const Segment& segment, Handle handle) noexcept;

/// find_block without the checks of state and generation, for recovery and audit: `word` is null when the
/// unit cannot hold such a block, else `low` is what the truth word holds.
BlockView locate(const Segment& segment, Handle handle) noexcept;

/// Whether a handle that the caller's cell holds is live: the cell vouches for unit and slot.
inline bool is_live(const Segment& segment, Handle handle) noexcept {
  const auto& split = segment.split();
  const auto unit = split.unit(handle);
  if (unit >= segment.geometry().units_max) return false;
  const auto low = load(segment.truth_word(unit, split.slot(handle)).low, relaxed);
  return truth::state(low) == BlockState::live && truth::Generation::get(low) == split.generation(handle);
}

/// One lane, as the code that acts for it sees it: the lane's own thread, or its recoverer.
struct LaneView {
  const Segment* segment = nullptr;
  LaneId id = 0;
  std::uint64_t incarnation = 0;
  LaneRow* row = nullptr;
  Cell* cells = nullptr;
  std::uint32_t cell_count = 0;

  std::uint64_t owned_tag() const noexcept { return unit_word::Tag::make(incarnation); }
  /// The unit word of a slab of `size_class` that this lane owns.
  std::uint64_t slab_word(std::uint32_t size_class) const noexcept {
    return unit_word::make(UnitState::slab, size_class, id, incarnation);
  }
  bool owns(std::uint64_t word) const noexcept {
    return unit_word::state(word) == UnitState::slab && unit_word::Lane::get(word) == id &&
           unit_word::Tag::get(word) == incarnation;
  }
};

LaneView lane_view(const Segment& segment, LaneId lane) noexcept;

/// Empty a cell: handle first, then aux.
inline void clear_cell(Cell& cell) noexcept {
  store(cell.handle, 0, release);
  store(cell.aux, 0, release);
}

/// The truth word of a slot whose sole holder gave it up: free in the next generation, or retired.
constexpr std::uint64_t freed_word(std::uint64_t generation, const HandleSplit& split) noexcept {
  return generation >= split.generation_max() ? truth::make(generation, 0, BlockState::retired)
                                              : truth::make(generation + 1, 0, BlockState::free);
}

/// Drop the reference in `cell` as its lane, without any private cache: what recovery and leaving do.
/// A void cell (see docs/recovery.md) is cleared; a free that was begun is finished.
void drop_reference(const LaneView& lane, std::uint32_t cell) noexcept;

/// Tell a slab's owner that the slots `bits` of word `word` of its remote bits are FREEING. Returns the owner's row.
LaneRow& flag_remote_free(const Segment& segment, std::uint32_t unit, std::uint32_t word,
                          std::uint64_t bits) noexcept;

}  // namespace sluice
