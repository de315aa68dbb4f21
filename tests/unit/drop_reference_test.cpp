#include "ipc/lane.hpp"
#include "shm/block.hpp"
#include "tests/support/must.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <sys/mman.h>

using namespace sluice;
using namespace sluice::test;

TEST_CASE("drop: a block that is already being freed is flagged, its word stays its owner's", "[shm]") {
  Rig rig;
  const auto other = must(rig.session.claim_lane({.cells = 64}));
  auto& segment = rig.segment();
  const auto block = must(rig.heap().allocate(64));
  auto& low = segment.truth_word(segment.split().unit(block.handle), segment.split().slot(block.handle)).low;
  // As a kill after FREEING leaves it: the cell of the dead names a block that is being freed.
  const auto generation = segment.split().generation(block.handle);
  store(low, truth::make(generation, 0, BlockState::freeing), release);
  store(other->view().cells[20].handle, block.handle.value, release);
  store(rig.heap().cell(block.cell).handle, 0, release);
  // The owner may be handing the slot out again at this moment, so recovery must not write the word, not even
  // what it holds: with its page read-only, a store ends the test.
  auto* page = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(&low) & ~(page_bytes - 1));
  REQUIRE(::mprotect(page, page_bytes, PROT_READ) == 0);
  drop_reference(other->view(), 20);
  REQUIRE(::mprotect(page, page_bytes, PROT_READ | PROT_WRITE) == 0);
  CHECK(load(other->view().cells[20].handle, relaxed) == 0);
  const auto slot = segment.split().slot(block.handle);
  CHECK((load(segment.remote_bits(segment.split().unit(block.handle)).words[slot / 64], relaxed) >>
             (slot % 64) &
         1) == 1);
}

TEST_CASE("grow: free units before the end complete a run with what the file can still grow by", "[shm]") {
  Rig rig(SegmentOptions{.payload_bytes_max = 32 << 20});
  auto& heap = rig.heap();
  const auto small = must(heap.allocate(64));
  REQUIRE(heap.release(small) == Status::ok);
  const auto all = heap.allocate(rig.segment().block_bytes_max());
  REQUIRE(all);
  CHECK(heap.release(*all) == Status::ok);
}
