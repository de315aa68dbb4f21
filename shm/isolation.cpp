#include "shm/isolation.hpp"

#include "shm/crash_point.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fcntl.h>
#include <sys/mman.h>

namespace sluice {

namespace {

// Whether the page cache has none of these pages.
bool none_resident(std::byte* address, std::uint64_t bytes) noexcept {
  std::array<unsigned char, 256> resident;
  for (std::uint64_t at = 0; at < bytes; at += resident.size() * page_bytes) {
    const auto length = std::min<std::uint64_t>(bytes - at, resident.size() * page_bytes);
    if (::mincore(address + at, length, resident.data()) != 0) return false;
    const auto pages = static_cast<std::ptrdiff_t>(length / page_bytes);
    if (std::any_of(resident.begin(), resident.begin() + pages, [](auto page) { return (page & 1) != 0; }))
      return false;
  }
  return true;
}

}  // namespace

bool replace_pages(const Segment& segment, const BlockView& block) noexcept {
  if (block.bytes < page_bytes) return false;  // it shares its page with others' blocks
  const auto offset = static_cast<off_t>(block.data - segment.base());
  const auto length = static_cast<off_t>(block.bytes);
  while (::fallocate(segment.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0)
    if (errno != EINTR) return false;
  crash_point("block.isolate.punched");
  if (!none_resident(block.data, block.bytes)) return false;
  while (::fallocate(segment.fd(), 0, offset, length) != 0)
    if (errno != EINTR) return false;
  return true;
}

bool isolate_or_quarantine(const LaneView& lane, const BlockView& block, std::uint32_t cell) noexcept {
  const auto generation = truth::Generation::get(block.low);
  if (replace_pages(*lane.segment, block)) {
    store(block.word->low, truth::make(generation, 0, BlockState::freeing), release);
    crash_point("block.isolate.isolated");
    return true;
  }
  fetch_add(lane.segment->control().quarantined, 1,
            relaxed);  // before the block: too high costs a search only
  crash_point("block.quarantine.counted");
  // In its next generation, so that no cell names it; after the last one it is never used again.
  const auto over = freed_word(generation, lane.segment->split());
  store(block.word->low,
        truth::state(over) == BlockState::free
            ? truth::make(truth::Generation::get(over), 0, BlockState::quarantined)
            : over,
        release);
  crash_point("block.quarantine.marked");  // recovery: the generation is over, the cell is void
  clear_cell(lane.cells[cell]);
  return false;
}

void lift_after_reboot(const Segment& segment) noexcept {
  if (load(segment.control().quarantined, relaxed) == 0) return;
  for (std::uint64_t unit = 0; unit < segment.units_committed(); ++unit) {
    const auto word = load(segment.unit(unit).word, acquire);
    const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
    if (unit_word::state(word) != UnitState::slab || size_class >= segment.classes().count()) continue;
    if (load(segment.unit(unit).bands, relaxed) < bands_for(segment.classes().bytes(size_class))) continue;
    for (std::uint32_t slot = 0; slot < segment.classes().slots(size_class); ++slot) {
      auto& low = segment.truth_word(unit, slot).low;
      const auto found = load(low, acquire);
      if (truth::state(found) != BlockState::quarantined) continue;
      // It may be there for want of fresh pages; then it stays.
      if (segment.commit_payload(unit, 1) == Status::ok)
        store(low, freed_word(truth::Generation::get(found), segment.split()), release);
    }
  }
}

}  // namespace sluice
