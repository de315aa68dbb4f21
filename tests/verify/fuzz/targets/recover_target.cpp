// Joining a segment whose dead have left any words, which recovers them, and some work afterwards. A second
// session then finds what the first one left.
#include "tests/verify/fuzz/targets/arena.hpp"
#include "tests/verify/fuzz/targets/exercise.hpp"

using namespace sluice;

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  fuzz::arena();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  fuzz::Input input(data, bytes);
  const bool again = input.below(4) == 0;
  auto& arena = fuzz::arena();
  arena.restore();
  arena.edit(input);
  arena.written();
  if (auto session = Session::open(arena.path(), "fuzz")) {
    fuzz::exercise(*session, input);
    session->leave();
  }
  if (again) {
    if (auto session = Session::open(arena.path(), "fuzz again")) fuzz::look_at(session->segment(), input);
  }
  return 0;
}
