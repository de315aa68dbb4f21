// Deaths while a device's content changes and a stream is told: whoever reads the stream from its beginning must end
// with the very content that the device has.
#include "ipc/extent_store.hpp"
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <vector>

namespace sluice::test {

namespace {

constexpr std::string_view map_name = "device";
constexpr std::string_view stream_name = "device.changes";
constexpr std::uint64_t pages = 48;
constexpr std::uint64_t group_bytes = extent_group_pages * extent_page_bytes;

std::unique_ptr<ExtentStore> open_store(const Session& session, Lane& lane) {
  return must(ExtentStore::open(session.membership(), must(find_queue(session.segment(), map_name)),
                                must(Lane::claim(session.segment(), session.membership(), {.cells = 64})),
                                must(find_or_create_stream(lane, stream_name, 64))));
}

void write(Lane& lane, ExtentStore& store, std::uint64_t position, std::uint64_t seed) {
  const auto block = must(lane.heap().allocate(position < pages ? extent_page_bytes : group_bytes));
  fill_pattern(lane.heap().bytes(block), seed);
  must(store.write(lane, position, block));
}

// A group, a page of it that has its own, pages alone, one that is cleared under its group's block.
void fill(Stage& stage) {
  must(create_extents(*stage.lane, map_name, pages));
  const auto store = open_store(stage.session, *stage.lane);
  write(*stage.lane, *store, pages + 1, 1);
  write(*stage.lane, *store, 17, 2);
  for (std::uint64_t page = 32; page < 46; ++page) write(*stage.lane, *store, page, page);
  must(store->clear(*stage.lane, 18, 2));
}

void overwrite(const std::string& path, Journal&) {
  const Victim self(path);
  const auto store = open_store(self.session, *self.lane);
  write(*self.lane, *store, 17, 100);         // a page that has one
  write(*self.lane, *store, 20, 101);         // a page under a group's block
  write(*self.lane, *store, pages + 1, 102);  // the group, over its pages
  write(*self.lane, *store, pages + 2, 103);  // a group over pages alone
  self.lane->heap().flush();
}

void clear(const std::string& path, Journal&) {
  const Victim self(path);
  const auto store = open_store(self.session, *self.lane);
  must(store->clear(*self.lane, 16, 16));  // a group with its pages
  must(store->clear(*self.lane, 30, 4));   // across groups
  must(store->flush());
  self.lane->heap().flush();
}

// The last pages of a group: its block has become superfluous.
void outgrow(const std::string& path, Journal&) {
  const Victim self(path);
  const auto store = open_store(self.session, *self.lane);
  for (std::uint64_t page = 16; page < 32; ++page)
    if (page != 17 && page != 18) write(*self.lane, *store, page, 200 + page);
  self.lane->heap().flush();
}

// The device by its stream: what a mirror would have.
std::vector<std::byte> replay(Lane& lane) {
  const auto device = device_number(must(find_queue(lane.segment(), map_name)));
  std::vector<std::byte> content(pages * extent_page_bytes);
  auto consumer = must(StreamConsumer::claim(lane, must(find_queue(lane.segment(), stream_name))));
  for (auto number = load(queue_row(lane.segment(), consumer.id().index).head, relaxed);
       const auto* message = consumer.peek(); ++number) {
    must_hold(change_number(*message) == number, "numbers have no gap");
    must_hold(message->flow == device, "it names the device");
    if (message->kind == MessageKind::write)
      std::memcpy(content.data() + message->position,
                  must(find_block(lane.segment(), {message->handle})).data, message->length);
    else if (message->kind == MessageKind::zeroes)
      std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(message->position), message->length,
                  std::byte{0});
    must(consumer.acknowledge());
  }
  return content;
}

void check_told(Stage& stage, std::string_view) {
  auto& lane = *stage.lane;
  {
    const auto store = open_store(stage.session, lane);
    const auto told = replay(lane);
    for (std::uint64_t page = 0; page < pages; ++page) {
      CAPTURE(page);
      const auto* kept = must(store->bytes_of(page));
      const auto mirrored = std::span(told).subspan(page * extent_page_bytes, extent_page_bytes);
      CHECK((kept != nullptr ? std::memcmp(kept, mirrored.data(), mirrored.size()) == 0
                             : std::ranges::all_of(mirrored, [](std::byte b) { return b == std::byte{0}; })));
    }
    must(store->clear(lane, 0, pages));
    replay(lane);
  }
}

}  // namespace

std::vector<Scenario> extent_store_scenarios() {
  std::vector<Scenario> all = {{.name = "overwrite a device that is told", .act = overwrite},
                               {.name = "clear a device that is told", .act = clear},
                               {.name = "outgrow a group of a device that is told", .act = outgrow}};
  for (auto& scenario : all) {
    scenario.prepare = fill;
    scenario.check = check_told;
    scenario.units = 32;
    scenario.own_stream = false;
  }
  return all;
}

TEST_CASE("extent store: after a death at any crash point the stream tells the device's very content",
          "[ipc][crash]") {
  const auto scenarios = extent_store_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("extent store: victim and recoverer killed at any two points of a change are recovered",
          "[runtime][crash]") {
  const auto scenarios = extent_store_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
