// The store target behind a queue and the model of the driver, against a plain array.
#include "ipc/audit.hpp"
#include "tests/support/temp_segment.hpp"
#include "tests/unit/io_allocation_counter.hpp"
#include "tests/unit/ublk_rig.hpp"
#include "ublk/null_target.hpp"
#include "ublk/store_target.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

using Operation = ublk_abi::Operation;

constexpr std::uint64_t device_bytes = 1 << 20;
constexpr std::uint64_t page_sectors = extent_page_bytes / 512;
constexpr std::uint32_t flag_fua = ublk_abi::io_flag_fua;

SegmentOptions segment_of(std::uint64_t units) {
  auto options = small_options(units);
  options.lanes = 16;
  return options;
}

StoreTargetOptions options_of(const TempSegment& file, std::string publish = {}) {
  StoreTargetOptions options;
  options.segment = file.path();
  options.name = "disk";
  options.bytes = device_bytes;
  options.publish = std::move(publish);
  options.stream_capacity = 1024;
  return options;
}

DataPath any_path() { return GENERATE(DataPath::user_copy, DataPath::copy); }

ModelRequest write_of(std::uint64_t page, std::uint32_t pages, std::uint64_t seed, std::uint32_t flags = 0) {
  return {.operation = Operation::write,
          .sector = page * page_sectors,
          .sectors = static_cast<std::uint32_t>(pages * page_sectors),
          .flags = flags,
          .data = pattern(seed, pages * extent_page_bytes)};
}

ModelRequest request_of(Operation operation, std::uint64_t page, std::uint32_t pages) {
  return {.operation = operation,
          .sector = page * page_sectors,
          .sectors = static_cast<std::uint32_t>(pages * page_sectors)};
}

std::vector<std::byte> content_of(QueueRig& rig) {
  std::vector<std::byte> content;
  for (std::uint64_t page = 0; page < device_bytes / extent_page_bytes; page += 16) {
    const auto part = rig.io(request_of(Operation::read, page, 16));
    must_hold(part.result == 16 * static_cast<int>(extent_page_bytes), "a read succeeds");
    content.insert(content.end(), part.data.begin(), part.data.end());
  }
  return content;
}

// What a consumer makes of a stream from here on, in `content`. Returns how many messages it took.
std::uint64_t replay(const std::string& path, std::string_view stream, std::vector<std::byte>& content) {
  auto session = must(Session::open(path, "mirror"));
  const auto lane = must(session.claim_lane());
  auto consumer = must(StreamConsumer::claim(*lane, must(find_queue(session.segment(), stream))));
  std::uint64_t taken = 0;
  for (; const auto* message = consumer.peek(); ++taken) {
    const auto at = content.begin() + static_cast<std::ptrdiff_t>(message->position);
    if (message->kind == MessageKind::write)
      std::copy_n(must(find_block(session.segment(), {message->handle})).data, message->length, at);
    else if (message->kind == MessageKind::zeroes)
      std::fill_n(at, message->length, std::byte{0});
    must(consumer.acknowledge());
  }
  return taken;
}

std::uint64_t live_blocks(const std::string& path) {
  const auto report = audit(must(Segment::attach_read_only(path)));
  for (const auto& violation : report.violations) FAIL_CHECK(violation.what);
  return report.counts.blocks_live;
}

}  // namespace

TEST_CASE("store target: random requests do what an array does, and the stream tells the same", "[ublk]") {
  const auto path = any_path();
  const TempSegment file(segment_of(256));
  const bool publish = GENERATE(false, true);
  std::vector<std::byte> model(device_bytes), mirror(device_bytes);
  std::mt19937_64 random(GENERATE(1U, 2U));
  const auto below = [&](std::uint64_t count) { return random() % count; };
  for (int life = 0; life < 3; ++life) {
    const auto target = must(StoreTarget::open(options_of(file, publish ? "changes" : "")));
    QueueRig rig(*target, path);
    for (int i = 0; i < 300; ++i) {
      const auto page = below(device_bytes / extent_page_bytes);
      const auto left = device_bytes / extent_page_bytes - page;
      // Half of them begin and end with groups.
      auto first = page;
      auto pages = static_cast<std::uint32_t>(std::min<std::uint64_t>(1 + below(16), left));
      if (below(2) == 0) first = page / 16 * 16, pages = 16;
      const auto begin = model.begin() + static_cast<std::ptrdiff_t>(first * extent_page_bytes);
      switch (below(8)) {
        case 0: {
          const auto read = rig.io(request_of(Operation::read, first, pages));
          REQUIRE(std::equal(read.data.begin(), read.data.end(), begin));
          break;
        }
        case 1:
        case 2: {
          REQUIRE(rig.io(request_of(Operation::discard, first, pages)).result == 0);
          std::fill_n(begin, pages * extent_page_bytes, std::byte{0});
          break;
        }
        case 3: {
          REQUIRE(rig.io(request_of(Operation::write_zeroes, first, pages)).result == 0);
          std::fill_n(begin, pages * extent_page_bytes, std::byte{0});
          break;
        }
        default: {
          const auto request = write_of(first, pages, random(), i % 7 == 0 ? flag_fua : 0);
          REQUIRE(rig.io(request).result == static_cast<int>(pages * extent_page_bytes));
          std::ranges::copy(request.data, begin);
        }
      }
    }
    CHECK(rig.io({.operation = Operation::flush}).result == 0);
    CHECK(content_of(rig) == model);
    CHECK(rig.driver.violations().empty());
    if (publish) {
      replay(file.path(), "changes", mirror);
      CHECK(mirror == model);
    }
  }
  live_blocks(file.path());
}

TEST_CASE("store target: a message names the very block that the device keeps", "[ublk]") {
  const TempSegment file(segment_of(64));
  const auto target = must(StoreTarget::open(options_of(file, "changes")));
  QueueRig rig(*target);
  CHECK(rig.io(write_of(3, 1, 1)).result > 0);
  CHECK(rig.io(write_of(16, 16, 2)).result > 0);
  CHECK(rig.io(request_of(Operation::discard, 3, 1)).result == 0);
  CHECK(rig.io({.operation = Operation::flush}).result == 0);
  const auto segment = must(Segment::attach_read_only(file.path()));
  const auto map = must(find_queue(segment, "disk"));
  const auto slots = sound_extents(segment, queue_row(segment, map.index)).value();
  const auto& row = queue_row(segment, must(find_queue(segment, "changes")).index);
  REQUIRE(row.tail == 4);
  const MessageKind kinds[] = {MessageKind::write, MessageKind::write, MessageKind::zeroes,
                               MessageKind::flush};
  for (std::uint64_t number = 0; number < 4; ++number) {
    const auto& message = message_slot(segment, row, number);
    CHECK(message.kind == kinds[number]);
    CHECK(change_number(message) == number);
    CHECK(device_map(message.flow) == map);
  }
  CHECK(message_slot(segment, row, 1).handle == slots.at(slots.group_of(16)));
  CHECK(message_slot(segment, row, 1).position == 16 * extent_page_bytes);
  CHECK(message_slot(segment, row, 1).length == 16 * extent_page_bytes);
  CHECK(message_slot(segment, row, 0).handle != 0);
  CHECK(slots.at(3) == 0);
  CHECK(live_blocks(file.path()) == 2);  // the page's is the stream's alone by now
}

TEST_CASE("store target: a full segment is an error to the writer, and what was there stays", "[ublk]") {
  const TempSegment file(segment_of(12));
  auto options = options_of(file);
  options.thin = true;
  const auto target = must(StoreTarget::open(options));
  QueueRig rig(*target, any_path());
  std::vector<std::byte> model(device_bytes);
  std::uint64_t refused = 0;
  for (std::uint64_t page = 0; page < device_bytes / extent_page_bytes; page += 4) {
    const auto request = write_of(page, 4, page);
    const auto result = rig.io(request).result;
    if (result > 0)
      std::ranges::copy(request.data, model.begin() + static_cast<std::ptrdiff_t>(page * extent_page_bytes));
    if (result == -ENOSPC) ++refused;
    CHECK((result > 0 || result == -ENOSPC));
  }
  CHECK(refused > 0);
  CHECK(rig.io(write_of(0, 16, 77)).result == -ENOSPC);
  CHECK(content_of(rig) == model);
  CHECK(rig.io(request_of(Operation::discard, 0, 64)).result == 0);
  CHECK(rig.io(write_of(200, 16, 78)).result > 0);
  live_blocks(file.path());
}

TEST_CASE("store target: a full stream makes writes wait, in order, until it is taken", "[ublk]") {
  const TempSegment file(segment_of(64));
  auto options = options_of(file, "changes");
  options.stream_capacity = 4;
  const auto target = must(StoreTarget::open(options));
  QueueRig rig(*target);
  for (std::uint64_t i = 0; i < 4; ++i) CHECK(rig.io(write_of(i, 1, i)).result > 0);
  const auto before = rig.driver.results().size();
  rig.driver.ask(write_of(5, 1, 5));
  rig.driver.ask(write_of(5, 1, 6));
  for (int i = 0; i < 5; ++i) rig.turn();
  CHECK(rig.driver.results().size() == before);
  CHECK(rig.driver.timeout() <= std::chrono::milliseconds(1));
  CHECK(rig.io(request_of(Operation::read, 0, 1)).data ==
        pattern(0, extent_page_bytes));  // reads need no room
  std::vector<std::byte> mirror(device_bytes);
  CHECK(replay(file.path(), "changes", mirror) == 4);
  rig.settle(before + 3);
  CHECK(rig.io(request_of(Operation::read, 5, 1)).data == pattern(6, extent_page_bytes));

  SECTION("what still waits when the device stops fails in bounded time") {
    for (std::uint64_t i = 0; i < 2; ++i) CHECK(rig.io(write_of(i, 1, i)).result > 0);
    rig.driver.ask(write_of(5, 1, 5));
    rig.turn();
    rig.queue->stop();
    const auto begun = std::chrono::steady_clock::now();
    const auto count = rig.driver.results().size();
    while (rig.driver.results().size() == count &&
           std::chrono::steady_clock::now() - begun < std::chrono::seconds(60)) {
      rig.turn();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    REQUIRE(rig.driver.results().size() == count + 1);
    CHECK(rig.driver.results().back().result == -EIO);
  }
}

TEST_CASE("store target: a write that a stream has room for in part goes on as it is taken", "[ublk]") {
  const TempSegment file(segment_of(64));
  auto options = options_of(file, "changes");
  options.stream_capacity = 4;
  const auto target = must(StoreTarget::open(options));
  QueueRig rig(*target);
  std::vector<std::byte> mirror(device_bytes);
  CHECK(rig.io(write_of(0, 1, 1)).result > 0);  // what was taken since is looked for, although there is room
  CHECK(replay(file.path(), "changes", mirror) == 1);
  CHECK(rig.io(write_of(0, 4, 2)).result > 0);
  CHECK(replay(file.path(), "changes", mirror) == 4);
  const auto results = rig.driver.results().size();
  rig.driver.ask(write_of(17, 10, 3));  // more than the stream has ever room for
  std::uint64_t taken = 0;
  const auto begun = std::chrono::steady_clock::now();
  while (rig.driver.results().size() == results &&
         std::chrono::steady_clock::now() - begun < std::chrono::seconds(20)) {
    rig.turn();
    taken += replay(file.path(), "changes", mirror);
  }
  REQUIRE(rig.driver.results().size() == results + 1);
  CHECK(rig.driver.results().back().result == 10 * static_cast<int>(extent_page_bytes));
  CHECK(taken == 10);
  CHECK(content_of(rig) == mirror);
}

TEST_CASE("store target: with the policy fail, room is what the stream has, not what it had", "[ublk]") {
  const TempSegment file(segment_of(64));
  auto options = options_of(file, "changes");
  options.stream_capacity = 4;
  options.policy = PublishPolicy::fail;
  const auto target = must(StoreTarget::open(options));
  QueueRig rig(*target);
  std::vector<std::byte> mirror(device_bytes);
  for (std::uint64_t i = 0; i < 4; ++i) {
    CHECK(rig.io(write_of(8 * i, 3, i)).result > 0);
    CHECK(replay(file.path(), "changes", mirror) == 3);
  }
}

TEST_CASE("store target: with the policy fail a full stream is an error, and nothing is changed", "[ublk]") {
  const TempSegment file(segment_of(64));
  auto options = options_of(file, "changes");
  options.stream_capacity = 4;
  options.policy = PublishPolicy::fail;
  const auto target = must(StoreTarget::open(options));
  QueueRig rig(*target);
  CHECK(rig.io(write_of(0, 3, 1)).result > 0);
  const auto before = content_of(rig);
  CHECK(rig.io(write_of(8, 2, 2)).result == -EIO);
  CHECK(content_of(rig) == before);
  CHECK(rig.io(write_of(16, 16, 3)).result > 0);  // one block, one message
  CHECK(rig.io(request_of(Operation::discard, 0, 1)).result == -EIO);
  CHECK(rig.io({.operation = Operation::flush}).result == -EIO);
}

TEST_CASE("store target: what it cannot be opened with is said, and nothing is left behind", "[ublk]") {
  const TempSegment file(segment_of(64));
  const auto message_of = [&](auto change) {
    auto options = options_of(file);
    change(options);
    const auto target = StoreTarget::open(options);
    REQUIRE_FALSE(target);
    return target.error().message;
  };
  const auto contains = [](std::string part) { return Catch::Matchers::Contains(std::move(part)); };
  CHECK_THAT(message_of([](auto& o) { o.segment = "/nonexistent/segment"; }),
             contains("/nonexistent/segment"));
  CHECK_THAT(message_of([](auto& o) { o.bytes = 0; }), contains("device disk: the size is 0 bytes"));
  CHECK_THAT(message_of([](auto& o) { o.bytes = 4096; }), contains("expected a multiple of 65536"));
  CHECK_THAT(message_of([](auto& o) { o.bytes = 64 << 20; }), contains("with --thin"));
  CHECK_THAT(message_of([](auto& o) { o.bytes = std::uint64_t{1} << 44, o.thin = true; }),
             contains("pages of disk"));
  CHECK_THAT(message_of([](auto& o) { o.bytes = std::uint64_t{1} << 34, o.thin = true; }),
             contains("no room"));
  CHECK_THAT(message_of([](auto& o) { o.name = std::string(64, 'x'); }), contains("expected 1 to 63"));
  {
    const auto served = must(StoreTarget::open(options_of(file)));
    CHECK_THAT(message_of([](auto&) {}), contains("served by process " + std::to_string(::getpid())));
  }
  CHECK_THAT(message_of([](auto& o) { o.bytes *= 2; }),
             contains("it has 1048576 bytes, 2097152 are to be served"));
  {
    const auto target = must(StoreTarget::open(options_of(file)));
    CHECK(QueueRig(*target).io(write_of(0, 1, 1)).result > 0);
  }
  CHECK_THAT(message_of([](auto& o) { o.publish = "late"; }), contains("content that no stream was told of"));
  {
    auto other = options_of(file, "others");
    other.name = "other";
    const auto target = must(StoreTarget::open(other));
    CHECK(QueueRig(*target).io(write_of(0, 1, 1)).result > 0);
  }
  CHECK_THAT(message_of([](auto& o) { o.name = "third", o.publish = "others"; }),
             contains("has messages of others"));
  CHECK_THAT(message_of([](auto& o) { o.name = "other"; }), contains("its changes go to stream others"));
  CHECK_THAT(message_of([](auto& o) { o.name = "other", o.publish = "third's"; }),
             contains("its changes go to stream others, not to third's"));
  CHECK_THAT(message_of([](auto& o) { o.name = "others"; }), contains("expected an extent map"));
  CHECK_THAT(message_of([](auto& o) { o.publish = "disk"; }), contains("disk"));
  live_blocks(file.path());
}

TEST_CASE("store target: a request that is not of its blocks is refused", "[ublk]") {
  const TempSegment file(segment_of(64));
  const auto target = must(StoreTarget::open(options_of(file)));
  QueueRig rig(*target);
  CHECK(rig.io({.operation = Operation::write, .sector = 1, .sectors = 8, .data = pattern(1, 4096)}).result ==
        -EINVAL);
  CHECK(rig.io({.operation = Operation::write, .sector = 0, .sectors = 1, .data = pattern(1, 512)}).result ==
        -EINVAL);
  CHECK(rig.io({.operation = Operation::discard, .sector = 0, .sectors = 7}).result == -EINVAL);
}

TEST_CASE("store target: a map that names what is not there is an I/O error", "[ublk]") {
  const TempSegment file(segment_of(64));
  const auto target = must(StoreTarget::open(options_of(file)));
  QueueRig rig(*target);
  CHECK(rig.io(write_of(0, 16, 1)).result > 0);
  CHECK(rig.io(write_of(20, 1, 1)).result > 0);
  const auto segment = must(Segment::open(file.path()));
  const auto& row = queue_row(segment, must(find_queue(segment, "disk")).index);
  const auto slots = sound_extents(segment, row).value();
  const auto group =
      std::exchange(slots.slots[slots.group_of(0)], slots.at(20));  // a page's block is too small
  CHECK(rig.io(request_of(Operation::read, 0, 1)).result == -EIO);
  slots.slots[slots.group_of(0)] = ~std::uint64_t{0};
  CHECK(rig.io(request_of(Operation::read, 0, 1)).result == -EIO);
  slots.slots[slots.group_of(0)] = group;
  CHECK(rig.io(request_of(Operation::read, 0, 16)).data == pattern(1, 16 * extent_page_bytes));
}

TEST_CASE("store target: no request allocates from the heap", "[ublk]") {
  if (!allocations_are_counted) {
    WARN("not counted in this build: the sanitizer brings its own operator new");
    return;
  }
  const TempSegment file(segment_of(256));
  const auto path = any_path();
  // The model of the driver allocates: the same for both.
  const auto allocations_with = [&](Target& target) {
    QueueRig rig(target, path);
    const auto before = allocations_of_this_thread();
    for (std::uint64_t i = 0; i < 100; ++i) {
      rig.io(write_of(i % 48, 1 + i % 16, i));
      rig.io(request_of(Operation::read, i % 40, 16));
      rig.io(request_of(i % 2 == 0 ? Operation::discard : Operation::write_zeroes, i % 32, 20));
    }
    return allocations_of_this_thread() - before;
  };
  const auto store = must(StoreTarget::open(options_of(file, "changes")));
  const auto null = must(NullTarget::open(device_bytes));
  CHECK(allocations_with(*store) == allocations_with(*null));
}

TEST_CASE("store target: two queues at once end with what the stream tells", "[ublk]") {
  const TempSegment file(segment_of(512));
  const auto target = must(StoreTarget::open(options_of(file, "changes")));
  std::vector<std::byte> mirror(device_bytes);
  std::atomic<bool> over{false};
  std::thread consumer([&] {
    while (!over.load()) replay(file.path(), "changes", mirror);
  });
  std::vector<std::thread> queues;
  for (unsigned queue = 0; queue < 2; ++queue)
    queues.emplace_back([&, queue] {
      QueueRig rig(*target);
      std::mt19937_64 random(queue);
      for (int i = 0; i < 400; ++i) {
        const auto page = random() % 60;  // few groups: they meet
        const auto pages = static_cast<std::uint32_t>(1 + random() % 4);
        switch (random() % 4) {
          case 0: must_hold(rig.io(request_of(Operation::read, page, pages)).result > 0, "read"); break;
          case 1:
            must_hold(rig.io(request_of(Operation::discard, page, pages)).result == 0, "discard");
            break;
          case 2:
            must_hold(rig.io(write_of(page / 16 * 16, 16, random())).result > 0, "write a group");
            break;
          default: must_hold(rig.io(write_of(page, pages, random())).result > 0, "write"); break;
        }
      }
    });
  for (auto& queue : queues) queue.join();
  over.store(true);
  consumer.join();
  replay(file.path(), "changes", mirror);
  QueueRig rig(*target);
  CHECK(content_of(rig) == mirror);
}

}  // namespace sluice::test
