// A segment: one named file, mapped whole. Creation, opening with validation, growth, removal, and the
// addresses of everything in it.
//
// Invariants
//   1. A name never leads to a half-made segment: the file is built without a name, then linked.
//   2. The header is read once into private memory and validated there; nothing reads it from the mapping.
//   3. The maximum size is reserved as address space once; nobody ever remaps.
//   4. Nothing is touched before it was committed with fallocate: a full disk is a Status, never a SIGBUS.
// Thread safety: all members may be called from any thread.
#pragma once

#include "shm/atomic.hpp"
#include "shm/fork.hpp"
#include "shm/handle.hpp"
#include "shm/header_layout.hpp"
#include "shm/lane_layout.hpp"
#include "shm/size_classes.hpp"
#include "shm/status.hpp"
#include "shm/unit_layout.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace sluice {

struct SegmentOptions {
  std::uint64_t payload_bytes_max = std::uint64_t{1} << 30;  // rounded up to units of 64 KiB
  std::uint64_t payload_bytes_initial = 0;                   // committed at creation; 0: nothing yet
  std::uint32_t lanes = 256;                                 // [2, 4095]
  std::uint32_t processes = 128;                             // [2, 2047]; one is kept for recovery
  std::uint32_t queues = 256;                                // [1, 4096]
  std::uint32_t cells_per_lane = 65536;                      // [64, 1 Mi], the most a lane may commit
  std::uint32_t mode = 0600;                                 // of the file
};

/// Where the regions of a segment lie. Follows from the header's parameters alone.
struct Geometry {
  std::uint64_t units_max = 0;
  HandleSplit split;
  std::uint64_t mapped_bytes = 0;  // the file's size at its maximum
  Region regions[region_count_max] = {};

  const Region& region(RegionKind kind) const noexcept { return regions[static_cast<std::uint32_t>(kind)]; }
  std::uint64_t payload_offset() const noexcept { return region(RegionKind::payload).offset; }
};

class Segment {
 public:
  Segment() = default;
  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  /// Create the file at `path` and map it.
  ///
  /// errors  exists       something has that name
  ///         bad_argument an option out of range, named
  ///         exhausted    the file system has no room for the metadata
  ///         permission, not_found, io_error  from the kernel
  static Expected<Segment> create(const std::string& path, const SegmentOptions& options = {});

  /// Map an existing segment for reading and writing. A copied file, or one from an earlier boot, gets a
  /// new identity: its processes are all dead.
  ///
  /// errors  incompatible  not a segment, another layout or byte order; names what was found and expected
  ///         corrupt       a segment whose header or size contradicts itself
  static Expected<Segment> open(const std::string& path);

  /// Map an existing segment for reading only: live, dead or copied. Never writes, never locks.
  static Expected<Segment> attach_read_only(const std::string& path);

  /// Remove the file and its sidecar. Whether processes still use it is the caller's question.
  static Expected<void> remove(const std::string& path);

  bool is_open() const noexcept { return base_ != nullptr; }
  /// false in a child made by fork: it has a copy of this object, but not the mapping.
  bool is_ours() const noexcept { return mapped_by_ == this_process(); }
  bool read_only() const noexcept { return read_only_; }
  /// The file is not the one whose identity it carries (attach_read_only only).
  bool is_copy() const noexcept { return copy_; }
  const std::string& path() const noexcept { return path_; }
  int fd() const noexcept { return fd_; }
  /// The sidecar's descriptor, shared by the whole process and never closed; -1 when read-only.
  int sidecar_fd() const noexcept { return sidecar_fd_; }
  const SegmentHeader& header() const noexcept { return header_; }  // the validated private copy
  const Geometry& geometry() const noexcept { return geometry_; }
  const HandleSplit& split() const noexcept { return geometry_.split; }
  const SizeClasses& classes() const noexcept { return classes_; }
  /// The largest block that this segment can ever hold, in bytes.
  std::uint64_t block_bytes_max() const noexcept { return geometry_.units_max * unit_bytes; }

  std::byte* base() const noexcept { return base_; }
  SegmentIdentity& identity() const noexcept { return *at<SegmentIdentity>(RegionKind::identity, 0); }
  SegmentControl& control() const noexcept { return *control_; }
  UnitDescriptor& unit(std::uint64_t index) const noexcept { return units_[index]; }
  RemoteBits& remote_bits(std::uint64_t unit) const noexcept { return remote_bits_[unit]; }
  TruthWord& truth_word(std::uint64_t unit, std::uint32_t slot) const noexcept {
    return truth_[((slot / slots_per_band) * geometry_.units_max + unit) * slots_per_band +
                  slot % slots_per_band];
  }
  std::byte* unit_address(std::uint64_t unit) const noexcept { return payload_ + unit * unit_bytes; }
  LaneId lane_count() const noexcept { return static_cast<LaneId>(header_.lane_count); }  // fits: see open()
  LaneRow& lane_row(std::uint64_t lane) const noexcept { return lanes_[lane]; }
  /// What a lane has seen of others' tags, by lane. W: the lane, its recoverer.
  std::uint64_t* seen_row(std::uint64_t lane) const noexcept { return seen_ + lane * header_.lane_count; }
  Cell* ledger(std::uint64_t lane) const noexcept { return ledgers_ + lane * header_.cells_per_lane; }
  /// Element `index` of a region whose layout belongs to a higher layer.
  template <class T>
  T* at(RegionKind kind, std::uint64_t index) const noexcept {
    const Region& region = geometry_.region(kind);
    return reinterpret_cast<T*>(base_ + region.offset + index * region.stride);
  }

  /// Units whose metadata is committed; handles to others are stale.
  std::uint64_t units_committed() const noexcept {
    const auto units = load(control_->units_committed, acquire);  // G1 <- G2 (grow): metadata precedes it
    return units < geometry_.units_max ? units : geometry_.units_max;
  }

  /// Commit metadata and payload of at least `units` more units, more when there is room.
  /// errors  exhausted  at the maximum, or the file system is full; nothing changed
  Status grow(std::uint64_t units) const noexcept;

  /// Back `count` units from `first` with pages. Idempotent.
  Status commit_payload(std::uint64_t first, std::uint64_t count) const noexcept;
  /// Back the truth words of the first `bands` bands of one unit. Idempotent.
  Status commit_bands(std::uint64_t unit, std::uint32_t bands) const noexcept;
  /// Back one lane's row of what it has seen, and the first `cells` cells of its ledger. Idempotent.
  Status commit_lane(std::uint64_t lane, std::uint32_t cells) const noexcept;
  /// All that the metadata says is committed, for a file whose pages may have become holes: a copy.
  Status commit_again() const noexcept;

 private:
  Expected<void> map(const std::string& path, int fd, bool read_only);
  Status commit(std::uint64_t offset, std::uint64_t bytes) const noexcept;
  void bind() noexcept;
  void close() noexcept;

  std::string path_;
  int fd_ = -1;
  int sidecar_fd_ = -1;
  bool read_only_ = false;
  bool copy_ = false;
  ProcessToken mapped_by_;
  std::byte* base_ = nullptr;
  SegmentHeader header_{};
  Geometry geometry_;
  SizeClasses classes_;
  SegmentControl* control_ = nullptr;
  UnitDescriptor* units_ = nullptr;
  RemoteBits* remote_bits_ = nullptr;
  TruthWord* truth_ = nullptr;
  LaneRow* lanes_ = nullptr;
  std::uint64_t* seen_ = nullptr;
  Cell* ledgers_ = nullptr;
  std::byte* payload_ = nullptr;
};

/// The geometry that a header's parameters lead to. The parameters must have been validated.
Geometry geometry_of(const SegmentHeader& header) noexcept;

/// Check a header that came from outside. `what` names the file in messages; `file_bytes` is its size.
Expected<void> validate_header(const SegmentHeader& header, std::uint64_t file_bytes, std::string_view what);

/// CRC-32C of the header's bytes before its crc32c field.
std::uint32_t header_crc(const SegmentHeader& header) noexcept;

/// The kernel's boot id.
struct BootId {
  std::uint8_t bytes[16] = {};
  bool operator==(const BootId&) const noexcept = default;
};
/// errors  io_error  /proc does not tell: without it the living cannot be told from those of an earlier boot
Expected<BootId> current_boot_id();

}  // namespace sluice
