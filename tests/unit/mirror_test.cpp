// The mirror: what it makes of a device's changes, and the files and messages that it refuses.
#include "tools/sluice/mirror.hpp"
#include "tests/support/told_device.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <utility>

#include <unistd.h>

namespace sluice::test {

namespace {

using tools::Mirror;

constexpr std::uint64_t pages = 32;

struct MirrorRig : Rig {
  MirrorRig() : Rig(small_options(32)) {
    must(create_extents(*lane, device_name, pages));
    store = open_told_device(session, *lane);
  }

  std::string path() const { return file.directory().file("mirror"); }
  Expected<Mirror> open() const { return Mirror::open(segment(), path(), changes_name); }
  std::string refusal() const {
    const auto opened = open();
    return opened ? "opened" : opened.error().message;
  }
  // Up to `most` messages, as a worker shows and acknowledges them; `acknowledged` fewer.
  void serve(Mirror& mirror, std::size_t most, std::size_t unacknowledged = 0) {
    auto consumer = must(StreamConsumer::claim(*lane, must(find_queue(segment(), changes_name))));
    for (std::size_t done = 0; done < most; ++done) {
      const auto* message = consumer.peek();
      if (message == nullptr) return;
      must(mirror.handle({*message, bytes_of(*message), consumer.redelivered()}));
      if (done + unacknowledged < most) must(consumer.acknowledge());
    }
  }
  std::span<const std::byte> bytes_of(const Message& message) const {
    if (message.handle == 0) return {};
    return {must(find_block(segment(), {message.handle})).data, message.length};
  }

  std::unique_ptr<ExtentStore> store;
};

auto contains(std::string part) { return Catch::Matchers::Contains(std::move(part)); }

}  // namespace

TEST_CASE("mirror: becomes the device, through a death between a change and its acknowledgement", "[tools]") {
  MirrorRig rig;
  write_pattern(*rig.lane, *rig.store, 3, 1);
  write_pattern(*rig.lane, *rig.store, pages + 1, 2);
  must(rig.store->clear(*rig.lane, 20, 3));
  must(rig.store->flush());
  {
    auto mirror = must(rig.open());
    rig.serve(mirror, 2, 1);
  }
  {
    auto mirror = must(rig.open());
    rig.serve(mirror, 100);
    CHECK(mirror.counters().flushes == 1);
    CHECK(mirror.counters().zeroes == 1);
  }
  CHECK(read_file(rig.path()) == content_of(*rig.store));
  write_pattern(*rig.lane, *rig.store, 3, 4);
  auto mirror = must(rig.open());
  rig.serve(mirror, 100);
  CHECK(read_file(rig.path()) == content_of(*rig.store));
}

TEST_CASE("mirror: a file that does not follow this stream is not touched", "[tools]") {
  MirrorRig rig;
  const std::vector<std::byte> other(pages * extent_page_bytes, std::byte{7});
  write_pattern(*rig.lane, *rig.store, 3, 1);

  SECTION("one that is there before the first change") {
    write_file(rig.path(), other);
    CHECK_THAT(rig.refusal(), contains("131072 bytes that follow no stream"));
    CHECK(read_file(rig.path()) == other);
  }
  SECTION("one that takes the place of a mirror") {
    {
      auto mirror = must(rig.open());
      rig.serve(mirror, 1);
    }
    ::unlink((rig.path() + ".mirror").c_str());
    CHECK_THAT(rig.refusal(), contains("follow no stream"));
    ::unlink(rig.path().c_str());
    CHECK_THAT(rig.refusal(), contains("the first 1 messages of stream device.changes are gone"));
    CHECK(::access(rig.path().c_str(), F_OK) != 0);
  }
  SECTION("the mirror of another stream") {
    std::ofstream(rig.path() + ".mirror") << "sluice mirror 1 of 9.0 other in 00\n0\n";
    write_file(rig.path(), other);
    CHECK_THAT(rig.refusal(), contains("says 'sluice mirror 1 of 9.0 other in 00', expected"));
    CHECK(read_file(rig.path()) == other);
  }
  SECTION("one in which a change is missing") {
    {
      auto mirror = must(rig.open());
      rig.serve(mirror, 1);
    }
    for (std::uint64_t seed = 2; seed < 5; ++seed) write_pattern(*rig.lane, *rig.store, seed, seed);
    {
      auto consumer = must(StreamConsumer::claim(*rig.lane, must(find_queue(rig.segment(), changes_name))));
      while (consumer.peek() != nullptr) must(consumer.acknowledge());
    }
    CHECK_THAT(rig.refusal(), contains("its next change is 1, the stream's is 4"));
  }
  SECTION("a mirror that somebody has cut") {
    {
      auto mirror = must(rig.open());
      rig.serve(mirror, 1);
    }
    write_pattern(*rig.lane, *rig.store, 4, 2);
    write_file(rig.path(), {});
    auto mirror = must(rig.open());
    CHECK_THROWS_WITH(rig.serve(mirror, 1), contains("it has 0 bytes, 1 changes were made to one of 131072"));
    CHECK(read_file(rig.path()).empty());
  }
  SECTION("one that another mirror writes") {
    const auto mirror = must(rig.open());
    CHECK_THAT(rig.refusal(), contains("another mirror writes it"));
  }
}

TEST_CASE("mirror: a message that is no change of its device is refused, and the file stays", "[tools]") {
  MirrorRig rig;
  write_pattern(*rig.lane, *rig.store, 3, 1);
  auto mirror = must(rig.open());
  rig.serve(mirror, 1);
  const auto before = read_file(rig.path());
  const std::vector<std::byte> bytes(extent_page_bytes, std::byte{9});
  Message good{};
  good.kind = MessageKind::write;
  good.flow = device_number(must(find_queue(rig.segment(), device_name)));
  good.length = extent_page_bytes;
  good.stamp = 2;
  const auto refusal = [&](auto change, std::size_t count = extent_page_bytes) {
    auto message = good;
    change(message);
    const auto handled = mirror.handle({message, std::span(bytes).first(count), false});
    return handled ? "done" : handled.error().message;
  };
  CHECK_THAT(refusal([](Message& m) { m.kind = MessageKind::open; }), contains("of kind 2"));
  CHECK_THAT(refusal([](Message& m) { m.flow += 1; }), contains("a message of device"));
  CHECK_THAT(refusal([](Message& m) { m.stamp = 4; }), contains("change 3, expected 1"));
  CHECK_THAT(refusal([](Message& m) { m.position = pages * extent_page_bytes; }),
             contains("the device has 131072"));
  CHECK_THAT(refusal([](Message& m) { m.position = ~std::uint64_t{0}; }), contains("the device has 131072"));
  CHECK_THAT(refusal([](Message&) {}, 0), contains("has 0 bytes, expected 4096"));
  CHECK(read_file(rig.path()) == before);
  CHECK(refusal([](Message&) {}) == "done");
}

}  // namespace sluice::test
