// Lanes: one participating thread's private row in the segment, its operation log and its ledger of
// references. Bytes only; docs/layout.md has the tables.
#pragma once

#include "shm/bits.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

using LaneId = std::uint16_t;  // 1 .. lane_count - 1; 0 is nobody

/// The fields of LaneRow::word.
namespace lane_word {
using Active = BitField<0, 1>;
using Process = BitField<1, 11>;  // row of the owning process
using Incarnation =
    BitField<12, 42>;  // moves on when the lane is released: the lane's slabs become adoptable

constexpr std::uint64_t make(bool active, std::uint64_t process, std::uint64_t incarnation) noexcept {
  return Active::make(active ? 1 : 0) | Process::make(process) | Incarnation::make(incarnation);
}
}  // namespace lane_word

/// A lane by name, as role and claim words hold it; 0 is nobody.
namespace lane_claim {
using Lane = BitField<0, 12>;
using Incarnation = BitField<12, 42>;

constexpr std::uint64_t make(std::uint64_t lane, std::uint64_t incarnation) noexcept {
  return Lane::make(lane) | Incarnation::make(incarnation);
}
}  // namespace lane_claim

/// Logged operations. The values are in the file.
enum class LaneOperation : std::uint64_t {
  none = 0,
  take_units = 1,    // first, count: units being reserved for a slab
  take_run = 2,      // first, count, cell: units being made a block
  free_run = 3,      // first, count, cell, handle, word: a block of units being given back
  take_storage = 4,  // first, count, queue: units being made a queue's ring
  clone = 5,         // cell, handle: a reference being added to a shared block, for an empty cell
  drop = 6,          // cell, handle: the cell's reference to a shared block being dropped
};
inline constexpr std::uint64_t lane_operation_max = 6;

// Open while `sequence == LaneRow::sequence`: fields first, sequence last (release).
struct alignas(64) OperationLog {
  std::uint64_t sequence;
  std::uint64_t operation;  // LaneOperation
  std::uint64_t first;      // unit
  std::uint64_t count;      // units
  std::uint64_t cell;       // index in the lane's ledger
  std::uint64_t handle;
  std::uint64_t word;  // free_run: the head's unit word; take_storage: the queue's index
  std::uint64_t reserved;
};
static_assert(sizeof(OperationLog) == 64 && offsetof(OperationLog, word) == 48);

/// The values of Doorbell::waiting, 0: awake. The number of the sleep is in the upper 30 bits.
namespace doorbell_word {
constexpr std::uint32_t asleep(std::uint32_t sequence) noexcept { return sequence << 2 | 1; }
constexpr std::uint32_t claimed(std::uint32_t asleep) noexcept { return asleep | 2; }
constexpr bool is_claimed(std::uint32_t word) noexcept { return (word & 2) != 0; }
}  // namespace doorbell_word

// Where a lane sleeps. `waiting` is set by the sleeper, claimed by who wakes it.
struct alignas(64) Doorbell {
  std::uint32_t sequence;  // the futex word.  W: wakers
  std::uint32_t
      waiting;  // doorbell_word; not 0: the lane may sleep.  W: the lane sets, wakers claim and clear
  std::uint32_t interrupt;  // 1: somebody asks the lane to stop waiting.  W: anybody sets, the lane clears
};
static_assert(sizeof(Doorbell) == 64);

// Counted by the lane alone; readable by all, live.
struct alignas(64) LaneCounters {
  std::uint64_t allocations;
  std::uint64_t frees_local;
  std::uint64_t frees_remote;
  std::uint64_t harvested;   // slots that others freed and this lane took back
  std::uint64_t slow_paths;  // allocations that left the fast path
  std::uint64_t slabs_cut;
  std::uint64_t slabs_adopted;
  std::uint64_t slabs_returned;
  std::uint64_t runs_taken;
  std::uint64_t exhausted;  // allocations refused
  std::uint64_t messages_in;
  std::uint64_t messages_out;
  std::uint64_t bytes_in;
  std::uint64_t bytes_out;
  std::uint64_t redelivered;
  std::uint64_t sleeps;
  std::uint64_t clones;  // references added, by clone or look-up
  std::uint64_t reserved[7];
};
static_assert(sizeof(LaneCounters) == 192 && offsetof(LaneCounters, clones) == 128);

struct alignas(64) LaneRow {
  std::uint64_t word;          // lane_word.                  W: claimer (CAS), recoverer.  R: all
  std::uint64_t sequence;      // of the next logged operation; never reset.  W: the lane, its recoverer
  std::uint64_t cell_count;    // committed cells of its ledger
  std::uint64_t thread;        // gettid() of the holder
  std::uint64_t in_operation;  // for checkpoints; nobody writes it yet
  std::uint64_t reserved[3];
  OperationLog log;
  Doorbell doorbell;
  // Hint: classes in which another lane freed blocks of this lane's slabs.  W: freers (or), owner (exchange)
  alignas(64) std::uint64_t remote_classes;
  LaneCounters counters;
  char name[32];  // for people
  std::uint64_t reserved_end[4];
};
static_assert(sizeof(LaneRow) == 512);
static_assert(offsetof(LaneRow, log) == 64 && offsetof(LaneRow, doorbell) == 128);
static_assert(offsetof(LaneRow, remote_classes) == 192 && offsetof(LaneRow, counters) == 256);
static_assert(offsetof(LaneRow, name) == 448);
static_assert(std::is_trivially_copyable_v<LaneRow>);

/// The fields of Cell::aux: what is being done with the reference. 0 means that the cell holds it, at rest.
namespace cell_aux {
using Kind = BitField<0, 6>;
using Queue = BitField<6, 12>;
using Era = BitField<18, 6>;        // of the queue, modulo 64
using Position = BitField<24, 40>;  // in the queue, modulo 2^40

inline constexpr std::uint64_t at_rest = 0;
inline constexpr std::uint64_t push = 1;    // moving into a stream or broadcast at a position
inline constexpr std::uint64_t pop = 2;     // moving out of a stream from a position
inline constexpr std::uint64_t kernel = 3;  // the kernel may write into the block
inline constexpr std::uint64_t extent = 4;  // moving into or out of an extent map at a position
inline constexpr std::uint64_t claim =
    5;  // about to claim a work queue's slot, or has; the cell holds it still
inline constexpr std::uint64_t publish = 6;  // has claimed it, and fills it
inline constexpr std::uint64_t lease = 7;  // about to lease a work queue's message, or has; the slot holds it
inline constexpr std::uint64_t acknowledge = 8;  // moving out of a leased slot
inline constexpr std::uint64_t forward =
    9;  // moving from its slot to another queue's; the cell holds nothing
inline constexpr std::uint64_t forwarded = 10;  // is there
inline constexpr std::uint64_t kind_max = 10;

constexpr std::uint64_t make(std::uint64_t kind, std::uint64_t queue, std::uint64_t era,
                             std::uint64_t position) noexcept {
  return Kind::make(kind) | Queue::make(queue) | Era::make(era) | Position::make(position);
}
}  // namespace cell_aux

// One reference to one block, held by a lane. Filled aux first, then handle; emptied handle first, then aux.
struct alignas(16) Cell {
  std::uint64_t handle;
  std::uint64_t aux;
};
static_assert(sizeof(Cell) == 16 && offsetof(Cell, aux) == 8);
static_assert(std::is_trivially_copyable_v<Cell>);

/// Cells at the ledger's start that only recovery uses.
inline constexpr std::uint32_t recovery_cells = 8;

}  // namespace sluice
