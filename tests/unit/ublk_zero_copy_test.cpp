// Zero copy between the model of the driver and targets: whose pages are lent when, and what is committed.
#include "tests/unit/ublk_disk.hpp"
#include "tests/unit/ublk_memory_target.hpp"
#include "tests/unit/ublk_rig.hpp"
#include "ublk/fault_target.hpp"
#include "ublk/null_target.hpp"
#include "ublk/server.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <linux/fs.h>

namespace sluice::test {

namespace {

constexpr auto path = DataPath::zero_copy;

// Moves each request by zero copy to or from one file, and can finish it too early.
class EagerTarget final : public Target {
 public:
  class Queue final : public TargetQueue {
   public:
    Queue(EagerTarget& target, TargetContext& context) : target_(target), context_(context) {}
    void start(Request& request) noexcept override {
      const Transfer transfer{.file = target_.file,
                              .position = request.offset(),
                              .at = target_.at,
                              .bytes = request.bytes(),
                              .cookie = request.tag()};
      target_.accepted = context_.transfer(request, transfer);
      target_.accepted_twice = context_.transfer(request, transfer);
      request.finish(target_.accepted ? 0 : EIO);
    }
    void complete(std::uint32_t /*cookie*/, std::int32_t /*result*/,
                  std::uint32_t /*flags*/) noexcept override {
      ++target_.completions;
    }

   private:
    EagerTarget& target_;
    TargetContext& context_;
  };

  TargetGeometry geometry() const noexcept override { return {.bytes = disk_bytes}; }
  bool uses_buffers() const noexcept override { return false; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override {
    return std::make_unique<Queue>(*this, context);
  }
  std::uint32_t fingerprint() const noexcept override { return 1; }
  std::string describe() const override { return "eager"; }

  int file = -1;
  std::uint32_t at = 0;
  bool accepted = false, accepted_twice = false;
  int completions = 0;
};

}  // namespace

TEST_CASE("zero copy: the device is the file, and no byte passes through the server", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, path);
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
  CHECK(rig.memory->bytes().empty());
  CHECK(rig.queue->counters().copy_calls == 0);
}

TEST_CASE("zero copy: a transfer names its tag's pages and counts from their beginning", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, path);
  rig.io({.operation = Operation::read, .sector = 8, .sectors = 16});
  rig.io({.operation = Operation::write, .sector = 8, .sectors = 16});
  rig.io({.operation = Operation::write, .sector = 8, .flags = ublk_abi::io_flag_fua});
  CHECK(rig.io({.operation = Operation::flush}).result == 0);
  const auto& entries = rig.driver.entries();
  REQUIRE(entries.size() == 4);
  CHECK(entries[0].opcode == IORING_OP_READ_FIXED);
  CHECK(entries[0].buf_index == 0);
  CHECK(entries[0].addr == 0);
  CHECK(entries[0].len == 16 * 512);
  CHECK(entries[0].off == 8 * 512);
  CHECK(entries[1].opcode == IORING_OP_WRITE_FIXED);
  CHECK(entries[1].rw_flags == 0);
  CHECK(entries[2].rw_flags == RWF_DSYNC);
  CHECK(entries[3].opcode == IORING_OP_FSYNC);
}

TEST_CASE("zero copy: all transfers of a turn are one submission, and so are their results", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, path, 16);
  for (std::uint64_t i = 0; i < 16; ++i) rig.driver.ask({.operation = Operation::read, .sector = 8 * i});
  rig.turn();
  rig.turn();
  CHECK(rig.driver.entries().size() == 16);
  rig.settle(16);
  for (const auto& result : rig.driver.results())
    CHECK(result.data == disk.read(std::uint64_t{result.tag} * 4096, 4096));
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: a transfer that stops short goes on where it stopped", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, path);
  rig.driver.limit_transfers(4096);
  const auto read = rig.io({.operation = Operation::read, .sector = 64, .sectors = 24});
  CHECK(read.result == 24 * 512);
  CHECK(read.data == disk.read(64 * 512, 24 * 512));
  const auto& entries = rig.driver.entries();
  REQUIRE(entries.size() == 3);
  CHECK(entries[2].addr == 8192);
  CHECK(entries[2].len == 4096);
  CHECK(entries[2].off == 64 * 512 + 8192);
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: a file that became shorter is an error, not what was in memory", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, path);
  std::filesystem::resize_file(disk.path, disk_bytes - 32768);
  CHECK(rig.io({.operation = Operation::read, .sector = 1920, .sectors = 128}).result == -EIO);
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: pages that cannot be registered fail their request, and only that", "[ublk]") {
  const TempDisk disk;
  const auto target = must(open_file(disk));
  QueueRig rig(*target, path);
  rig.driver.refuse_registration(ENOMEM);
  CHECK(rig.io({.operation = Operation::read}).result == -ENOMEM);
  CHECK(rig.io({.operation = Operation::read}).data == disk.read(0, 4096));
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: a request that is finished while its pages are lent is committed when they are back",
          "[ublk]") {
  const TempDisk disk;
  EagerTarget target;
  const UniqueFd file(::open(disk.path.c_str(), O_RDWR));
  target.file = file.get();
  QueueRig rig(target, path);
  const auto read = rig.io({.operation = Operation::read, .sector = 16});
  CHECK(target.accepted);
  CHECK_FALSE(target.accepted_twice);
  CHECK(read.result == 8 * 512);
  CHECK(read.data == disk.read(16 * 512, 8 * 512));
  CHECK(target.completions == 0);
  CHECK(rig.driver.violations().empty());
  target.at = 1;  // one byte beyond the request
  CHECK(rig.io({.operation = Operation::read, .sector = 16}).result == -EIO);
  CHECK_FALSE(target.accepted);
  CHECK(rig.io({.operation = Operation::flush}).result == -EIO);
  CHECK_FALSE(target.accepted);
}

TEST_CASE("zero copy: without it nothing is transferred", "[ublk]") {
  EagerTarget target;
  QueueRig rig(target, GENERATE(DataPath::user_copy, DataPath::copy));
  CHECK(rig.io({.operation = Operation::read}).result == -EIO);
  CHECK_FALSE(target.accepted);
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: the null target's reads are zeroes, not what was in memory", "[ublk]") {
  const auto target = must(NullTarget::open(disk_bytes));
  QueueRig rig(*target, path);
  CHECK(rig.io({.operation = Operation::read, .sectors = 128}).data == std::vector<std::byte>(128 * 512));
  CHECK(rig.io({.operation = Operation::write}).result == 4096);
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: delayed requests move like others", "[ublk]") {
  const TempDisk disk;
  FaultRule rule;
  rule.action = FaultRule::Action::delay;
  rule.delay = std::chrono::milliseconds(5);
  FaultTarget target(must(open_file(disk)), {rule});
  CHECK(target.supports_zero_copy());
  QueueRig rig(target, path);
  rig.driver.ask({.operation = Operation::read, .sector = 8});
  while (rig.driver.results().empty()) rig.turn();
  CHECK(rig.driver.results()[0].data == disk.read(4096, 4096));
  CHECK(rig.driver.violations().empty());
}

TEST_CASE("zero copy: a target that needs the data refuses it in a sentence", "[ublk]") {
  UblkOptions options;
  options.data_path = DataPathChoice::zero_copy;
  const auto server = UblkServer::add(options, std::make_unique<MemoryTarget>());
  REQUIRE_FALSE(server);
  CHECK(server.error().status == Status::bad_argument);
  CHECK(server.error().message ==
        "memory: this target works on the data itself, which zero-copy keeps from it; use user-copy or copy");
}

TEST_CASE("zero copy: the model finds a server that breaks the protocol", "[ublk]") {
  ModelDriver driver(2, path);
  const auto wait = [&] {
    REQUIRE(driver.wait(std::chrono::milliseconds(1)) == Status::ok);
    return driver.events();
  };
  driver.fetch(0, 0);
  driver.fetch(1, 0);
  wait();
  const auto tag = driver.ask({.operation = Operation::read});
  wait();
  SECTION("a commit while the pages are registered") {
    driver.register_data(tag);
    driver.commit(tag, 4096, 0);
    wait();
    CHECK(driver.violations() == std::vector<std::string>{"tag 0: committed while its pages are registered"});
    CHECK(driver.results().empty());
  }
  SECTION("pages registered twice") {
    driver.register_data(tag);
    driver.register_data(tag);
    wait();
    CHECK(driver.violations() == std::vector<std::string>{"tag 0: registered twice"});
  }
  SECTION("pages of a tag that has no request") {
    driver.register_data(1);
    wait();
    CHECK(driver.violations() ==
          std::vector<std::string>{"tag 1: registered without a request that has data"});
  }
  SECTION("a transfer beyond the request, and giving back that does not wait for it") {
    driver.register_data(tag);
    io_uring_sqe* entry = driver.prepare_transfer(tag);
    io_uring_prep_rw(IORING_OP_READ_FIXED, entry, -1, nullptr, 4097, 0);
    wait();
    CHECK(driver.violations() ==
          std::vector<std::string>{"tag 0: a transfer beyond the request",
                                   "tag 0: a transfer that giving back does not wait for"});
  }
  SECTION("pages given back that nobody has: an error, as in the kernel") {
    driver.unregister_data(tag);
    const auto events = wait();
    REQUIRE(events.size() == 1);
    CHECK(events[0].kind == DriverEvent::Kind::unregistered);
    CHECK(events[0].result == -EINVAL);
  }
}

}  // namespace sluice::test
