#include "tests/bench/queues/sluice_side.hpp"

#include <sys/mman.h>

namespace sluice::bench {

namespace {

// All that can be in use at once: what is on its way, what is freed and not yet told to its owner, the queues themselves.
std::uint64_t payload_bytes(std::uint64_t bytes) {
  const std::uint64_t blocks = 2 * (in_flight(bytes) + 8);
  const bool in_slabs = bytes <= slab_block_bytes_max;
  const auto block_bytes = in_slabs ? bytes : (bytes + unit_bytes - 1) / unit_bytes * unit_bytes;
  return blocks * block_bytes + 64 * unit_bytes;
}

}  // namespace

void create_segment(const std::string& path, std::uint64_t bytes,
                    const std::function<void(Lane&)>& create_queues) {
  const auto payload = payload_bytes(bytes);
  auto segment =
      must(Segment::create(path, {.payload_bytes_max = payload, .payload_bytes_initial = payload}));
  auto session = must(Session::join(std::move(segment), "setup"));
  const auto lane = must(session.claim_lane());
  create_queues(*lane);
}

SluiceSide::SluiceSide(const std::string& path, const char* role, std::uint64_t bytes)
    : session_(must(Session::open(path, role))),
      lane_(must(session_.claim_lane({.cells = 8192}))),
      bytes_(bytes) {
  const auto& segment = session_.segment();
  if (::madvise(segment.unit_address(0), segment.units_committed() * unit_bytes, MADV_POPULATE_WRITE) != 0)
    die("the segment's pages cannot be touched beforehand");
}

}  // namespace sluice::bench
