// Units and blocks as values: one bounded walk over unit descriptors and truth words.
#pragma once

#include "shm/segment.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// A block that is not free: live, freeing, retired or quarantined.
struct BlockEntry {
  Handle handle;  // in the generation that the truth word names
  std::uint32_t unit = 0;
  std::uint32_t slot = 0;
  std::uint64_t bytes = 0;  // capacity
  bool is_run = false;
  std::uint64_t generation = 0;
  BlockState state = BlockState::free;
  std::uint64_t references = 0;  // the truth word's count
  bool shared = false;
  std::uint64_t lane = 0;  // owner of the slab; of a run, its taker
  bool orphaned = false;   // a slab whose lane was released: adoptable
};

/// Slots of one size class, or all runs.
struct ClassTotals {
  std::uint64_t bytes = 0;  // of a slot; 0 for runs
  std::uint64_t slabs = 0;
  std::uint64_t orphaned = 0;  // of the slabs
  std::uint64_t slots = 0;
  std::uint64_t live = 0;
  std::uint64_t live_bytes = 0;
  std::uint64_t freeing = 0;
  std::uint64_t retired = 0;
  std::uint64_t quarantined = 0;

  bool used() const noexcept { return slots != 0; }
  std::uint64_t free() const noexcept { return slots - live - freeing - retired - quarantined; }
};

struct HeapTotals {
  std::uint64_t units_committed = 0;
  std::array<std::uint64_t, unit_state_max + 1> units_by_state{};
  std::uint64_t units_unreadable = 0;  // their descriptor contradicts itself: `check` says how
  std::vector<ClassTotals> classes;    // by size class
  ClassTotals runs;

  std::uint64_t blocks_live() const noexcept;
  std::uint64_t bytes_live() const noexcept;
};

/// Walk all committed units; `visit` may be empty.
HeapTotals walk_blocks(const Segment& segment, const std::function<void(const BlockEntry&)>& visit);

/// Whether the block still is what the entry says: same generation and state.
bool unchanged(const Segment& segment, const BlockEntry& block) noexcept;

std::string_view to_string(UnitState state) noexcept;
std::string_view to_string(BlockState state) noexcept;

}  // namespace sluice::tools
