// Extent maps while everybody lives: what is where, and what is refused. Deaths are in tests/crash.
#include "ipc/stream.hpp"
#include "tests/support/child.hpp"
#include "tests/unit/extents_rig.hpp"

#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <random>

namespace sluice::test {

// ---- What is where ---------------------------------------------------------------------------------------

TEST_CASE("extents: a random mix of lanes that put and take leaves what an array says", "[ipc]") {
  struct Held {
    Reference block;
    std::uint64_t seed;
  };
  const auto seed = GENERATE(1U, 2U, 3U);
  CAPTURE(seed);
  MapRig rig;
  auto writer = must(rig.try_claim());
  std::array<std::unique_ptr<Lane>, 2> more{rig.another_lane(), rig.another_lane()};
  const std::array lanes{rig.lane.get(), more[0].get(), more[1].get()};
  std::array<std::vector<Held>, 3> held;         // taken out of the map, by lane
  std::array<std::uint64_t, positions> model{};  // 0, extent_zeroes or a pattern's seed
  std::uint64_t next = 2;
  std::mt19937 random(seed);
  const auto below = [&](std::uint64_t end) { return random() % end; };
  const auto check_at = [&](std::uint64_t position) {
    const auto word = writer.at(position);
    if (model[position] <= extent_zeroes) return word == model[position];
    const auto block = find_block(rig.segment(), {word});
    return block && block->bytes == bytes_at(position) && has_pattern(block->span(), model[position]);
  };

  for (int step = 0; step < 4000; ++step) {
    const auto who = below(lanes.size());
    auto& lane = *lanes[who];
    const auto position = below(8) == 0 ? pages + below(positions - pages) : below(pages);
    const auto was = model[position];
    std::optional<Reference> out;
    if (below(3) != 0) {
      auto& own = held[who];
      Held in;
      if (!own.empty() && lane.heap().bytes(own.back().block).size() == bytes_at(position) && below(2) == 0)
        in = own.back(), own.pop_back();
      else
        in = {patterned(lane, bytes_at(position), next), next}, ++next;
      out = must(writer.put(lane, position, in.block));
      model[position] = in.seed;
    } else {
      const auto leave = position < pages && below(2) == 0 ? extent_zeroes : 0;
      out = must(writer.take(lane, position, leave));
      model[position] = leave;
    }
    REQUIRE(bool(*out) == (was > extent_zeroes));
    REQUIRE(check_at(position));
    if (!*out) continue;
    REQUIRE(has_pattern(lane.heap().bytes(*out), was));
    if (held[who].size() < 4)
      held[who].push_back({*out, was});
    else
      must(lane.heap().release(*out));
  }

  std::uint64_t blocks = 0;
  for (std::uint64_t position = 0; position < positions; ++position) {
    CAPTURE(position);
    CHECK(check_at(position));
    if (model[position] > extent_zeroes) ++blocks;
  }
  CHECK(blocks > positions / 4);
  for (std::size_t who = 0; who < lanes.size(); ++who) {
    for (const auto& [block, pattern] : held[who]) must(lanes[who]->heap().release(block));
    lanes[who]->heap().flush();
  }
  rig.check_sound(blocks);
  for (auto* lane : lanes) must(lane->heap().allocate(64));  // each harvests what others gave back
  CHECK(take_census(rig.segment()).live.size() == blocks + lanes.size());
}

TEST_CASE("extents: a new map is all zeroes, whatever its units were before", "[ipc]") {
  MapRig rig;
  const auto dirt = patterned(*rig.lane, 2 * unit_bytes, 5);
  must(rig.heap().release(dirt));
  const auto id = must(create_extents(*rig.lane, "another", 2 * unit_bytes / 16 * 2));
  const auto map = sound_extents(rig.segment(), queue_row(rig.segment(), id.index));
  REQUIRE(map);
  CHECK(map->pages == 2 * unit_bytes / 16 * 2);
  CHECK(map->count() == map->pages + map->pages / 16);
  CHECK(map->group_of(0) == map->pages);
  CHECK(map->group_of(17) == map->pages + 1);
  CHECK(map->group_of(map->pages - 1) == map->count() - 1);
  for (std::uint64_t position = 0; position < map->count(); ++position) REQUIRE(map->at(position) == 0);
}

TEST_CASE(
    "extents: content and its references outlive all processes and are there when the file is opened again",
    "[ipc]") {
  const TempSegment file(small_options(32));
  const auto ended = run_child([&] {
    auto session = must(Session::open(file.path(), "first"));
    const auto lane = must(session.claim_lane());
    must(create_extents(*lane, map_name, pages));
    auto writer = claim_writer(session);
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{17}, pages + 1})
      must_hold(!must(writer.put(*lane, position, patterned(*lane, bytes_at(position), position))), "empty");
    must(writer.take(*lane, 18, extent_zeroes));
  });
  REQUIRE(ended.code == 0);
  auto session = must(Session::open(file.path(), "second"));
  CHECK(session.recover_dead().processes == 0);
  CHECK(take_census(session.segment()).live.size() == 3);
  const auto lane = must(session.claim_lane());
  auto writer = claim_writer(session);
  CHECK(writer.at(18) == extent_zeroes);
  CHECK(writer.at(1) == 0);
  for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{17}, pages + 1}) {
    const auto block = must(writer.take(*lane, position));
    CHECK(has_pattern(lane->heap().bytes(block), position));
    must(lane->heap().release(block));
  }
  must(lane->heap().allocate(bytes_at(0)));  // harvests
  CHECK(audit(session.segment()).violations.empty());
  CHECK(take_census(session.segment()).live.size() == 1);
}

// ---- What is refused -------------------------------------------------------------------------------------

TEST_CASE("extents: a put that is refused changes nothing", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  auto& heap = rig.heap();
  const auto there = patterned(*rig.lane, extent_page_bytes, 1);
  const auto twin = must(heap.clone(there));
  must(writer.put(*rig.lane, 3, there));
  const auto before = writer.at(3);
  const auto refused = [&](std::uint64_t position, Reference block, Status status) {
    const auto result = writer.put(*rig.lane, position, block);
    REQUIRE_FALSE(result);
    CHECK(result.error() == status);
    CHECK(writer.at(3) == before);
  };
  const auto block = patterned(*rig.lane, extent_page_bytes, 2);

  refused(positions, block, Status::bad_argument);
  refused(~std::uint64_t{0}, block, Status::bad_argument);
  refused(3, twin, Status::bad_argument);  // by another reference: the slot could not tell which moved

  refused(3, {}, Status::stale);
  refused(3, there, Status::stale);  // its cell is empty
  refused(3, {block.handle, heap.lane().cell_count}, Status::stale);
  refused(3, {block.handle, twin.cell}, Status::stale);
  const auto other = rig.another_lane();
  auto& given = *other;
  const auto others = must(given.heap().allocate(extent_page_bytes));
  must(given.heap().make_findable(others));
  const auto found = must(heap.look_up(others.handle));
  must(given.heap().release(others));
  must(heap.release(found));  // given up; its owner is not told yet, so the cell still names it
  REQUIRE(load(heap.cell(found.cell).handle, relaxed) == found.handle.value);
  refused(3, found, Status::stale);
  heap.flush();

  must(heap.begin_io(block));
  refused(3, block, Status::busy);
  must(heap.end_io(block));

  const auto old = must(writer.put(*rig.lane, 3, block));  // none of them has done it any harm
  CHECK(old.handle == there.handle);
  must(heap.release(old));
  must(heap.release(twin));
  rig.check_sound(1);
}

TEST_CASE("extents: a take beyond the map is refused", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  for (const auto position : {positions, ~std::uint64_t{0}})
    CHECK(writer.take(*rig.lane, position).error() == Status::bad_argument);
  rig.check_sound(0);
}

TEST_CASE("extents: with a full ledger nothing comes out, and what needs no cell goes in", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  const auto lane = rig.another_lane({.cells = 64});
  auto& heap = lane->heap();
  must(writer.put(*lane, 0, patterned(*lane, extent_page_bytes, 1)));
  std::vector<Reference> all;
  while (heap.cells_free() != 0) all.push_back(patterned(*lane, extent_page_bytes, all.size()));
  const auto before = writer.at(0);
  CHECK(writer.take(*lane, 0).error() == Status::no_cell);
  CHECK(writer.put(*lane, 0, all.back()).error() == Status::no_cell);
  CHECK(writer.at(0) == before);
  CHECK(has_pattern(heap.bytes(all.back()), all.size() - 1));
  CHECK_FALSE(must(writer.put(*lane, 1, all.back())));
  CHECK_FALSE(must(writer.take(*lane, 2, extent_zeroes)));
  CHECK(has_pattern(heap.bytes(must(writer.take(*lane, 0))), 1));  // there is a cell now
  rig.check_sound(1);
}

TEST_CASE("extents: a map has 16 pages or a multiple of it, and has to fit", "[ipc]") {
  MapRig rig;
  const auto created = [&](std::uint64_t count) {
    const auto result = create_extents(*rig.lane, "other", count);
    CAPTURE(count);
    if (result) return Status::ok;
    CHECK(result.error().message.find("other") != std::string::npos);
    CHECK(find_queue(rig.segment(), "other").error().status == Status::not_found);
    return result.error().status;
  };
  for (const std::uint64_t count : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{15}, std::uint64_t{17},
                                    extent_pages_max + 16, (std::uint64_t{1} << 32) + 16, ~std::uint64_t{15}})
    CHECK(created(count) == Status::bad_argument);
  for (const std::uint64_t count : {std::uint64_t{64 * unit_bytes / 8}, extent_pages_max})
    CHECK(created(count) == Status::too_large);
  const auto half = must(rig.heap().allocate(32 * unit_bytes));
  CHECK(created(40 * unit_bytes / 8) == Status::exhausted);
  must(rig.heap().release(half));
  rig.check_sound(0);
  CHECK(created(16) == Status::ok);
}

TEST_CASE("extents: a stream and a map do not pass for each other", "[ipc]") {
  MapRig rig;
  const auto stream = must(create_stream(*rig.lane, "stream", 8));
  CHECK(must(find_queue(rig.segment(), map_name)) == rig.map);
  CHECK(create_stream(*rig.lane, map_name, 8).error().status == Status::exists);
  CHECK(create_extents(*rig.lane, map_name, pages).error().status == Status::exists);
  CHECK(create_extents(*rig.lane, "stream", pages).error().status == Status::exists);
  CHECK(StreamProducer::claim(*rig.lane, rig.map).error() == Status::bad_argument);
  CHECK(StreamConsumer::claim(*rig.lane, rig.map).error() == Status::bad_argument);
  CHECK(ExtentWriter::claim(rig.segment(), rig.session.membership(), stream).error() == Status::bad_argument);
  const auto found = find_or_create_stream(*rig.lane, map_name, 8);
  REQUIRE_FALSE(found);
  CHECK(found.error().status == Status::bad_argument);
  CHECK(found.error().message == "queue device: found an extent map, expected a stream");
  must(rig.try_claim());
  rig.check_sound(0);
}

TEST_CASE("extents: a map that is not there cannot be claimed", "[ipc]") {
  MapRig rig;
  const auto& process = rig.session.membership();
  const auto claimed = [&](QueueId id, const Membership& by) {
    return ExtentWriter::claim(rig.segment(), by, id).error();
  };
  CHECK(claimed({rig.map.index, rig.map.era + 1}, process) == Status::stale);
  CHECK(claimed({rig.map.index + 1, 0}, process) == Status::stale);
  CHECK(claimed({rig.segment().header().queue_count, 0}, process) == Status::bad_argument);
  CHECK(claimed(rig.map, Membership{}) == Status::bad_argument);
  CHECK(rig.row().writer == 0);
}

TEST_CASE("extents: a damaged row is no map", "[ipc]") {
  MapRig rig;
  const auto sound = rig.row();
  const auto committed = static_cast<std::uint32_t>(rig.segment().units_committed());
  const auto damaged = [&](const std::function<void(QueueRow&)>& damage) {
    damage(rig.row());
    CHECK_FALSE(sound_extents(rig.segment(), rig.row()));
    CHECK(rig.try_claim().error() == Status::corrupt);
    CHECK_FALSE(audit(rig.segment()).violations.empty());
    // A cell that says that it moves into such a map keeps what it holds.
    CHECK(moving_cell_holds(rig.segment(), {0x1234}, cell_aux::make(cell_aux::extent, rig.map.index, 0, 0)));
    std::memcpy(static_cast<void*>(&rig.row()), &sound, sizeof sound);
  };
  damaged([](QueueRow& row) { row.kind = 99; });
  damaged([](QueueRow& row) { row.capacity = 0; });
  damaged([](QueueRow& row) { row.capacity = pages + 1; });
  damaged([](QueueRow& row) { row.capacity = ~std::uint32_t{15}; });
  damaged(
      [](QueueRow& row) { row.capacity = static_cast<std::uint32_t>(unit_bytes / 8); });  // and its groups
  damaged([](QueueRow& row) { row.message_bytes = 16; });
  damaged([&](QueueRow& row) { row.first_unit = committed; });
  damaged([](QueueRow& row) { row.first_unit = ~0U; });
  damaged([&](QueueRow& row) { row.unit_count = committed + 1; });
  damaged([](QueueRow& row) { row.unit_count = 0; });
  rig.check_sound(0);
}

TEST_CASE("extents: the audit finds slots that hold what they cannot", "[ipc]") {
  MapRig rig;
  const auto slots = sound_extents(rig.segment(), rig.row()).value();
  const auto held = must(rig.heap().allocate(extent_page_bytes));
  const auto expect = [&](std::string_view what) {
    const auto violations = audit(rig.segment()).violations;
    REQUIRE(violations.size() == 1);
    CHECK_THAT(violations[0].what, Catch::Contains(std::string(what)));
  };
  CHECK(audit(rig.segment()).violations.empty());
  SECTION("zeroes that only a page can have") {
    slots.slots[pages] = extent_zeroes;
    expect("extents 0: group 0 holds 1, which only a page can");
  }
  SECTION("a block of which it has no reference") {
    slots.slots[0] = held.handle.value;
    expect("count 1, but 2 references");
  }
  SECTION("no block") {
    slots.slots[0] = held.handle.value + 1;
    expect("no such block is live");
  }
  SECTION("a page's block of another size") {
    must(must(rig.try_claim()).put(*rig.lane, 0, must(rig.heap().allocate(1000))));
    expect("position 0 holds a block of 1024 bytes, expected 4096");
  }
  SECTION("a group's block of another size") {
    must(must(rig.try_claim()).put(*rig.lane, pages, held));
    expect("position 64 holds a block of 4096 bytes, expected 65536");
  }
  SECTION("a writer that cannot be") {
    rig.row().writer = process_claim::make(rig.segment().header().process_count, 1);
    expect("extents 0: written by process row 16, expected below 16");
  }
}

}  // namespace sluice::test
