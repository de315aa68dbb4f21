// A segment with an extent map in it, for the tests of maps.
#pragma once

#include "ipc/audit.hpp"
#include "ipc/extents.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <string_view>

namespace sluice::test {

inline constexpr std::string_view map_name = "device";
inline constexpr std::uint64_t pages = 64;
inline constexpr std::uint64_t positions = pages + pages / extent_group_pages;

inline std::size_t bytes_at(std::uint64_t position) {
  return position < pages ? extent_page_bytes : extent_page_bytes * extent_group_pages;
}

inline Reference patterned(Lane& lane, std::size_t bytes, std::uint64_t seed) {
  const auto block = must(lane.heap().allocate(bytes));
  fill_pattern(lane.heap().bytes(block), seed);
  return block;
}

inline ExtentWriter claim_writer(const Session& session, std::string_view name = map_name) {
  return must(ExtentWriter::claim(session.segment(), session.membership(),
                                  must(find_queue(session.segment(), name))));
}

struct MapRig : Rig {
  MapRig() : Rig(small_options(64)), map(must(create_extents(*lane, map_name, pages))) {}

  QueueRow& row() const { return queue_row(segment(), map.index); }
  std::expected<ExtentWriter, Status> try_claim() const {
    return ExtentWriter::claim(segment(), session.membership(), map);
  }
  void check_sound(std::uint64_t blocks) const {
    const auto report = audit(segment());
    for (const auto& violation : report.violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
    CHECK(report.counts.extents == blocks);
  }

  QueueId map;
};

}  // namespace sluice::test
