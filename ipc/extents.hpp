// An extent map: which block each place of a device holds. Its slots own the references in them; the file keeps
// both, so a device's content outlives the processes that wrote it.
//
// A device of `pages` 4 KiB pages has a slot per page, and behind those one per group of 16 (64 KiB). A page is
// what its own slot says, or its part of what its group's slot says, or zeroes:
//
//   page slot    0 look at the group | 1 zeroes | handle of a block of 4 KiB
//   group slot   0 zeroes            |            handle of a block of 64 KiB
//
//   put     cell A: aux = EXTENT(m, p), handle = old ; cell B: aux = EXTENT(m, p) ; slot[p] = new ;
//           B: handle = 0, aux = 0 ; A: aux = 0
//
// Invariants
//   1. One store, of the slot, moves both references. A cell that moves holds its own exactly while the slot does
//      not hold the same handle: nobody else changes the slot before the cell came to rest.
//   2. The writer is one process, and the next one only after every lane of the last was recovered: the role is a
//      process's, not a lane's.
// Thread safety: one operation per position at a time, by any lanes of the writer's process; positions are
// independent. What at() shows lives for as long as its position is not changed.
// source: docs/recovery.md#extents, docs/decisions/0009-extent-map.md
#pragma once

#include "ipc/processes.hpp"
#include "ipc/queues.hpp"

#include <cstdint>
#include <expected>
#include <string_view>

namespace sluice {

inline constexpr std::uint64_t extent_page_bytes = 4096;
inline constexpr std::uint64_t extent_group_pages = 16;
inline constexpr std::uint64_t extent_pages_max = std::uint64_t{1} << 31;  // 8 TiB
/// What a page's slot holds when it is zeroes although its group has a block. No handle is 1.
inline constexpr std::uint64_t extent_zeroes = 1;

/// Create the map of a device of `pages` pages, a multiple of extent_group_pages, all zeroes.
/// errors  as create_stream
Expected<QueueId> create_extents(Lane& lane, std::string_view name, std::uint64_t pages);

/// Where a map's slots lie: what its row said, read once and checked.
struct ExtentSlots {
  std::uint64_t* slots = nullptr;
  std::uint64_t pages = 0;
  std::uint64_t first_unit = 0;
  std::uint64_t unit_count = 0;

  std::uint64_t count() const noexcept { return pages + pages / extent_group_pages; }
  std::uint64_t group_of(std::uint64_t page) const noexcept { return pages + page / extent_group_pages; }
  /// The slot's word: 0, extent_zeroes or a handle.
  std::uint64_t at(std::uint64_t position) const noexcept { return load(slots[position], acquire); }
};

/// Nothing, if the row is no map whose slots lie where they can be used.
std::optional<ExtentSlots> sound_extents(const Segment& segment, const QueueRow& row) noexcept;

class ExtentWriter {
 public:
  ExtentWriter() = default;
  /// Take the writer's role for this process.
  /// errors  busy  another process has it, or died with it and is not recovered; stale  the map is gone
  ///         bad_argument  it is no map, or the process has not joined; corrupt
  static std::expected<ExtentWriter, Status> claim(const Segment& segment, const Membership& process,
                                                   QueueId map) noexcept;
  ExtentWriter(ExtentWriter&& other) noexcept { *this = std::move(other); }
  ExtentWriter& operator=(ExtentWriter&& other) noexcept;
  /// Give it back. After all lanes that have written are at rest.
  ~ExtentWriter() { release(); }

  const ExtentSlots& slots() const noexcept { return slots_; }
  std::uint64_t at(std::uint64_t position) const noexcept { return slots_.at(position); }

  /// Move `block` into a position. What was there becomes the lane's: returned, null if it was no block.
  ///
  /// errors  bad_argument  no such position, or the very block is there already
  ///         stale  not the lane's, or given up; busy  a device has it; no_cell. Nothing changed then
  /// threads the lane's own; no locked instruction
  std::expected<Reference, Status> put(Lane& lane, std::uint64_t position, Reference block) noexcept;
  /// Take what is in a position out of it, and leave 0, or extent_zeroes in a page's.
  /// errors  bad_argument  no such position; no_cell. Nothing changed then
  std::expected<Reference, Status> take(Lane& lane, std::uint64_t position, std::uint64_t leave = 0) noexcept;

  explicit operator bool() const noexcept { return row_ != nullptr; }

 private:
  void release() noexcept;
  std::expected<Reference, Status> begin(Lane& lane, std::uint64_t position) noexcept;
  std::uint64_t aux(std::uint64_t position) const noexcept {
    return cell_aux::make(cell_aux::extent, id_.index, id_.era, position);
  }

  QueueRow* row_ = nullptr;
  ExtentSlots slots_;
  QueueId id_;
  const Segment* segment_ = nullptr;
  std::uint64_t claim_ = 0;
};

}  // namespace sluice
