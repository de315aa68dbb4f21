// Extent maps while everybody lives: what is where, who may write, what is refused. Deaths are in tests/crash.
#include "ipc/extents.hpp"

#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <csignal>
#include <cstring>
#include <functional>
#include <optional>
#include <random>

namespace sluice::test {

namespace {

constexpr std::string_view map_name = "device";
constexpr std::uint64_t pages = 64;
constexpr std::uint64_t positions = pages + pages / extent_group_pages;

std::size_t bytes_at(std::uint64_t position) {
  return position < pages ? extent_page_bytes : extent_page_bytes * extent_group_pages;
}

Reference patterned(Lane& lane, std::size_t bytes, std::uint64_t seed) {
  const auto block = must(lane.heap().allocate(bytes));
  fill_pattern(lane.heap().bytes(block), seed);
  return block;
}

ExtentWriter claim(const Session& session, std::string_view name = map_name) {
  return must(ExtentWriter::claim(session.segment(), session.membership(),
                                  must(find_queue(session.segment(), name))));
}

struct MapRig : Rig {
  MapRig() : Rig(small_options(64)), map(must(create_extents(*lane, map_name, pages))) {}

  QueueRow& row() const { return queue_row(segment(), map.index); }
  std::expected<ExtentWriter, Status> try_claim() const {
    return ExtentWriter::claim(segment(), session.membership(), map);
  }
  void check_sound(std::uint64_t blocks) const {
    const auto report = audit(segment());
    for (const auto& violation : report.violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
    CHECK(report.counts.extents == blocks);
  }

  QueueId map;
};

/// A child that writes the map, and lives until it is told to go or is killed.
struct OtherWriter {
  explicit OtherWriter(const std::string& path, bool in_a_take = false)
      : child([&](ChildLink& link) {
          auto session = must(Session::open(path, "writer"));
          auto writer = claim(session);
          const auto lane = must(session.claim_lane());
          const Meanwhile moving("extents.take.stored", [&] {
            link.ready();
            link.wait_go();
          });
          if (in_a_take) {
            must(writer.put(*lane, 0, patterned(*lane, extent_page_bytes, 1)));
            must(writer.take(*lane, 0));
          }
          link.ready();
          link.wait_go();
        }) {
    must_hold(child.wait_ready(), "the other process has the role");
  }
  Child child;
};

}  // namespace

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
    auto writer = claim(session);
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{17}, pages + 1})
      must_hold(!must(writer.put(*lane, position, patterned(*lane, bytes_at(position), position))), "empty");
    must(writer.take(*lane, 18, extent_zeroes));
  });
  REQUIRE(ended.code == 0);
  Rig rig(small_options(1));
  auto session = must(Session::open(file.path(), "second"));
  CHECK(session.recover_dead().processes == 0);
  CHECK(take_census(session.segment()).live.size() == 3);
  const auto lane = must(session.claim_lane());
  auto writer = claim(session);
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

// ---- Who may write ---------------------------------------------------------------------------------------

TEST_CASE("extents: one process writes at a time, and gives the role back", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  CHECK(rig.try_claim().error() == Status::busy);
  const auto refused = run_child([&] {
    const auto session = must(Session::open(rig.file.path(), "second"));
    const auto second = ExtentWriter::claim(session.segment(), session.membership(), rig.map);
    must_hold(!second && second.error() == Status::busy, "refused");
  });
  CHECK(refused.code == 0);

  auto moved = std::move(writer);
  CHECK_FALSE(writer);  // NOLINT(bugprone-use-after-move): that is what it looks like afterwards
  writer = {};
  CHECK(rig.try_claim().error() == Status::busy);  // the moved one has it
  moved = ExtentWriter{};
  CHECK(rig.row().writer == 0);
  { const auto again = must(rig.try_claim()); }
  CHECK(rig.row().writer == 0);
}

TEST_CASE("extents: a dead writer's role is free once its process was recovered, not before", "[ipc]") {
  MapRig rig;
  OtherWriter other(rig.file.path());
  CHECK(rig.try_claim().error() == Status::busy);
  other.child.kill_and_wait();
  CHECK(rig.try_claim().error() == Status::busy);
  CHECK(rig.session.recover_dead().processes == 1);
  const auto writer = must(rig.try_claim());
  CHECK(process_claim::Row::get(rig.row().writer) == rig.session.membership().row());
}

TEST_CASE("extents: a role whose process is being recovered is not free yet", "[ipc]") {
  const auto point = GENERATE("recover.process.claimed", "recover.lane.moves", "recover.lane.released");
  CAPTURE(point);
  MapRig rig;
  OtherWriter other(rig.file.path(), true);
  other.child.kill_and_wait();
  const auto recoverer = run_child([&] {
    kill_self_at(point);
    must(Session::open(rig.file.path(), "recoverer"));
  });
  REQUIRE(recoverer.signal == SIGKILL);
  CHECK(rig.try_claim().error() == Status::busy);
  CHECK(rig.session.recover_dead().processes == 2);
  CHECK(rig.try_claim());
}

TEST_CASE("extents: a dead writer's role does not pass to who joins in its row", "[ipc]") {
  MapRig rig;
  std::uint64_t row = 0;
  {
    OtherWriter other(rig.file.path());
    row = process_claim::Row::get(rig.row().writer);
    other.child.kill_and_wait();
  }
  rig.session.recover_dead();
  const SharedWithChildren<std::atomic<std::uint64_t>> found;
  Child next([&](ChildLink& link) {
    const auto session = must(Session::open(rig.file.path(), "in its row"));
    found->store(session.membership().row());
    link.ready();
    link.wait_go();
  });
  REQUIRE(next.wait_ready());
  REQUIRE(found->load() == row);
  CHECK(rig.try_claim());
}

TEST_CASE("extents: who leaves in order leaves the role free", "[ipc]") {
  MapRig rig;
  OtherWriter other(rig.file.path());
  CHECK(rig.row().writer != 0);
  other.child.go();
  CHECK(other.child.wait().code == 0);
  CHECK(rig.row().writer == 0);
  CHECK(rig.try_claim());
}

TEST_CASE("extents: a child made by fork does not give its parent's role away", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  const auto role = rig.row().writer;
  const auto ended = run_child([&] { const auto copy = std::move(writer); });
  CHECK(ended.code == 0);
  CHECK(ended.signal == 0);
  CHECK(rig.row().writer == role);
  CHECK(rig.try_claim().error() == Status::busy);
  must(writer.put(*rig.lane, 0, patterned(*rig.lane, extent_page_bytes, 1)));
}

}  // namespace sluice::test
