// One lane's heap: allocate and release blocks, with everything on the fast path private to the thread.
//
//   allocate ── current slab of the class ── a free bit ── cell = handle, truth = LIVE
//                  │ empty
//                  └─ harvest what others freed here ─ next partial slab ─ harvest full ones ─ empty slab
//                     ─ adopt an orphan ─ a fresh unit (the file grows) ─ exhausted
//
// Invariants
//   1. Free bits are a private hint, rebuilt from truth words on adoption: only this lane turns slots of
//      its slabs from free to live.
//   2. Slots are taken in one fixed order, going on round the slab from the last one: wear spreads.
//   3. A reference is a cell; a cell is reserved before anything is touched.
// Thread safety: none; the lane's own thread. Blocks may be released through any lane.
#pragma once

#include "shm/block.hpp"
#include "shm/units.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>

namespace sluice {

/// A reference that this lane holds: the block and the ledger cell that counts it.
struct Reference {
  Handle handle;
  std::uint32_t cell = 0;

  explicit operator bool() const noexcept { return bool(handle); }
};

class Heap {
 public:
  /// For a lane that the caller has claimed and whose ledger is committed.
  explicit Heap(const LaneView& lane);
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  ~Heap();

  /// Allocate a block of at least `bytes` bytes.
  ///
  /// bytes    [1, Segment::block_bytes_max]; rounded up to the size class or to units
  /// returns  the reference; the block is 64-byte aligned (4096 from 4 KiB up) and not zeroed
  /// errors   exhausted, no_cell  nothing changed
  ///          too_large, bad_argument
  /// threads  the lane's own; never blocks; amortised O(1), the file grows in the slow path
  /// source   Bonwick 1994 (slabs); docs/recovery.md#allocate
  std::expected<Reference, Status> allocate(std::size_t bytes) noexcept {
    if (bytes - 1 < slab_block_bytes_max) [[likely]] {  // 0 wraps to the far end
      const auto size_class = classes_->class_of(bytes);
      Slab* slab = current_[size_class];
      if (slab != nullptr && slab->free_count != 0 && free_cells_.count != 0) [[likely]]
        return take_slot(*slab);
    }
    return allocate_slow(bytes);
  }

  /// Give up a reference. The block of another lane's slab is flagged to its owner in batches: see flush().
  ///
  /// errors   stale  the cell does not hold this handle: released before, or never ours; nothing changed
  ///          busy   begin_io() without end_io(); nothing changed
  Status release(Reference reference) noexcept;

  /// Another reference to a block that this lane holds.
  ///
  /// returns  the new reference; the old one stays. They are alike: each is pushed or released by itself
  /// errors   stale     the reference was given up already
  ///          no_cell   the ledger is full
  ///          overflow  the block has 65535 references
  ///          Nothing changed then.
  /// threads  the lane's own; lock-free, two stores and a 16-byte compare-and-swap when nobody interferes
  /// source   docs/recovery.md#clone
  std::expected<Reference, Status> clone(Reference reference) noexcept;

  /// The same by its handle alone, for who knows that another cell of this thread, or a structure that only this
  /// thread changes, holds one.
  /// errors  stale  its generation is over; no_cell, overflow
  std::expected<Reference, Status> clone_of(Handle handle) noexcept;

  /// Allow lanes that hold no reference to the block to look it up by its handle, for as long as it lives. Do
  /// this before the handle is put where they find it.  errors  stale
  Status make_findable(Reference reference) noexcept;
  /// The same by its handle alone, for who knows that a structure from which only this thread takes holds one.
  /// errors  stale  its generation is over
  Status make_findable_of(Handle handle) noexcept;

  /// A reference to a findable block by its handle alone.
  ///
  /// errors   stale     its generation is over, or it was not made findable
  ///          no_cell, overflow
  std::expected<Reference, Status> look_up(Handle handle) noexcept;

  /// Tell that a device is about to write into the block, or read it, by direct I/O, and that it is done. If the
  /// holder dies in between, the block's pages are replaced before it is handed out again; a block smaller than
  /// 4 KiB is set aside instead, until the machine restarts. The operation belongs to the reference: one at a time
  /// for a block, whoever holds it; what its holder died of lasts until the block's last drop.
  ///
  /// errors  stale; busy  a device has it already; bad_argument  of end_io(): not by this reference
  ///         While it lasts, release() and push() of the reference are refused, and own() and resize(): busy
  Status begin_io(Reference reference) noexcept;
  Status end_io(Reference reference) noexcept;

  /// The bytes of a block that nobody else holds or can find, to be changed in place: take, modify, publish.
  /// errors  stale; shared  others hold it, or it is findable; busy  a device has it
  std::expected<std::span<std::byte>, Status> own(Reference reference) const noexcept;
  /// The same by its handle alone, for who knows that a structure from which only this thread takes holds one.
  /// errors  as own(); stale  its generation is over
  std::expected<std::span<std::byte>, Status> own_of(Handle handle) const noexcept;

  /// Move a block that nobody else holds to one of at least `bytes` bytes; the contents are kept as far as they
  /// fit. The same reference comes back if the block is that large already and not of a larger class.
  ///
  /// errors  as own() and allocate(): the old block and its reference are as they were
  std::expected<Reference, Status> resize(Reference reference, std::size_t bytes) noexcept;

  /// Tell owners of all blocks released so far. Call before sleeping; the lane's waits do.
  void flush() noexcept {
    if (pending_count_ != 0) flush_pending();
  }

  /// The bytes of a block that this lane holds. Null span if the reference is stale.
  std::span<std::byte> bytes(Reference reference) const noexcept;

  /// Whether a reference can move into a queue.  errors  stale  not this lane's; busy  a device has the block
  Status may_move(Reference reference) const noexcept {
    if (!holds(reference) || !is_live(*lane_.segment, reference.handle)) return Status::stale;
    return load(lane_.cells[reference.cell].aux, relaxed) == cell_aux::at_rest ? Status::ok : Status::busy;
  }

  /// Reserve an empty cell for a reference that will move in (a pop); give it back if it did not.
  std::expected<std::uint32_t, Status> reserve_cell() noexcept;
  void unreserve_cell(std::uint32_t cell) noexcept { free_cells_.push(cell); }
  Cell& cell(std::uint32_t index) const noexcept { return lane_.cells[index]; }
  std::uint32_t cells_free() const noexcept { return free_cells_.count; }

  /// Called with the row of a lane that sleeps when this heap has flagged freed blocks to it.
  using Waker = void (*)(LaneRow& owner) noexcept;
  void set_waker(Waker waker) noexcept { waker_ = waker; }

  const LaneView& lane() const noexcept { return lane_; }
  const Segment& segment() const noexcept { return *lane_.segment; }

 private:
  static constexpr std::uint32_t none = ~std::uint32_t{0};
  static constexpr std::uint32_t pending_max = 32;
  static constexpr std::uint64_t pending_bytes_max = 256 * 1024;
  static constexpr std::uint32_t empty_slabs_max = 4;

  // What this thread knows of a slab it owns. Indexed by unit; pages appear as they are touched.
  struct Slab {
    std::uint64_t free[band_count];
    TruthWord* truth;  // of slot 0; null: the unit is not this lane's
    std::uint32_t unit;
    std::uint32_t next, previous;  // in one of the lists below
    std::uint16_t free_count;
    std::uint16_t usable;  // slots that are not retired
    std::uint16_t slots;
    std::uint16_t cursor;  // where the search goes on: see next_slot
    std::uint8_t size_class;
    std::uint8_t list;  // which list it is on
  };
  enum List : std::uint8_t { list_none, list_partial, list_full, list_empty };
  struct SlabList {
    std::uint32_t head = none, tail = none, count = 0;
  };
  struct PendingFree {
    std::uint32_t cell, unit, slot;
  };
  struct CellStack {
    std::unique_ptr<std::uint32_t[]> items;
    std::uint32_t count = 0;
    void push(std::uint32_t cell) noexcept { items[count++] = cell; }
    std::uint32_t pop() noexcept { return items[--count]; }
  };

  std::uint32_t next_slot(Slab& slab) noexcept;
  Reference take_slot(Slab& slab) noexcept;
  std::expected<Reference, Status> allocate_slow(std::size_t bytes) noexcept;
  Slab* refill(std::uint32_t size_class) noexcept;
  Slab* last_resort(std::uint32_t size_class) noexcept;
  Slab* take_partial(std::uint32_t size_class) noexcept;
  Slab* take_empty(std::uint32_t size_class) noexcept;
  Slab* take_fresh(std::uint32_t size_class) noexcept;
  Slab* make_current(Slab& slab) noexcept;
  std::uint32_t harvest(Slab& slab) noexcept;
  Slab* harvest_full(std::uint32_t size_class, std::uint32_t slabs_max) noexcept;
  Slab* adopt_orphan(std::uint32_t size_class) noexcept;
  bool adopt(std::uint32_t unit, std::uint64_t word) noexcept;
  Slab& rebuild(std::uint32_t unit, std::uint32_t size_class) noexcept;
  void slot_freed(Slab& slab, std::uint32_t slot) noexcept;
  void place(Slab& slab) noexcept;
  TruthWord& truth_word(const Slab& slab, std::uint32_t slot) const noexcept {
    return slab.truth[(slot / slots_per_band) * band_stride_ + slot % slots_per_band];
  }
  Status release_elsewhere(Reference reference) noexcept;
  Status release_shared(Reference reference, TruthWord& word, const BlockView* elsewhere) noexcept;
  Status finish_release(Reference reference, const BlockView& block, bool has_io) noexcept;
  Status mark_findable(Handle handle) noexcept;
  Status change_flags(Handle handle, std::uint64_t set, std::uint64_t clear, std::uint64_t none_of) noexcept;
  // Whether a device has the block by this very reference: it cannot be given up before end_io().
  static bool is_lent(std::uint64_t low, const Cell& cell) noexcept {
    return (truth::Flags::get(low) & truth::flag_io) != 0 &&
           (load(cell.aux, relaxed) != cell_aux::at_rest ||
            (truth::Flags::get(low) & truth::flag_shared) == 0);
  }
  void lift_quarantine() noexcept;
  TruthWord& held_word(Handle handle) const noexcept;
  std::expected<Reference, Status> add_reference(TruthWord& word, Handle handle,
                                                 bool needs_findable) noexcept;
  void slot_over(Slab& slab, std::uint32_t slot, std::uint64_t word) noexcept;
  void add_pending(Reference reference, const BlockView& block) noexcept;
  bool holds(Reference reference) const noexcept {
    return reference && reference.cell < lane_.cell_count &&
           load(lane_.cells[reference.cell].handle, relaxed) == reference.handle.value;
  }
  void forget(Slab& slab) noexcept;
  bool orphaned(std::uint64_t word) const noexcept;
  void flush_pending() noexcept;
  void link(Slab& slab, List list) noexcept;
  void unlink(Slab& slab) noexcept;
  SlabList& list_of(const Slab& slab, List list) noexcept;

  LaneView lane_;
  HandleSplit split_;              // copies of the segment's, for the fast path
  std::uint64_t band_stride_ = 0;  // truth words from one band to the next
  const SizeClasses* classes_;
  Slab* slabs_ = nullptr;  // [1 << unit_bits], private anonymous memory
  std::size_t slabs_bytes_ = 0;
  std::array<Slab*, class_count_max> current_{};
  std::array<SlabList, class_count_max> partial_{};
  std::array<SlabList, class_count_max> full_{};
  SlabList empty_;
  CellStack free_cells_;
  std::array<PendingFree, pending_max> pending_{};
  std::uint32_t pending_count_ = 0;
  std::uint64_t pending_bytes_ = 0;
  std::array<std::uint64_t, class_count_max> orphans_seen_;  // orphan_generation of the last vain search
  Waker waker_ = nullptr;
};

}  // namespace sluice
