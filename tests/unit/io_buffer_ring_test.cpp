#include "io/buffer_ring.hpp"

#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <vector>

namespace sluice::test {

namespace {

constexpr std::uint32_t block = 4096;

struct Slab {
  explicit Slab(std::uint32_t count = 8, std::uint64_t units = 16) : rig(small_options(units)) {
    buffers = must(BufferRing::open(*ring, rig.heap(), count, block, 3));
  }
  std::uint64_t aux(Reference reference) { return load(rig.heap().cell(reference.cell).aux, acquire); }

  Rig rig;
  std::unique_ptr<Ring> ring = must(Ring::open(8, 64));
  std::unique_ptr<BufferRing> buffers;
};

template <class T>
Status error_of(const std::expected<T, Status>& result) {
  return result ? Status::ok : result.error();
}

}  // namespace

TEST_CASE("buffer ring: it opens full, each buffer a block of its own in the segment", "[io]") {
  Slab slab(8);
  CHECK(slab.buffers->with_kernel() == 8);
  CHECK(slab.buffers->empty() == 0);
  std::vector<std::byte*> addresses;
  for (std::uint32_t id = 0; id < 8; ++id) {
    const auto lease = must(slab.buffers->take(id));
    CHECK(lease.bytes.size() == block);
    CHECK(reinterpret_cast<std::uint64_t>(lease.bytes.data()) % 4096 == 0);
    CHECK(lease.bytes.data() > slab.rig.segment().base());
    addresses.push_back(lease.bytes.data());
  }
  std::ranges::sort(addresses);
  CHECK(std::ranges::adjacent_find(addresses) == addresses.end());
}

TEST_CASE("buffer ring: an id that the kernel cannot have is refused", "[io]") {
  Slab slab(5);  // the ring has 8 entries, ids 5 to 7 do not exist
  CHECK(error_of(slab.buffers->take(5)) == Status::bad_argument);
  CHECK(error_of(slab.buffers->take(65535)) == Status::bad_argument);
  REQUIRE(slab.buffers->take(2));
  CHECK(error_of(slab.buffers->take(2)) == Status::stale);
  CHECK(slab.buffers->with_kernel() == 4);
}

TEST_CASE("buffer ring: a buffer is returned once", "[io]") {
  Slab slab;
  const auto lease = must(slab.buffers->take(1));
  CHECK(slab.buffers->give_back(lease) == Status::ok);
  CHECK(slab.buffers->with_kernel() == 8);
  CHECK(slab.buffers->give_back(lease) == Status::stale);
  CHECK(error_of(slab.buffers->keep(lease)) == Status::stale);
  CHECK(slab.buffers->with_kernel() == 8);
}

TEST_CASE("buffer ring: a lease of an earlier round is refused while the buffer is leased again", "[io]") {
  Slab slab;
  const auto early = must(slab.buffers->take(1));
  must(slab.buffers->give_back(early));
  const auto late = must(slab.buffers->take(1));
  CHECK(slab.buffers->give_back(early) == Status::stale);
  CHECK(error_of(slab.buffers->keep(early)) == Status::stale);
  CHECK(slab.buffers->give_back(late) == Status::ok);
}

TEST_CASE("buffer ring: a lease of another ring or with an id out of range is refused", "[io]") {
  Slab slab;
  auto lease = must(slab.buffers->take(1));
  lease.group = 4;
  CHECK(slab.buffers->give_back(lease) == Status::bad_argument);
  lease.group = 3;
  lease.id = 8;
  CHECK(slab.buffers->give_back(lease) == Status::bad_argument);
  CHECK(error_of(slab.buffers->keep(lease)) == Status::bad_argument);
}

TEST_CASE("buffer ring: a lease is borrowed, freeing it is refused and changes nothing", "[io]") {
  Slab slab;
  const auto lease = must(slab.buffers->take(1));
  CHECK(BufferRing::free(lease) == Status::borrowed);
  CHECK(slab.buffers->give_back(lease) == Status::ok);
}

TEST_CASE("buffer ring: the cell tells that the kernel may write, until the block is kept", "[io]") {
  Slab slab;
  const auto lane = slab.rig.lane->view();
  std::uint32_t marked = 0;
  for (std::uint32_t cell = 0; cell < lane.cell_count; ++cell)
    if (load(lane.cells[cell].handle, acquire) != 0) {
      CHECK(cell_aux::Kind::get(load(lane.cells[cell].aux, acquire)) == cell_aux::kernel);
      ++marked;
    }
  CHECK(marked == 8);
  const auto reference = must(slab.buffers->keep(must(slab.buffers->take(0))));
  CHECK(slab.aux(reference) == cell_aux::at_rest);
  CHECK(slab.rig.heap().release(reference) == Status::ok);
  CHECK(slab.rig.heap().release(reference) == Status::stale);  // a kept block is returned by handle, once
}

TEST_CASE("buffer ring: a fresh block takes the place of a kept one", "[io]") {
  Slab slab;
  const auto lease = must(slab.buffers->take(6));
  const auto reference = must(slab.buffers->keep(lease));
  CHECK(slab.buffers->empty() == 1);
  CHECK(slab.buffers->with_kernel() == 7);
  CHECK(slab.buffers->refill() == 1);
  CHECK(slab.buffers->with_kernel() == 8);
  const auto fresh = must(slab.buffers->take(6));
  CHECK(fresh.bytes.data() != lease.bytes.data());
  must(slab.rig.heap().release(reference));
}

TEST_CASE("buffer ring: it leaves cells of the ledger to who moves its blocks on", "[io]") {
  Rig rig(small_options(64));
  const auto lane = rig.another_lane({.cells = 64});
  const auto ring = must(Ring::open(8, 64));
  const auto cells = lane->heap().cells_free();
  const auto buffers = must(BufferRing::open(*ring, lane->heap(), 64, 4096, 3));
  CHECK(buffers->with_kernel() == cells - 4);
  for (std::uint32_t id = 0; id < 3; ++id) {  // kept, they have their cells still
    must(buffers->keep(must(buffers->take(id))));
    CHECK(buffers->refill() == 0);
    CHECK(lane->heap().reserve_cell().has_value());
  }
}

TEST_CASE("buffer ring: without a block a slot stays empty until another lane releases one", "[io]") {
  Slab slab(12, 3);
  const auto other = slab.rig.another_lane();
  const auto queue = must(create_stream(*slab.rig.lane, "s", 4));  // takes a unit
  auto producer = must(StreamProducer::claim(*slab.rig.lane, queue));
  auto consumer = must(StreamConsumer::claim(*other, queue));
  std::vector<Reference> kept;
  while (slab.buffers->empty() == 0) {
    kept.push_back(
        must(slab.buffers->keep(must(slab.buffers->take(static_cast<std::uint32_t>(kept.size() % 12))))));
    slab.buffers->refill();
  }
  CHECK(slab.buffers->refill() == 0);
  CHECK(slab.buffers->with_kernel() == 11);

  must(producer.push(Message{}, kept.back()));  // the block changes hands as it does between processes
  must(consumer.acknowledge());
  CHECK(slab.buffers->refill() == 0);  // not told yet
  other->heap().flush();
  CHECK(slab.buffers->refill() == 1);
  CHECK(slab.buffers->with_kernel() == 12);
}

TEST_CASE("buffer ring: a segment with room for less than two buffers is refused in a sentence", "[io]") {
  Rig rig(small_options(1));
  const auto ring = must(Ring::open(8, 64));
  std::vector<Reference> taken;
  while (auto reference = rig.heap().allocate(block)) taken.push_back(*reference);
  must(rig.heap().release(taken.back()));
  const auto opened = BufferRing::open(*ring, rig.heap(), 8, block, 0);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().status == Status::exhausted);
  CHECK(opened.error().message ==
        "segment " + rig.file.path() + ": room for 1 receive buffers of 4096 bytes, at least 2 are needed");
}

TEST_CASE("buffer ring: closing it releases every block that was not kept", "[io]") {
  Slab slab;
  const auto lease = must(slab.buffers->take(3));
  const auto reference = must(slab.buffers->keep(must(slab.buffers->take(4))));
  (void)lease;
  slab.buffers.reset();
  CHECK(audit(slab.rig.segment()).counts.blocks_live == 1);
  must(slab.rig.heap().release(reference));
  CHECK(audit(slab.rig.segment()).counts.blocks_live == 0);
  CHECK(audit(slab.rig.segment()).violations.empty());
}

}  // namespace sluice::test
