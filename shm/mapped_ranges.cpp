#include "shm/mapped_ranges.hpp"

#include "shm/fork.hpp"

#include <mutex>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>

namespace sluice {

namespace {

struct Range {
  void* base;
  std::size_t bytes;
};

struct Ranges {
  ForkMutex mutex;
  std::vector<Range> all;

  Ranges();
};

Ranges& ranges() {
  static auto* const instance = new Ranges;  // outlives every static destructor: a fork may come late
  return *instance;
}

// Nobody was changing them: no fork happens under their mutex.
void in_child() {
  for (const auto& range : ranges().all) {
    // Where this fails, something else is there already: that blocks the address as well.
    [[maybe_unused]] const auto* blocked =
        ::mmap(range.base, range.bytes, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  }
}

Ranges::Ranges() { ::pthread_atfork(nullptr, nullptr, in_child); }

}  // namespace

void add_mapped_range(void* base, std::size_t bytes) {
  auto& known = ranges();
  const std::lock_guard guard(known.mutex);
  known.all.push_back({base, bytes});
}

void remove_mapped_range(void* base) {
  auto& known = ranges();
  const std::lock_guard guard(known.mutex);
  std::erase_if(known.all, [&](const Range& range) { return range.base == base; });
}

}  // namespace sluice
