// The first pages of a segment: what it is (header, written once), whose it is (identity), and the few words
// that all processes share (control). Bytes only; docs/layout.md has the tables, and a test compares them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

inline constexpr std::uint64_t page_bytes = 4096;
inline constexpr std::uint64_t unit_bytes = 64 * 1024;
inline constexpr std::uint32_t slots_per_unit_max = 1024;
inline constexpr std::uint32_t band_count = 16;  // bands of truth words, 64 slots each
inline constexpr std::uint32_t slots_per_band = 64;
inline constexpr std::uint32_t class_count_max = 64;
inline constexpr std::uint32_t region_count_max = 24;

inline constexpr std::uint64_t segment_magic =
    0x00454349554c5301;  // "\x01SLUICE\0" as bytes on little-endian
inline constexpr std::uint32_t byte_order_probe = 0x01020304;
inline constexpr std::uint16_t layout_major = 1;
inline constexpr std::uint16_t layout_minor = 1;
// Files below it may be in use by builds that do not know of durable subscriptions.
inline constexpr std::uint16_t layout_minor_of_names = 1;

enum class RegionKind : std::uint32_t {
  none = 0,
  identity = 1,
  checkpoints = 2,  // two alternating pages; nobody writes them yet
  control = 3,
  runtime = 4,  // one page for the pipeline's persistent words
  processes = 5,
  lanes = 6,
  seen = 7,    // seen[lane][other]: the highest sequence number of other's that the lane saw in a tag
  epochs = 8,  // epoch slots; nobody writes them yet
  queues = 9,
  ledgers = 10,
  units = 11,
  remote_bits = 12,
  truth = 13,  // band_count bands, each [unit][slots_per_band]
  payload = 14,
};
inline constexpr std::uint32_t region_kinds = 14;

struct Region {
  std::uint32_t kind;    // RegionKind
  std::uint32_t stride;  // bytes of one element
  std::uint64_t offset;  // from the start of the file
  std::uint64_t count;   // elements
};
static_assert(sizeof(Region) == 24);

// W: the creator, before the file has a name.  R: every opener, once, from a private copy.
struct SegmentHeader {
  std::uint64_t magic;
  std::uint32_t byte_order;
  std::uint32_t page_size;
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t header_bytes;  // sizeof(SegmentHeader) of the writer
  std::uint64_t compat;        // feature bits: unknown ones are harmless
  std::uint64_t ro_compat;     // unknown ones allow reading only
  std::uint64_t incompat;      // unknown ones refuse
  std::uint8_t uuid[16];
  std::uint64_t created_ns;  // CLOCK_REALTIME
  std::uint64_t unit_size;   // unit_bytes of the writer
  std::uint64_t units_max;
  std::uint32_t lane_count;
  std::uint32_t process_count;
  std::uint32_t queue_count;
  std::uint32_t cells_per_lane;
  std::uint32_t unit_bits;
  std::uint32_t generation_bits;
  std::uint32_t epoch_count;
  std::uint32_t class_count;
  std::uint32_t class_bytes[class_count_max];
  std::uint32_t region_count;
  std::uint32_t reserved;
  Region regions[region_count_max];
  std::uint32_t crc32c;  // of all bytes before it
  std::uint32_t reserved_end;
};
static_assert(std::is_trivially_copyable_v<SegmentHeader>);
static_assert(offsetof(SegmentHeader, class_bytes) == 120);
static_assert(offsetof(SegmentHeader, regions) == 384);
static_assert(offsetof(SegmentHeader, crc32c) == 960);
static_assert(sizeof(SegmentHeader) == 968 && sizeof(SegmentHeader) <= page_bytes);

// Which file this is. A mismatch of device or inode means a copied file: its process rows are all dead.
// W: the creator; later an opener that holds the sidecar's exclusive claim.  R: openers, checkers.
struct SegmentIdentity {
  std::uint64_t device;
  std::uint64_t inode;
  std::uint64_t sidecar_device;
  std::uint64_t sidecar_inode;
  std::uint8_t boot_id[16];  // of the kernel under which the identity was written
  std::uint64_t clean;       // 1 after an orderly last leave; nobody reads it yet
  std::uint64_t reserved;
};
static_assert(sizeof(SegmentIdentity) == 64);

// Words that every process shares, each on a line of its own.
struct SegmentControl {
  // Units below this have committed descriptors, remote bits and band 0. W: growers, only upwards. R: all.
  alignas(64) std::uint64_t units_committed;
  // Hint: no free unit is known below it. W, R: allocators.
  alignas(64) std::uint64_t free_unit_hint;
  // The lane that retries a contended run allocation alone: lane_claim, 0 is nobody.
  alignas(64) std::uint64_t run_claimer;
  // Counts releases of lanes that may have left slabs behind; an allocator rescans when it changed.
  alignas(64) std::uint64_t orphan_generation;
  // The checkpoint gate; nobody writes it yet.
  alignas(64) std::uint64_t gate;
  // Hint: blocks in quarantine; never less than there are.
  alignas(64) std::uint64_t quarantined;
  // The lane that lifts blocks out of quarantine: lane_claim, 0 is nobody.
  alignas(64) std::uint64_t quarantine_lifter;
};
static_assert(sizeof(SegmentControl) == 448);
static_assert(offsetof(SegmentControl, free_unit_hint) == 64);
static_assert(offsetof(SegmentControl, run_claimer) == 128);
static_assert(offsetof(SegmentControl, orphan_generation) == 192);

}  // namespace sluice
