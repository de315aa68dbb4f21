// Units, and the truth words of the blocks in them. Bytes only; docs/layout.md has the tables.
#pragma once

#include "shm/bits.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

/// What a unit is. The values are in the file.
enum class UnitState : std::uint8_t {
  free_uncommitted = 0,  // handing it out fallocates first; the state of fresh metadata
  free = 1,              // its pages are there
  reserved = 2,          // tag = sequence number of the lane's open operation
  slab = 3,              // tag = the owner lane's incarnation; adoptable once the lane's incarnation moved on
  run = 4,               // first unit of a block of units; tag as it was reserved
  interior = 5,          // further unit of a run; tag as its head's
  storage = 6,           // first unit of a queue's ring; further ones are interior
  punching = 7,          // pages on their way back to the file system; nobody writes it yet
};
inline constexpr std::uint64_t unit_state_max = 7;

/// The fields of UnitDescriptor::word.
namespace unit_word {
using State = BitField<0, 4>;
using Class = BitField<4, 6>;
using Lane = BitField<10, 12>;
using Tag = BitField<22, 42>;

constexpr std::uint64_t make(UnitState state, std::uint64_t size_class, std::uint64_t lane,
                             std::uint64_t tag) noexcept {
  return State::make(static_cast<std::uint64_t>(state)) | Class::make(size_class) | Lane::make(lane) |
         Tag::make(tag);
}
constexpr UnitState state(std::uint64_t word) noexcept { return static_cast<UnitState>(State::get(word)); }
}  // namespace unit_word

// One unit. `word` is the truth; the rest is written while the unit is reserved by the writer, before `word`
// is published with release, and is constant until the unit is free again.
struct alignas(64) UnitDescriptor {
  std::uint64_t word;        // unit_word.            W: CAS from free, then the holder.  R: all
  std::uint32_t run_units;   // run, storage: units.  W: the reserving lane.              R: all
  std::uint32_t run_offset;  // interior: distance to the head, in units
  std::uint32_t bands;       // bands of truth words committed for this unit; only grows
  std::uint32_t epoch_slot;  // of the epoch it belongs to; 0 until epochs exist
  std::uint64_t epoch_era;
  std::uint64_t reserved[4];
};
static_assert(sizeof(UnitDescriptor) == 64);
static_assert(offsetof(UnitDescriptor, run_units) == 8 && offsetof(UnitDescriptor, run_offset) == 12);
static_assert(offsetof(UnitDescriptor, bands) == 16 && offsetof(UnitDescriptor, epoch_era) == 24);
static_assert(std::is_trivially_copyable_v<UnitDescriptor>);

/// What a block is. All-zero bytes are a free slot that was never handed out.
enum class BlockState : std::uint8_t {
  free = 0,
  live = 1,
  freeing = 2,      // given up by its last holder; the owner of the slab makes it free
  retired = 3,      // its generations are used up; never handed out again
  quarantined = 4,  // nobody holds it, but a device may still write into it
};

/// The fields of TruthWord::low. A free slot holds the generation it will be handed out in (0 means 1).
namespace truth {
using Flags = BitField<0, 5>;
using State = BitField<5, 3>;
using Count = BitField<8, 16>;
using Generation = BitField<24, 40>;

inline constexpr std::uint64_t flag_shared = 1;  // changed by 16-byte CAS only, until it is free
inline constexpr std::uint64_t flag_epoch = 2;
inline constexpr std::uint64_t flag_findable = 4;  // who holds no reference may clone it by its handle
inline constexpr std::uint64_t flag_io = 8;        // a device may be writing into it
inline constexpr std::uint64_t flags_known = flag_shared | flag_epoch | flag_findable | flag_io;

constexpr std::uint64_t make(std::uint64_t generation, std::uint64_t count, BlockState state,
                             std::uint64_t flags = 0) noexcept {
  return Generation::make(generation) | Count::make(count) | State::make(static_cast<std::uint64_t>(state)) |
         Flags::make(flags);
}
constexpr BlockState state(std::uint64_t low) noexcept { return static_cast<BlockState>(State::get(low)); }
/// Whether the owner of the slab may make the slot free: FREEING, and no device has it.
constexpr bool is_given_up(std::uint64_t low) noexcept {
  return state(low) == BlockState::freeing && (Flags::get(low) & flag_io) == 0;
}
/// The generation that the next allocation of a free slot takes.
constexpr std::uint64_t next_generation(std::uint64_t low) noexcept {
  const auto generation = Generation::get(low);
  return generation == 0 ? 1 : generation;
}
}  // namespace truth

/// The fields of TruthWord::tag.
namespace truth_tag {
using Lane = BitField<0, 12>;
using Sequence = BitField<12, 52>;

constexpr std::uint64_t make(std::uint64_t lane, std::uint64_t sequence) noexcept {
  return Lane::make(lane) | Sequence::make(sequence);
}
}  // namespace truth_tag

// The truth about one block. One fixed address for the life of the file, whatever class the unit is cut into.
struct alignas(16) TruthWord {
  std::uint64_t low;  // truth::*.     W: sole holder, owner; while SHARED, 16-byte CAS.  R: all
  std::uint64_t tag;  // truth_tag::*, who did the last 16-byte CAS; stays through reuse.  W: that CAS
};
static_assert(sizeof(TruthWord) == 16 && offsetof(TruthWord, tag) == 8);
static_assert(std::is_trivially_copyable_v<TruthWord>);

// Slots of a unit that another lane has freed: bit s of word s/64. A hint; a bit over any state but
// `freeing` is stray.                                            W: freers (or), owner (exchange)
struct alignas(64) RemoteBits {
  std::uint64_t words[16];
};
static_assert(sizeof(RemoteBits) == 128);

}  // namespace sluice
