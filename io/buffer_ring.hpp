// The receive slab: blocks of the segment, lent to the kernel through a provided-buffer ring.
//
//   empty ──refill: a fresh block──> kernel ──take: a completion names it──> leased
//     ^                                ^                                      │  │
//     │                                └────────────── give_back ─────────────┘  │
//     └────────────────────────── keep: the block moves on to a stream ──────────┘
//
// Invariants
//   1. The ring's own memory is private: whoever can write it makes the kernel write anywhere in this process.
//   2. While the kernel may write to a block its cell says so (cell_aux::kernel), before the kernel knows.
//   3. A buffer is returned by the id, ring and generation it was taken with, once; all else is refused.
// The block of a kept buffer is returned by its handle, through the heap, in any order and from any process:
// the heap makes the same checks (slot in range, owner, generation, once) and refuses the rest as stale.
// Thread safety: the thread of the ring and of the lane.
#pragma once

#include "runtime/ring.hpp"
#include "shm/heap.hpp"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

/// A buffer between the kernel and its next holder. Borrowed: it is given back or kept, never freed.
struct BufferLease {
  std::uint32_t id = 0;
  std::uint32_t generation = 0;
  std::uint16_t group = 0;
  std::span<std::byte> bytes;  // as much of the block as the kernel could fill
};

class BufferRing {
 public:
  /// Register a ring of `count` buffers, each a block of `bytes` bytes, as buffer group `group`. It holds what
  /// the heap gave; refill() later tries for the rest.
  ///
  /// count   [1, 32768]
  /// errors  exhausted  no room for two blocks; io_error
  static Expected<std::unique_ptr<BufferRing>> open(Ring& ring, Heap& heap, std::uint32_t count,
                                                    std::uint32_t bytes, std::uint16_t group);
  BufferRing(const BufferRing&) = delete;
  BufferRing& operator=(const BufferRing&) = delete;
  /// The kernel forgets the ring, then the blocks are released.
  ~BufferRing();

  /// The kernel says that it has filled buffer `id`.
  /// errors  bad_argument  no such id; stale  the kernel did not have it
  std::expected<BufferLease, Status> take(std::uint32_t id) noexcept;

  /// The buffer that the kernel used after `lease_before` in one completion, if the completion spans several.
  /// errors  stale  the kernel did not have it
  std::expected<BufferLease, Status> take_next(const BufferLease& lease_before) noexcept;

  /// Return a buffer unused: the kernel has it again, with the same block.
  /// errors  bad_argument  no such id, or another ring's; stale  returned or kept already; nothing changed
  Status give_back(const BufferLease& lease) noexcept;

  /// Take the block out: the caller holds it from now on, and the slot is empty.
  /// errors  as give_back
  std::expected<Reference, Status> keep(const BufferLease& lease) noexcept;

  /// What Heap::release is for blocks: refused, because a lease is borrowed. Always Status::borrowed.
  static Status free(const BufferLease&) noexcept { return Status::borrowed; }

  /// Put fresh blocks into empty slots. Returns how many; fewer than empty() when the heap had no more.
  std::uint32_t refill() noexcept;

  std::uint32_t with_kernel() const noexcept { return with_kernel_; }
  std::uint32_t empty() const noexcept { return static_cast<std::uint32_t>(empty_.size()); }
  std::uint32_t count() const noexcept { return static_cast<std::uint32_t>(slots_.size()); }
  std::uint32_t bytes() const noexcept { return bytes_; }
  std::uint16_t group() const noexcept { return group_; }

 private:
  enum class State : std::uint8_t { empty, kernel, leased };
  struct Slot {
    Reference reference;
    std::byte* address = nullptr;
    std::uint32_t generation = 0;
    std::uint16_t place = 0;  // in the ring's order, modulo its size
    State state = State::empty;
  };

  BufferRing(Ring& ring, Heap& heap, std::uint32_t bytes, std::uint16_t group) noexcept
      : ring_(ring), heap_(heap), bytes_(bytes), group_(group) {}
  Expected<void> register_ring(std::uint32_t count);
  BufferLease lease(std::uint32_t id) noexcept;
  void hand_over(std::uint32_t id, int ahead) noexcept;
  Slot* leased(const BufferLease& lease, Status& status) noexcept;

  Ring& ring_;
  Heap& heap_;
  std::uint32_t bytes_;
  std::uint16_t group_;
  bool registered_ = false;
  io_uring_buf_ring* entries_ = nullptr;
  std::uint32_t entry_count_ = 0;  // a power of two, at least count()
  std::uint32_t with_kernel_ = 0;
  std::vector<Slot> slots_;           // by buffer id
  std::vector<std::uint16_t> order_;  // by place: the buffer that was put there last
  std::vector<std::uint16_t> empty_;  // ids without a block; capacity for all from the start
};

}  // namespace sluice
