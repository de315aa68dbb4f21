// The targets behind a queue and the model of the driver: null, file, faults.
#include "tests/unit/ublk_disk.hpp"
#include "tests/unit/ublk_rig.hpp"
#include "ublk/fault_target.hpp"
#include "ublk/file_target.hpp"
#include "ublk/null_target.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::test {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t file_bytes = disk_bytes;

std::vector<std::byte> zeroes(std::size_t bytes) { return std::vector<std::byte>(bytes); }

DataPath any_path() { return GENERATE(DataPath::user_copy, DataPath::copy); }

std::vector<FaultRule> one(FaultRule rule) { return {rule}; }

}  // namespace

TEST_CASE("null target: reads are zeroes whatever was written", "[ublk]") {
  const auto target = must(NullTarget::open(file_bytes));
  QueueRig rig(*target, any_path(), 1);
  CHECK(rig.io({.operation = Operation::write, .sectors = 128}).result == 128 * 512);
  CHECK(rig.io({.operation = Operation::read, .sectors = 128}).data == zeroes(128 * 512));
  CHECK(rig.io({.operation = Operation::flush}).result == 0);
  CHECK(rig.io({.operation = Operation::discard, .sectors = 2048}).result == 0);
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("null target: a size that no device can have is refused", "[ublk]") {
  const auto bytes = GENERATE(0, 1, 511, 513);
  const auto target = NullTarget::open(static_cast<std::uint64_t>(bytes));
  REQUIRE_FALSE(target);
  CHECK(target.error().status == Status::bad_argument);
}

TEST_CASE("file target: the device is the file", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, any_path());
  const auto data = pattern(5, 64 * 512);
  CHECK(rig.io({.operation = Operation::write, .sector = 16, .sectors = 64, .data = data}).result ==
        64 * 512);
  CHECK(disk.read(16 * 512, data.size()) == data);
  for (const auto sector : std::vector<std::uint64_t>{0, 8, 1024, 1920}) {
    const auto read = rig.io({.operation = Operation::read, .sector = sector, .sectors = 128});
    CHECK(read.result == 128 * 512);
    CHECK(read.data == disk.read(sector * 512, 128 * 512));
  }
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("file target: as many requests as the queue is deep are under way together", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, any_path(), 16);
  for (std::uint64_t i = 0; i < 16; ++i) rig.driver.ask({.operation = Operation::read, .sector = 8 * i});
  rig.turn();
  rig.turn();
  CHECK(rig.driver.entries().size() == 16);  // submitted together
  rig.settle(16);
  for (const auto& result : rig.driver.results())
    CHECK(result.data == disk.read(std::uint64_t{result.tag} * 4096, 4096));
}

TEST_CASE("file target: a write with FUA is durable by itself, a flush is a data sync", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target);
  CHECK(target->geometry().volatile_cache);
  rig.io({.operation = Operation::write});
  rig.io({.operation = Operation::write, .flags = ublk_abi::io_flag_fua});
  CHECK(rig.io({.operation = Operation::flush}).result == 0);
  const auto& entries = rig.driver.entries();
  REQUIRE(entries.size() == 3);
  CHECK(entries[0].opcode == IORING_OP_WRITE);
  CHECK(entries[0].rw_flags == 0);
  CHECK(entries[1].opcode == IORING_OP_WRITE);
  CHECK(entries[1].rw_flags == RWF_DSYNC);
  CHECK(entries[2].opcode == IORING_OP_FSYNC);
  CHECK(entries[2].fsync_flags == IORING_FSYNC_DATASYNC);
}

TEST_CASE("file target: discard and write-zeroes leave zeroes, and blocks only where they must stay",
          "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, any_path());
  ::sync();
  const auto before = disk.blocks();
  const auto keep = ublk_abi::io_flag_no_unmap;
  const auto kept =
      rig.io({.operation = Operation::write_zeroes, .sector = 0, .sectors = 512, .flags = keep});
  if (kept.result == -EOPNOTSUPP) WARN("no ZERO_RANGE on this file system");
  if (kept.result == 0) CHECK(disk.read(0, 512 * 512) == zeroes(512 * 512));
  CHECK(disk.blocks() == before);
  CHECK(rig.io({.operation = Operation::write_zeroes, .sector = 512, .sectors = 256}).result == 0);
  CHECK(rig.io({.operation = Operation::discard, .sector = 1024, .sectors = 512}).result == 0);
  CHECK(disk.read(512 * 512, 256 * 512) == zeroes(256 * 512));
  CHECK(disk.read(1024 * 512, 512 * 512) == zeroes(512 * 512));
  CHECK(disk.blocks() <= before - 768);
  CHECK(fs::file_size(disk.path) == file_bytes);
}

TEST_CASE("file target: a file that became shorter is an I/O error, not old data", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, any_path());
  rig.io({.operation = Operation::read, .sector = 1920, .sectors = 128});
  fs::resize_file(disk.path, file_bytes - 32768);
  CHECK(rig.io({.operation = Operation::read, .sector = 1920, .sectors = 128}).result == -EIO);
  CHECK(rig.io({.operation = Operation::read, .sector = 0, .sectors = 128}).result == 128 * 512);
}

TEST_CASE("file target: one server at a time", "[ublk]") {
  const TempDisk disk;
  auto first = must(open_file(disk));
  const auto second = open_file(disk);
  REQUIRE_FALSE(second);
  CHECK(second.error().status == Status::busy);
  CHECK(second.error().message == disk.path.string() + ": in use by another server or a file system");
  first.reset();
  CHECK(open_file(disk));
}

TEST_CASE("file target: its lock stays as long as the kernel works for a server on the file", "[ublk]") {
  const TempDisk disk;
  const auto ring = must(Ring::open(4, 8));
  {
    const UniqueFd file(::open(disk.path.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(::flock(file.get(), LOCK_EX | LOCK_NB) == 0);
    // The ring's reference to the open file stands for that of a request under way.
    const int fd = file.get();
    REQUIRE(io_uring_register_files(ring->raw(), &fd, 1) == 0);
  }
  CHECK_FALSE(open_file(disk));  // although the descriptor is closed
  REQUIRE(io_uring_unregister_files(ring->raw()) == 0);
  CHECK(FileTarget::open({.path = disk.path, .lock_wait = std::chrono::seconds(10)}));
}

TEST_CASE("file target: what cannot be served is named", "[ublk]") {
  const TempDisk disk;
  const auto refused = [](const FileTargetOptions& options) {
    const auto target = FileTarget::open(options);
    REQUIRE_FALSE(target);
    return target.error();
  };
  CHECK(refused({.path = disk.directory / "none"}).status == Status::not_found);
  CHECK(refused({.path = disk.directory}).message ==
        disk.directory.string() + ": neither a file nor a block device");
  CHECK(refused({.path = "/dev/null"}).message == "/dev/null: neither a file nor a block device");
  CHECK(refused({.path = disk.path, .bytes = file_bytes + 512}).message ==
        disk.path.string() + ": it has 1048576 bytes, 1049088 are to be served");
  CHECK(refused({.path = disk.path, .bytes = 1000}).message.find("expected a multiple of 512 above 0") !=
        std::string::npos);
  disk.fill(0);
  CHECK(refused({.path = disk.path}).message.find("0 bytes to be served") != std::string::npos);
}

TEST_CASE("file target: a device keeps to the file that it was added with", "[ublk]") {
  const TempDisk disk, other;
  const auto fingerprint = must(open_file(disk))->fingerprint();
  CHECK(must(open_file(disk))->fingerprint() == fingerprint);
  CHECK(must(open_file(other))->fingerprint() != fingerprint);
  const TempDisk copy;
  fs::copy_file(disk.path, copy.directory / "copy");
  CHECK(must(FileTarget::open({.path = copy.directory / "copy"}))->fingerprint() != fingerprint);
}

TEST_CASE("file target: read-only, it takes no write and needs no lock of its own", "[ublk]") {
  const TempDisk disk;
  const auto first = must(open_file(disk, 0, true));
  const auto second = must(open_file(disk, 0, true));
  QueueRig rig(*first);
  CHECK(rig.io({.operation = Operation::write}).result == -EROFS);
  CHECK(rig.io({.operation = Operation::read}).data == disk.read(0, 4096));
}

TEST_CASE("fault target: errors by rule, in their order, everything else goes through", "[ublk]") {
  FaultRule rule;
  rule.operations = 1U << static_cast<unsigned>(Operation::read);
  rule.errno_value = ENOSPC;
  rule.every = 3;
  rule.after = 2;
  FaultTarget target(must(NullTarget::open(file_bytes)), one(rule));
  QueueRig rig(target, any_path());
  std::vector<std::int32_t> results;
  for (int i = 0; i < 9; ++i) results.push_back(rig.io({.operation = Operation::read}).result);
  CHECK(results == std::vector<std::int32_t>{4096, 4096, 4096, 4096, -ENOSPC, 4096, 4096, -ENOSPC, 4096});
  CHECK(rig.io({.operation = Operation::write}).result == 4096);
}

TEST_CASE("fault target: a delayed request ends after its time, others do not wait for it", "[ublk]") {
  FaultRule rule;
  rule.operations = 1U << static_cast<unsigned>(Operation::write);
  rule.action = FaultRule::Action::delay;
  rule.delay = std::chrono::milliseconds(30);
  FaultTarget target(must(NullTarget::open(file_bytes)), one(rule));
  QueueRig rig(target);
  const auto begun = std::chrono::steady_clock::now();
  const auto delayed = rig.driver.ask({.operation = Operation::write});
  CHECK(rig.io({.operation = Operation::read}).result == 4096);
  CHECK(rig.driver.results().size() == 1);
  CHECK(rig.driver.timeout() <= std::chrono::milliseconds(30));
  while (rig.driver.results().size() < 2) rig.turn();
  CHECK(std::chrono::steady_clock::now() - begun >= std::chrono::milliseconds(30));
  CHECK(rig.driver.results().back().tag == delayed);
  CHECK(rig.driver.results().back().result == 4096);
}

TEST_CASE("fault target: a stalled request ends with an error when the server stops", "[ublk]") {
  FaultRule rule;
  rule.action = FaultRule::Action::stall;
  FaultTarget target(must(NullTarget::open(file_bytes)), one(rule));
  QueueRig rig(target);
  rig.driver.ask({.operation = Operation::write});
  for (int i = 0; i < 5; ++i) rig.turn();
  CHECK(rig.driver.results().empty());
  rig.queue->stop();
  rig.driver.stop_device();
  for (int i = 0; i < 3; ++i) rig.turn();
  CHECK(rig.queue->ended());
  REQUIRE(rig.driver.results().size() == 1);
  CHECK(rig.driver.results()[0].result == -EIO);
}

}  // namespace sluice::test
