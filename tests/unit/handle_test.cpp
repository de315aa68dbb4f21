#include "shm/handle.hpp"

#include <catch2/catch.hpp>

#include <random>

namespace sluice::test {

TEST_CASE("handle: every field of every split comes back as it went in", "[shm]") {
  std::mt19937_64 random(1);
  for (unsigned bits = 0; bits <= 30; ++bits)
    for (const std::uint64_t units : {std::uint64_t{1} << bits, (std::uint64_t{1} << bits) + 1}) {
      const auto split = HandleSplit::for_units(units);
      CAPTURE(units, split.unit_bits, split.generation_bits);
      REQUIRE((std::uint64_t{1} << split.unit_bits) >= units);
      REQUIRE(slot_bits + split.unit_bits + split.generation_bits <= 64);
      REQUIRE(split.generation_bits <= generation_bits_max);
      for (const std::uint64_t generation :
           {std::uint64_t{1}, split.generation_max() / 2, split.generation_max()})
        for (const std::uint64_t unit : {std::uint64_t{0}, random() % units, units - 1})
          for (const std::uint64_t slot : {0U, 63U, 64U, 1023U}) {
            const auto handle = split.make(generation, unit, slot);
            REQUIRE(split.generation(handle) == generation);
            REQUIRE(split.unit(handle) == unit);
            REQUIRE(split.slot(handle) == slot);
            REQUIRE(handle);
          }
    }
}

TEST_CASE("handle: the generation takes what the units leave, at most 40 bits", "[shm]") {
  CHECK(HandleSplit::for_units(1) == HandleSplit{1, 40});
  CHECK(HandleSplit::for_units(16384) == HandleSplit{14, 40});  // 1 GiB
  CHECK(HandleSplit::for_units(16385) == HandleSplit{15, 39});
  CHECK(HandleSplit::for_units(std::uint64_t{1} << 24) == HandleSplit{24, 30});  // 1 TiB
  CHECK(HandleSplit::for_units(16384).generation_max() == (std::uint64_t{1} << 40) - 1);
}

TEST_CASE("handle: zero is null and no block of a first generation is", "[shm]") {
  CHECK_FALSE(Handle{});
  CHECK(HandleSplit::for_units(16).make(1, 0, 0));
}

}  // namespace sluice::test
