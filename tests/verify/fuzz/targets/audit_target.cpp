// The audit, as `shm-dump check` runs it, over a segment in which any words were changed.
#include "ipc/audit.hpp"
#include "tests/verify/fuzz/targets/arena.hpp"
#include "tests/verify/fuzz/targets/exercise.hpp"

using namespace sluice;

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  fuzz::arena();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  fuzz::Input input(data, bytes);
  const bool live = input.below(8) == 0;
  auto& arena = fuzz::arena();
  arena.restore();
  arena.edit(input);
  const auto segment = Segment::attach_read_only(arena.path());
  if (!segment) return 0;
  if (live) (void)audit_settled(*segment);
  fuzz::look_at(*segment, input);
  return 0;
}
