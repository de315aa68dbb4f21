// The queue between a model of the driver and targets that a test directs.
#include "ublk/queue.hpp"

#include "tests/unit/ublk_memory_target.hpp"
#include "tests/unit/ublk_rig.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <set>

namespace sluice::test {

namespace {

DataPath any_path() { return GENERATE(DataPath::user_copy, DataPath::copy); }

std::span<const std::byte> stored(const MemoryTarget& target, std::uint64_t sector, std::uint32_t sectors) {
  return std::span(target.store).subspan(sector * 512, std::size_t{sectors} * 512);
}

}  // namespace

TEST_CASE("ublk queue: every tag is fetched once, in copy mode with a page-aligned buffer of its own",
          "[ublk]") {
  MemoryTarget target;
  const auto path = any_path();
  QueueRig rig(target, path, 8);
  CHECK(rig.driver.with_driver() == 8);
  CHECK(rig.driver.violations().empty());
  std::set<std::uint64_t> addresses;
  for (std::uint16_t tag = 0; tag < 8; ++tag) {
    REQUIRE(rig.driver.addresses(tag).size() == 1);
    const auto address = rig.driver.addresses(tag)[0];
    CHECK((address == 0) == (path == DataPath::user_copy));
    CHECK(address % 4096 == 0);
    addresses.insert(address);
  }
  CHECK(addresses.size() == (path == DataPath::copy ? 8 : 1));
}

TEST_CASE("ublk queue: data arrives as it was written, with full byte counts", "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target, any_path());
  const auto data = pattern(7, 16 * 512);
  CHECK(rig.io({.operation = Operation::write, .sector = 40, .sectors = 16, .data = data}).result ==
        16 * 512);
  CHECK(std::ranges::equal(stored(target, 40, 16), data));
  const auto read = rig.io({.operation = Operation::read, .sector = 38, .sectors = 20});
  CHECK(read.result == 20 * 512);
  CHECK(std::ranges::equal(read.data, stored(target, 38, 20)));
  const auto largest = rig.io({.operation = Operation::read, .sector = 0, .sectors = rig_io_bytes / 512});
  CHECK(std::ranges::equal(largest.data, stored(target, 0, rig_io_bytes / 512)));
  CHECK(rig.driver.violations().empty());
  const auto counters = rig.queue->counters();
  CHECK(counters.reads == 2);
  CHECK(counters.writes == 1);
  CHECK(counters.read_bytes == 20 * 512 + rig_io_bytes);
  CHECK(counters.write_bytes == 16 * 512);
}

TEST_CASE("ublk queue: everything but reads and writes is committed with 0, errors with -errno", "[ublk]") {
  MemoryTarget target;
  target.late = true;
  QueueRig rig(target);
  const auto operation = GENERATE(Operation::read, Operation::write, Operation::flush, Operation::discard,
                                  Operation::write_zeroes);
  const bool moves = operation == Operation::read || operation == Operation::write;
  for (const int error : {0, EIO, ENOSPC}) {
    rig.driver.ask({.operation = operation});
    rig.turn();
    REQUIRE(target.kept.size() == 1);
    std::exchange(target.kept, {})[0]->finish(error);
    rig.turn();
    CHECK(rig.driver.results().back().result == (error != 0 ? -error : (moves ? 8 * 512 : 0)));
  }
  CHECK(rig.queue->counters().errors == 2);
}

TEST_CASE("ublk queue: in copy mode a tag's address never changes, so no write lands in live data",
          "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target, DataPath::copy, 1);
  const auto before = target.store;
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto read = rig.io({.operation = Operation::read, .sector = 8 * i});
    CHECK(std::ranges::equal(read.data, stored(target, 8 * i, 8)));
    target.late = true;
    rig.driver.ask({.operation = Operation::write, .sector = 1024, .data = pattern(i, 8 * 512)});
    rig.turn();  // the driver has copied the data, the target has not looked
    CHECK(std::ranges::equal(std::span(target.store).first(1024 * 512), std::span(before).first(1024 * 512)));
    target.late = false;
    target.execute(*std::exchange(target.kept, {})[0]);
    rig.turn();
    CHECK(std::ranges::equal(stored(target, 1024, 8), pattern(i, 8 * 512)));
  }
  const auto& addresses = rig.driver.addresses(0);
  CHECK(addresses.size() == 9);
  CHECK(std::ranges::all_of(addresses, [&](auto address) { return address == addresses[0]; }));
  CHECK(addresses[0] == reinterpret_cast<std::uint64_t>(rig.memory->bytes().data()));
}

TEST_CASE("ublk queue: all results of a turn are one submission", "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target, any_path(), 16);
  for (std::uint64_t i = 0; i < 16; ++i) rig.driver.ask({.operation = Operation::read, .sector = i});
  const auto waits = rig.queue->counters().waits;
  rig.turn();
  CHECK(rig.driver.results().empty());
  rig.turn();
  CHECK(rig.driver.results().size() == 16);
  CHECK(rig.driver.batches() == std::vector<std::size_t>{16});
  CHECK(rig.queue->counters().waits == waits + 2);
  CHECK(rig.queue->counters().turns == 1);
}

TEST_CASE("ublk queue: requests end in whatever order the target finishes them", "[ublk]") {
  MemoryTarget target;
  target.late = true;
  QueueRig rig(target, any_path());
  for (std::uint64_t i = 0; i < 4; ++i) rig.driver.ask({.operation = Operation::read, .sector = 8 * i});
  rig.turn();
  REQUIRE(target.kept.size() == 4);
  std::vector<std::uint16_t> order;
  for (const auto i : std::vector<std::size_t>{2, 0, 3, 1}) {
    order.push_back(target.kept[i]->tag());
    target.execute(*target.kept[i]);
  }
  rig.turn();
  REQUIRE(rig.driver.results().size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto& result = rig.driver.results()[i];
    CHECK(result.tag == order[i]);
    CHECK(std::ranges::equal(result.data, stored(target, 8ULL * result.tag, 8)));
  }
}

TEST_CASE("ublk queue: a request that the device cannot have is refused before the target sees it",
          "[ublk]") {
  MemoryTarget target;
  constexpr std::uint64_t sectors = device_bytes / 512;
  const auto expect = [&](QueueRig& rig, const ModelRequest& request, int error) {
    CAPTURE(static_cast<int>(request.operation), request.sector, request.sectors);
    CHECK(rig.io(request).result == -error);
  };
  QueueRig rig(target, any_path());
  const auto data = pattern(1, 512);
  expect(rig, {.operation = Operation::read, .sector = sectors, .sectors = 1}, EINVAL);
  expect(rig, {.operation = Operation::read, .sector = sectors - 1, .sectors = 2}, EINVAL);
  expect(rig, {.operation = Operation::read, .sector = ~0ULL, .sectors = 1}, EINVAL);
  expect(rig, {.operation = Operation::read, .sector = ~0ULL - 3, .sectors = 8}, EINVAL);
  expect(rig, {.operation = Operation::read, .sector = 0, .sectors = rig_io_bytes / 512 + 1}, EINVAL);
  expect(rig, {.operation = Operation::read, .sector = 0, .sectors = 0}, EINVAL);
  expect(rig, {.operation = Operation::discard, .sector = sectors - 1, .sectors = 2}, EINVAL);
  expect(rig, {.operation = Operation::discard, .sector = 0, .sectors = ~0U}, EINVAL);
  expect(rig, {.operation = static_cast<Operation>(4)}, EOPNOTSUPP);
  expect(rig, {.operation = static_cast<Operation>(255)}, EOPNOTSUPP);
  CHECK(target.started == 0);
  CHECK(rig.queue->counters().refused == 10);
  CHECK(rig.io({.operation = Operation::read, .sector = sectors - 1, .sectors = 1}).result == 512);

  target.discards = false;
  target.read_only = true;
  QueueRig other(target);
  expect(other, {.operation = Operation::discard}, EOPNOTSUPP);
  expect(other, {.operation = Operation::write, .sectors = 1, .data = data}, EROFS);
  CHECK(target.started == 1);
}

TEST_CASE("ublk queue: a request is finished once, and its data is out of reach before and after", "[ublk]") {
  MemoryTarget target;
  target.late = true;
  QueueRig rig(target, any_path());
  rig.driver.ask({.operation = Operation::write});
  rig.driver.ask({.operation = Operation::read});
  rig.turn();
  Request& write = *target.kept[0];
  Request& read = *target.kept[1];
  std::vector<std::byte> memory(8 * 512 + 1);
  const auto all = std::span(memory).first(8 * 512);
  CHECK(write.give_data(0, all) == EINVAL);
  CHECK(read.take_data(0, all) == EINVAL);
  CHECK(write.take_data(0, memory) == EINVAL);
  CHECK(write.take_data(1, all) == EINVAL);
  CHECK(write.take_data(~0U, all) == EINVAL);
  CHECK(read.give_zeroes(4096, 1) == EINVAL);
  CHECK(write.take_data(512, std::span(memory).first(512)) == 0);
  const auto written = pattern(0, 4096);
  CHECK(std::ranges::equal(std::span(memory).first(512), std::span(written).subspan(512, 512)));
  write.finish(0);
  write.finish(EIO);
  CHECK(write.take_data(0, all) == EINVAL);
  read.finish(0);
  rig.turn();
  CHECK(rig.driver.results().size() == 2);
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("ublk queue: user copies in parts go on, those that move nothing are errors", "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target, DataPath::user_copy);
  const auto data = pattern(3, 8 * 512);
  rig.driver.limit_copies(700);
  CHECK(rig.io({.operation = Operation::write, .data = data}).result == 8 * 512);
  CHECK(std::ranges::equal(stored(target, 0, 8), data));
  CHECK(rig.io({.operation = Operation::read}).data == data);
  rig.driver.limit_copies(0);
  CHECK(rig.io({.operation = Operation::read}).result == -EIO);
  CHECK(rig.io({.operation = Operation::write, .data = data}).result == -EIO);
  rig.driver.limit_copies(4096, EFAULT);
  CHECK(rig.io({.operation = Operation::write, .data = data}).result == -EFAULT);
}

TEST_CASE("ublk queue: it ends when every tag came back, and the target is told before", "[ublk]") {
  MemoryTarget target;
  target.late = true;
  QueueRig rig(target, any_path());
  rig.driver.ask({.operation = Operation::read});
  rig.turn();
  rig.queue->stop();
  rig.driver.stop_device();
  CHECK(target.stops == 0);
  rig.turn();
  CHECK(target.stops == 1);
  CHECK_FALSE(rig.queue->ended());  // one tag's result is on its way
  rig.turn();
  CHECK(rig.queue->ended());
  CHECK(rig.driver.results().back().result == -EIO);
  CHECK(target.stops == 1);
}

TEST_CASE("ublk queue: a commit that the driver refuses ends the queue with its name", "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target);
  rig.driver.refuse_commit(EINVAL);
  rig.driver.ask({.operation = Operation::read});
  rig.turn();
  const auto turned = rig.queue->turn(std::chrono::milliseconds(1));
  REQUIRE_FALSE(turned);
  CHECK(turned.error().message == "queue 0: the driver refused tag 0: Invalid argument");
}

}  // namespace sluice::test
