// References to a block that several hold. Its truth word is changed by a 16-byte compare-and-swap alone, which
// leaves the lane and sequence number of who did it; so a death in the middle can be decided by anybody.
//
//   clone  log ; [ seen ; CAS count + 1 {me, seq} ]... ; cell = handle ; close
//   drop   log ; [ seen ; CAS count - 1 {me, seq} ]... ; cell = 0      ; close
//
// Invariants
//   1. A sequence number tags at most one successful CAS, and is never used again.
//   2. seen[me][other] was stored before the CAS that removes other's tag.  So: operation (P, s) happened if and
//      only if the word carries (P, s), or some seen[Q][P] >= s. Who decides reads the word first.
//   3. Only a lane whose cell holds a reference clones a block that is not FINDABLE.
// Thread safety: any lanes at once; each function acts as the lane given, for its thread or its recoverer.
// source: Herlihy 1991 (universal CAS); detectable operations as in Attiya, Ben-Baruch, Hendler 2018
#pragma once

#include "shm/block.hpp"

#include <cstdint>

namespace sluice {

inline constexpr std::uint64_t count_max = truth::Count::max;

/// Add a reference to a live block and put it into `cell`, which is empty. `word` is the handle's truth word. The
/// caller's lane holds the block, unless `needs_findable`.
///
/// errors  stale     not live, of another generation, or not findable where that is needed; nothing changed
///         overflow  it has 65535 references already; nothing changed
Status clone_reference(const LaneView& lane, TruthWord& word, Handle handle, std::uint32_t cell,
                       bool needs_findable) noexcept;

/// What became of a block whose reference was dropped.
enum class Dropped : std::uint8_t {
  stale,   // it was not there; nothing changed
  others,  // others hold it still; the cell is empty
  freed,   // it was the last, in a slab of the lane's own: FREE or RETIRED; the cell is empty
  // It was the last: FREEING. The cell keeps the handle, by which the free is found and finished. In a slab the word
  // is nobody's from then on: who adopts it, or has a bit of the slot, may free and hand it out at once.
  freeing,
  freeing_io,  // FREEING with the flag IO: the word is this cell's alone until the pages are replaced
};

/// Drop the reference in `cell` to a block that is SHARED. `own_slab`: the lane owns the slab that it is in.
Dropped drop_shared(const LaneView& lane, TruthWord& word, Handle handle, std::uint32_t cell,
                    bool own_slab) noexcept;

/// Step 1 of recovery for these two operations: finish the lane's open one, or leave it undone. The log stays
/// open. Repeatable.
void finish_shared(const LaneView& lane) noexcept;

/// Where a cell's bytes are not the truth, because the lane's open operation has happened and its cell was not
/// stored yet: that cell, and the handle that it holds in truth (null: none).
struct OpenCell {
  bool differs = false;
  std::uint32_t cell = 0;
  Handle handle;
};
OpenCell open_cell(const LaneView& lane) noexcept;

}  // namespace sluice
