#include "shm/size_classes.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

SizeClasses default_classes() { return {default_class_bytes.data(), default_class_bytes.size()}; }

}  // namespace

TEST_CASE("size classes: every size finds the smallest class that holds it", "[shm]") {
  const auto classes = default_classes();
  for (std::uint32_t bytes = 1; bytes <= slab_block_bytes_max; ++bytes) {
    const auto found = classes.class_of(bytes);
    if (classes.bytes(found) < bytes || (found > 0 && classes.bytes(found - 1) >= bytes)) {
      CAPTURE(bytes, found);
      FAIL("not the smallest class that fits");
    }
  }
}

TEST_CASE("size classes: slots lie on 64 bytes, and on pages from 4 KiB up", "[shm]") {
  const auto classes = default_classes();
  for (std::uint32_t i = 0; i < classes.count(); ++i) {
    const auto bytes = classes.bytes(i);
    CAPTURE(bytes);
    CHECK(bytes % (bytes >= page_bytes ? page_bytes : class_granule) == 0);
    CHECK((i == 0 || bytes > classes.bytes(i - 1)));
  }
  CHECK(classes.bytes(classes.count() - 1) == slab_block_bytes_max);
}

TEST_CASE("size classes: the slots of a class fit into a unit and their truth words into its bands",
          "[shm]") {
  const auto classes = default_classes();
  for (std::uint32_t i = 0; i < classes.count(); ++i) {
    const auto bytes = classes.bytes(i), slots = classes.slots(i);
    CAPTURE(bytes, slots);
    CHECK(slots * bytes <= unit_bytes);
    CHECK((slots + 1) * bytes > unit_bytes);
    CHECK(slots <= slots_per_unit_max);
    CHECK(bands_for(bytes) * slots_per_band >= slots);
    CHECK((bands_for(bytes) - 1) * slots_per_band < slots);
    CHECK((bands_for(bytes) == 1) == (bytes >= 1024));
  }
}

TEST_CASE("size classes: no class wastes more than a fifth of the largest smaller request", "[shm]") {
  const auto classes = default_classes();
  for (std::uint32_t i = 5; i + 1 < classes.count() && classes.bytes(i) < page_bytes; ++i) {
    CAPTURE(classes.bytes(i));
    CHECK(classes.bytes(i) * 4 <= classes.bytes(i - 1) * 5);
  }
}

}  // namespace sluice::test
