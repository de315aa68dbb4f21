// What makes an access outside the right bytes of a mapping visible. A mapped file is one piece of memory for
// AddressSanitizer; here each mapping of a segment gets unmapped room on both sides, and the bytes in it that
// nobody may touch are poisoned: the header (read once, before mapping), regions without users, and what is left
// of the last page of each region. Beyond the end of the file the kernel answers with SIGBUS.
//
// The functions replace mmap, munmap, nanosleep and sched_yield in the fuzzers (--wrap of the linker).
#include "shm/segment.hpp"

#include <sanitizer/asan_interface.h>

#include <cstddef>
#include <cstdint>
#include <map>

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr std::size_t guard_bytes = std::size_t{64} << 20;

std::map<void*, std::size_t>& guarded() {
  static auto* mappings = new std::map<void*, std::size_t>;
  return *mappings;
}

// No bytes of the mapping are left out: an element's own size, then nobody's up to the next region.
void poison(std::byte* base, std::size_t mapped_bytes, int fd) {
  using namespace sluice;
  SegmentHeader header{};
  if (::pread(fd, &header, sizeof header, 0) != sizeof header) return;
  const auto geometry = geometry_of(header);  // whoever maps has validated it
  if (geometry.mapped_bytes != mapped_bytes) return;
  ASAN_POISON_MEMORY_REGION(base, geometry.region(RegionKind::identity).offset);
  for (std::uint32_t kind = 1; kind < region_kinds; ++kind) {
    const auto& region = geometry.regions[kind];
    std::uint64_t used = region.stride * region.count;
    switch (static_cast<RegionKind>(kind)) {
      case RegionKind::identity: used = sizeof(SegmentIdentity); break;
      case RegionKind::control: used = sizeof(SegmentControl); break;
      case RegionKind::checkpoints:
      case RegionKind::epochs: used = 0; break;  // nobody's yet
      default: break;
    }
    const auto from = region.offset + used;
    ASAN_POISON_MEMORY_REGION(base + from, geometry.regions[kind + 1].offset - from);
  }
}

}  // namespace

extern "C" {

void* __real_mmap(void* address, std::size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void* address, std::size_t bytes);

// Only segments are mapped shared and without reserve.
void* __wrap_mmap(void* address, std::size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (fd < 0 || (flags & MAP_SHARED) == 0 || (flags & MAP_NORESERVE) == 0)
    return __real_mmap(address, bytes, protection, flags, fd, offset);
  auto* room = static_cast<std::byte*>(__real_mmap(nullptr, bytes + 2 * guard_bytes, PROT_NONE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (room == MAP_FAILED) return MAP_FAILED;
  void* mapped = __real_mmap(room + guard_bytes, bytes, protection, flags | MAP_FIXED, fd, offset);
  if (mapped == MAP_FAILED) {
    __real_munmap(room, bytes + 2 * guard_bytes);
    return MAP_FAILED;
  }
  guarded()[mapped] = bytes;
  poison(static_cast<std::byte*>(mapped), bytes, fd);
  return mapped;
}

int __wrap_munmap(void* address, std::size_t bytes) {
  const auto found = guarded().find(address);
  if (found == guarded().end()) return __real_munmap(address, bytes);
  ASAN_UNPOISON_MEMORY_REGION(address, found->second);
  guarded().erase(found);
  return __real_munmap(static_cast<std::byte*>(address) - guard_bytes, bytes + 2 * guard_bytes);
}

// The audit of a live segment pauses between its walks, an allocator lets another one go first: nobody else moves
// here meanwhile.
int __wrap_sched_yield() { return 0; }
int __wrap_nanosleep(const timespec* /*duration*/, timespec* /*rest*/) { return 0; }

}  // extern "C"
