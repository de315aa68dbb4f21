// Changes of a device that are refused: the device, the stream and the caller's block stay as they were.
#include "tests/support/told_device.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <thread>
#include <utility>

namespace sluice::test {

namespace {

constexpr std::uint64_t pages = 32;

struct ToldRig : Rig {
  explicit ToldRig(std::uint32_t capacity) : Rig(small_options(32)) {
    map = must(create_extents(*lane, device_name, pages));
    stream = must(create_stream(*lane, changes_name, capacity));
    open();
  }

  void open() {
    store.reset();
    auto lane_of_it = another_lane({.cells = 64});
    teller = lane_of_it.get();
    store = must(ExtentStore::open(session.membership(), map, std::move(lane_of_it), stream));
  }
  std::uint64_t told() const { return pushed_messages(segment(), queue_row(segment(), stream.index)); }
  Reference page_of(std::uint64_t seed) {
    const auto block = must(heap().allocate(extent_page_bytes));
    fill_pattern(heap().bytes(block), seed);
    return block;
  }
  // The next writer finds nothing that is to be finished.
  void expect_only(std::uint64_t changes) {
    open();
    CHECK(told() == changes);
    Complaints complaints;
    store.reset();
    check_told(session, *lane, complaints);
    check_sound(segment(), complaints);
    for (const auto& line : complaints) FAIL_CHECK(line);
  }

  QueueId map, stream;
  Lane* teller = nullptr;
  std::unique_ptr<ExtentStore> store;
};

}  // namespace

TEST_CASE("extent store: a write that the map refuses is not told, now or later", "[ipc]") {
  ToldRig rig(16);
  const auto block = rig.page_of(1);
  const auto twin = must(rig.heap().clone(block));
  must(rig.store->write(*rig.lane, 3, block));
  CHECK(rig.store->write(*rig.lane, 3, twin) == Status::bad_argument);  // it is there already
  CHECK(rig.told() == 1);
  must(rig.heap().release(twin));
  rig.expect_only(1);
}

TEST_CASE("extent store: a write whose message can have no reference changes nothing", "[ipc]") {
  ToldRig rig(16);
  write_pattern(*rig.lane, *rig.store, 3, 1);
  std::vector<Reference> cells;
  while (rig.teller->heap().cells_free() != 0) cells.push_back(must(rig.teller->heap().allocate(64)));
  const auto before = content_of(*rig.store);
  const auto block = rig.page_of(2);
  CHECK(rig.store->write(*rig.lane, 3, block) == Status::no_cell);
  CHECK(content_of(*rig.store) == before);
  CHECK(rig.told() == 1);
  for (const auto cell : cells) must(rig.teller->heap().release(cell));
  CHECK(rig.store->write(*rig.lane, 3, block) == Status::ok);  // it is still the caller's
  CHECK(rig.told() == 2);
  rig.expect_only(2);
}

TEST_CASE("extent store: a change that a full stream has no room for is not made", "[ipc]") {
  ToldRig rig(16);
  while (rig.store->room() != 0) write_pattern(*rig.lane, *rig.store, rig.told() % 4, rig.told());
  const auto told = rig.told();
  const auto before = content_of(*rig.store);
  const auto block = rig.page_of(100);
  CHECK(rig.store->write(*rig.lane, 0, block) == Status::full);
  CHECK(rig.store->clear(*rig.lane, 0, 2) == Status::full);
  CHECK(rig.store->flush() == Status::full);
  CHECK(content_of(*rig.store) == before);
  std::vector<std::byte> mirror(before.size());
  CHECK(replay_changes(*rig.lane, rig.map, rig.stream, mirror) == told);
  CHECK(mirror == before);
  CHECK(rig.store->clear(*rig.lane, 0, pages) == Status::ok);
  CHECK(rig.store->write(*rig.lane, 0, block) == Status::ok);
  CHECK(replay_changes(*rig.lane, rig.map, rig.stream, mirror) == 2);
  CHECK(mirror == content_of(*rig.store));
}

TEST_CASE("extent store: a change is told before the next one begins, whichever lane makes it", "[ipc]") {
  ToldRig rig(16);
  const auto other = rig.another_lane();
  const auto& row = queue_row(rig.segment(), rig.map.index);
  std::jthread first, second;
  {
    const auto held = rig.store->hold(0);
    first = std::jthread([&] { write_pattern(*rig.lane, *rig.store, 0, 1); });
    while (load(row.change_sequence, acquire) != 1) std::this_thread::yield();
    second = std::jthread([&] { write_pattern(*other, *rig.store, 16, 2); });  // in a group that nobody holds
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(rig.told() == 0);
    CHECK(load(row.change_first, relaxed) == 0);
  }
  first.join();
  second.join();
  rig.expect_only(2);
}

}  // namespace sluice::test
