// What a header says, and whether to believe it.
#include "shm/descriptor.hpp"
#include "shm/segment.hpp"

#include <fmt/format.h>
#include <boost/crc.hpp>

#include <cstring>

#include <atomic>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace sluice {

namespace {

constexpr std::uint64_t payload_alignment = std::uint64_t{2} << 20;  // a huge page's
constexpr std::uint64_t units_max_max = std::uint64_t{1} << 28;      // 16 TiB of payload

template <class... Args>
std::unexpected<Error> damaged(std::string_view what, fmt::format_string<Args...> format, Args&&... args) {
  return fail(Status::corrupt,
              fmt::format("{}: damaged header: {}", what, fmt::format(format, std::forward<Args>(args)...)));
}

Expected<void> validate_classes(const SegmentHeader& header, std::string_view what) {
  if (header.class_count == 0 || header.class_count > class_count_max)
    return damaged(what, "{} size classes, expected 1 to {}", header.class_count, class_count_max);
  std::uint32_t previous = 0;
  for (std::uint32_t i = 0; i < header.class_count; ++i) {
    const auto bytes = header.class_bytes[i];
    if (bytes <= previous || bytes % class_granule != 0 || bytes > slab_block_bytes_max ||
        (bytes > page_bytes && bytes % page_bytes != 0))
      return damaged(what, "size class {} has {} bytes after {}", i, bytes, previous);
    previous = bytes;
  }
  if (previous != slab_block_bytes_max)
    return damaged(what, "the largest size class has {} bytes, expected {}", previous, slab_block_bytes_max);
  return {};
}

}  // namespace

std::uint32_t header_crc(const SegmentHeader& header) noexcept {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;  // CRC-32C
  crc.process_bytes(&header, offsetof(SegmentHeader, crc32c));
  return crc.checksum();
}

Geometry geometry_of(const SegmentHeader& header) noexcept {
  Geometry geometry;
  geometry.units_max = header.units_max;
  geometry.split = HandleSplit::for_units(header.units_max);
  std::uint64_t offset = page_bytes;
  const auto place = [&](RegionKind kind, std::uint64_t stride, std::uint64_t count,
                         std::uint64_t alignment = page_bytes) {
    offset = round_up(offset, alignment);
    geometry.regions[static_cast<std::uint32_t>(kind)] = {static_cast<std::uint32_t>(kind),
                                                          static_cast<std::uint32_t>(stride), offset, count};
    offset += stride * count;
  };
  place(RegionKind::identity, page_bytes, 1);
  place(RegionKind::checkpoints, page_bytes, 2);
  place(RegionKind::control, page_bytes, 1);
  place(RegionKind::runtime, page_bytes, 1);
  place(RegionKind::processes, 256, header.process_count);
  place(RegionKind::lanes, sizeof(LaneRow), header.lane_count);
  place(RegionKind::seen, std::uint64_t{header.lane_count} * 8, header.lane_count);
  place(RegionKind::epochs, 64, header.epoch_count);
  place(RegionKind::queues, 1024, header.queue_count);
  place(RegionKind::ledgers, std::uint64_t{header.cells_per_lane} * sizeof(Cell), header.lane_count);
  place(RegionKind::units, sizeof(UnitDescriptor), header.units_max);
  place(RegionKind::remote_bits, sizeof(RemoteBits), header.units_max);
  place(RegionKind::truth, std::uint64_t{slots_per_band} * sizeof(TruthWord), band_count * header.units_max);
  place(RegionKind::payload, unit_bytes, header.units_max, payload_alignment);
  geometry.mapped_bytes = offset;
  return geometry;
}

Expected<void> validate_header(const SegmentHeader& header, std::uint64_t file_bytes, std::string_view what) {
  if (header.magic == __builtin_bswap64(segment_magic) ||
      header.byte_order == __builtin_bswap32(byte_order_probe))
    return fail(Status::incompatible, fmt::format("{}: written with the other byte order", what));
  if (header.magic != segment_magic)
    return fail(Status::incompatible,
                fmt::format("{}: not a Sluice segment (magic {:#018x}, expected {:#018x})", what,
                            header.magic, segment_magic));
  if (header.byte_order != byte_order_probe)
    return damaged(what, "byte-order probe {:#x}, expected {:#x}", header.byte_order, byte_order_probe);
  if (header.major != layout_major || header.minor > layout_minor)
    return fail(Status::incompatible,
                fmt::format("{}: layout {}.{}, this build reads {}.0 to {}.{}", what, header.major,
                            header.minor, layout_major, layout_major, layout_minor));
  if (header.incompat != 0)
    return fail(Status::incompatible,
                fmt::format("{}: needs features {:#x} that this build does not have", what, header.incompat));
  if (header.header_bytes != sizeof(SegmentHeader))
    return damaged(what, "{} bytes long, expected {}", header.header_bytes, sizeof(SegmentHeader));
  if (const auto crc = header_crc(header); header.crc32c != crc)
    return damaged(what, "checksum {:#010x}, computed {:#010x}", header.crc32c, crc);
  if (header.page_size != page_bytes || header.unit_size != unit_bytes)
    return fail(Status::incompatible,
                fmt::format("{}: pages of {} and units of {} bytes, expected {} and {}", what,
                            header.page_size, header.unit_size, page_bytes, unit_bytes));
  if (header.units_max == 0 || header.units_max > units_max_max)
    return damaged(what, "{} units, expected 1 to {}", header.units_max, units_max_max);
  if (header.lane_count < 2 || header.lane_count > 4095)
    return damaged(what, "{} lanes, expected 2 to 4095", header.lane_count);
  if (header.process_count < 2 || header.process_count > 2047)
    return damaged(what, "{} process rows, expected 2 to 2047", header.process_count);
  if (header.queue_count < 1 || header.queue_count > 4096)
    return damaged(what, "{} queue rows, expected 1 to 4096", header.queue_count);
  if (header.epoch_count > 65536)
    return damaged(what, "{} epochs, expected at most 65536", header.epoch_count);
  if (header.cells_per_lane < 64 || header.cells_per_lane > (1U << 20) || header.cells_per_lane % 256 != 0)
    return damaged(what, "{} cells in a lane, expected 64 to 1048576", header.cells_per_lane);
  if (auto classes = validate_classes(header, what); !classes) return classes;

  const auto geometry = geometry_of(header);
  if (header.unit_bits != geometry.split.unit_bits ||
      header.generation_bits != geometry.split.generation_bits)
    return damaged(what, "handle split {}/{}, expected {}/{}", header.unit_bits, header.generation_bits,
                   geometry.split.unit_bits, geometry.split.generation_bits);
  if (header.region_count != region_kinds + 1 ||
      std::memcmp(header.regions, geometry.regions, sizeof geometry.regions) != 0)
    return damaged(what, "its table of regions does not follow from its parameters");
  if (file_bytes < geometry.payload_offset())
    return fail(Status::corrupt, fmt::format("{}: truncated: {} bytes, its metadata alone takes {}", what,
                                             file_bytes, geometry.payload_offset()));
  return {};
}

Expected<BootId> current_boot_id() {
  static std::atomic<const BootId*> known{nullptr};  // it does not change while this process lives
  if (const auto* id = known.load(acquire); id != nullptr) return *id;
  constexpr auto path = "/proc/sys/kernel/random/boot_id";
  const auto unknown = [&](int error) {
    return fail(Status::io_error,
                fmt::format("read {}: {}; without it the living cannot be told from those of an earlier boot",
                            path, std::strerror(error)),
                error);
  };
  const int fd = above_standard(::open(path, O_RDONLY | O_CLOEXEC));
  if (fd < 0) return unknown(errno);
  char text[40] = {};
  const auto length = ::read(fd, text, sizeof text - 1);
  const int error = errno;
  ::close(fd);
  if (length < 0) return unknown(error);
  BootId id;
  std::size_t nibble = 0;
  for (ssize_t i = 0; i < length && nibble < 32; ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : (c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1);
    if (digit < 0) continue;
    id.bytes[nibble / 2] = static_cast<std::uint8_t>((id.bytes[nibble / 2] << 4) | digit);
    ++nibble;
  }
  if (nibble != 32) return unknown(EIO);
  known.store(new BootId(id), release);  // for the life of the process
  return id;
}

}  // namespace sluice
