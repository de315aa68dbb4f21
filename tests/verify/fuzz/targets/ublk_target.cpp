// The queue of a block device: descriptors, errors and deaths as the input has them (tests/unit/ublk_exercise).
#include "tests/unit/ublk_exercise.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>

namespace {

// Inputs to start from: long ones, in which each choice is as likely as the others.
void write_seeds(const std::string& directory) {
  constexpr std::uint32_t count = 64, bytes = 512;
  for (std::uint32_t seed = 0; seed < count; ++seed) {
    std::mt19937 random(seed);
    std::ofstream file(directory + "/ublk-" + std::to_string(seed), std::ios::binary);
    for (std::uint32_t i = 0; i < bytes; ++i) file.put(static_cast<char>(random()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  if (const char* directory = std::getenv("SLUICE_FUZZ_SEEDS")) {
    write_seeds(directory);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const auto done = sluice::test::exercise_ublk_queue({data, bytes});
  for (const auto& line : done.complaints) std::fprintf(stderr, "ublk: %s\n", line.c_str());
  if (!done.complaints.empty()) std::abort();
  return 0;
}
