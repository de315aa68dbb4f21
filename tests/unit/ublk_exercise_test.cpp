// The queue of a block device under random bytes: tests/verify/fuzz searches for such bytes, this has them from a seed.
#include "tests/unit/ublk_exercise.hpp"

#include <catch2/catch.hpp>

#include <random>

namespace sluice::test {

TEST_CASE("ublk queue: whatever comes of it, each request ends once and bytes are what was written",
          "[ublk]") {
#ifdef __SANITIZE_THREAD__
  constexpr std::uint32_t seeds = 300;  // slow there, and of one thread there is little to see
#else
  constexpr std::uint32_t seeds = 3000;
#endif
  UblkExercise total;
  for (std::uint32_t seed = 1; seed <= seeds; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::uint8_t> choices(16 + random() % 1000);
    for (auto& choice : choices) choice = static_cast<std::uint8_t>(random());
    const auto done = exercise_ublk_queue(choices);
    CAPTURE(seed);
    for (const auto& line : done.complaints) FAIL_CHECK(line);
    REQUIRE(done.complaints.empty());
    total.requests += done.requests;
    total.errors += done.errors;
    total.bytes_read += done.bytes_read;
    total.servers += done.servers;
    total.told += done.told;
  }
  CHECK(total.requests > seeds * 20);
  CHECK(total.errors > seeds * 2);
  CHECK(total.bytes_read > seeds * 5'000);
  CHECK(total.servers > seeds * 2);
  CHECK(total.told > seeds * 2);
}

}  // namespace sluice::test
