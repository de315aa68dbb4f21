// Opening any file, for reading and for joining. Three ways to a file: the input's own bytes; a real segment with
// changed words, cut to any length; a header with any parameters, a table that follows from them and a checksum
// that fits, before empty regions.
#include "tests/verify/fuzz/targets/arena.hpp"
#include "tests/verify/fuzz/targets/exercise.hpp"

#include <algorithm>

#include <unistd.h>

using namespace sluice;

namespace {

constexpr std::uint64_t mapped_bytes_max = std::uint64_t{32} << 20;  // of a file that is walked

// Any parameters; every other one sound, or nearly nothing would be accepted.
SegmentHeader make_header(fuzz::Input& input) {
  auto header = fuzz::arena().header();
  const auto sound = input.take<std::uint16_t>();
  const auto choose = [&](unsigned bit, std::uint64_t largest) -> std::uint64_t {
    const auto any = input.take<std::uint32_t>();
    return (sound >> bit & 1) != 0 ? any : 1 + any % largest;
  };
  header.units_max = choose(0, 40);
  header.lane_count = static_cast<std::uint32_t>(1 + choose(1, 40));
  header.process_count = static_cast<std::uint32_t>(1 + choose(2, 40));
  header.queue_count = static_cast<std::uint32_t>(choose(3, 40));
  header.cells_per_lane = static_cast<std::uint32_t>(choose(4, 8) * 256);
  header.epoch_count = static_cast<std::uint32_t>(choose(5, 4096));
  header.class_count = static_cast<std::uint32_t>(choose(6, class_count_max));
  if ((sound >> 7 & 1) != 0) {
    std::uint32_t bytes = 0;
    for (std::uint32_t i = 0; i < std::min(header.class_count, class_count_max); ++i)
      header.class_bytes[i] = bytes += class_granule * (1 + input.below(32));
    if (header.class_count != 0 && header.class_count <= class_count_max)
      header.class_bytes[header.class_count - 1] = slab_block_bytes_max;
  } else {
    header.class_count = fuzz::arena().header().class_count;
  }
  if ((sound >> 8 & 1) != 0) header.ro_compat = input.take<std::uint8_t>();
  // The table as the parameters have it, unless they would overflow: such a header never gets so far.
  if (header.units_max <= (std::uint64_t{1} << 28)) {
    const auto geometry = geometry_of(header);
    std::ranges::copy(geometry.regions, header.regions);
    header.unit_bits = geometry.split.unit_bits;
    header.generation_bits = geometry.split.generation_bits;
  }
  header.crc32c = header_crc(header);
  return header;
}

// A length for the file, 0: its own. Anywhere, at the bounds of regions, in the payload.
std::uint64_t where_to_cut(fuzz::Input& input) {
  const auto how = input.below(8);
  const auto where = input.take<std::uint16_t>();
  const auto geometry = geometry_of(fuzz::arena().header());
  switch (how) {
    case 1: return std::uint64_t{where} * 64;
    case 2: return geometry.regions[where % (region_kinds + 1)].offset + where / 256 * 16;
    case 3: return geometry.payload_offset() + where % 12 * unit_bytes + where / 1024;
    default: return 0;
  }
}

void open_both_ways(const std::string& path, fuzz::Input& input) {
  if (const auto segment = Segment::attach_read_only(path))
    if (segment->geometry().payload_offset() <= mapped_bytes_max) fuzz::look_at(*segment, input);
  if (auto segment = Segment::open(path)) {
    if (segment->geometry().mapped_bytes > mapped_bytes_max) return;
    if (auto session = Session::join(std::move(*segment), "fuzz")) fuzz::exercise(*session, input);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  fuzz::arena();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  fuzz::Input input(data, bytes);
  auto& arena = fuzz::arena();
  switch (input.below(4)) {
    case 0: {
      const auto file = input.take_rest();
      arena.write_raw(file, 0);
      open_both_ways(arena.raw_path(), input);
      break;
    }
    case 1: {
      const auto header = make_header(input);
      const auto* header_bytes = reinterpret_cast<const std::uint8_t*>(&header);
      const auto committed = input.below(64);
      const auto geometry = geometry_of(header);
      // As long as it says, or not.
      const auto present = input.below(4) == 0 ? input.below(64) : committed;
      const auto file_bytes = geometry.payload_offset() + present * unit_bytes;
      const bool whole = file_bytes <= 2 * mapped_bytes_max;
      arena.write_raw({header_bytes, sizeof header}, whole ? file_bytes : 0);
      if (whole) arena.put_raw(geometry.region(RegionKind::control).offset, committed);
      open_both_ways(arena.raw_path(), input);
      break;
    }
    default: {
      arena.restore();
      const auto cut = where_to_cut(input);
      arena.edit(input);
      arena.written();
      if (cut != 0 && ::truncate(arena.path().c_str(), static_cast<off_t>(cut)) != 0) return 0;
      open_both_ways(arena.path(), input);
      break;
    }
  }
  return 0;
}
