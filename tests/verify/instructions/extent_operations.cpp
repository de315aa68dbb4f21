// What the writer of an extent map does: its role, and exchanges of each kind of place. The map and what is in it
// are the survivor's; what the actor takes out, its recovery gives back to the survivor's slabs.
#include "tests/verify/instructions/operation.hpp"

#include <stdexcept>

namespace sluice::verify {

namespace {

constexpr std::string_view map_name = "device";
constexpr std::uint64_t pages = 32;
constexpr std::uint64_t old_seed = 1000, new_seed = 2000;  // and the position

// What the places hold before the operation; all others nothing.
constexpr std::uint64_t page_with_block = 0, page_over_group = 17, group_with_block = pages + 1;
constexpr std::uint64_t page_of_zeroes = 18, page_without = 5, group_without = pages;

bool has_block(std::uint64_t position) {
  return position == page_with_block || position == page_over_group || position == group_with_block;
}

std::size_t bytes_at(std::uint64_t position) {
  return position < pages ? extent_page_bytes : extent_page_bytes * extent_group_pages;
}

Reference patterned(Lane& lane, std::uint64_t position, std::uint64_t seed) {
  const auto block = must(lane.heap().allocate(bytes_at(position)));
  test::fill_pattern(lane.heap().bytes(block), seed + position);
  return block;
}

ExtentWriter writer_for(const Session& session, std::string_view name = map_name) {
  return must(ExtentWriter::claim(session.segment(), session.membership(),
                                  must(find_queue(session.segment(), name))));
}

const QueueRow& row_of(const Segment& segment) {
  return queue_row(segment, must(find_queue(segment, map_name)).index);
}

void fill(test::Survivor& survivor) {
  must(create_extents(*survivor.lane, map_name, pages));
  auto writer = writer_for(survivor.session);
  for (const auto position : {page_with_block, page_over_group, group_with_block})
    must(writer.put(*survivor.lane, position, patterned(*survivor.lane, position, old_seed)));
  must(writer.take(*survivor.lane, page_of_zeroes, extent_zeroes));
}

bool holds(const Segment& segment, std::uint64_t position, std::uint64_t word, std::uint64_t seed) {
  const auto block = find_block(segment, {word});
  return block && block->bytes == bytes_at(position) && test::has_pattern(block->span(), seed + position);
}

bool is_as_before(const Segment& segment, std::uint64_t position, std::uint64_t word) {
  if (has_block(position)) return word > extent_zeroes && holds(segment, position, word, old_seed);
  return word == (position == page_of_zeroes ? extent_zeroes : 0);
}

// Take everything out. Each place but `changed` is as it was before; whether that one changed, `happened` has asked.
void check_the_rest(const Recovered& recovered, std::uint64_t changed) {
  auto writer = writer_for(recovered.session);
  const auto& segment = recovered.session.segment();
  for (std::uint64_t position = 0; position < writer.slots().count(); ++position) {
    const auto word = writer.at(position);
    recovered.expect(position == changed || is_as_before(segment, position, word), "another place changed");
    if (const auto old = must(writer.take(recovered.lane, position)))
      must(recovered.lane.heap().release(old));
  }
  recovered.lane.heap().flush();
}

void get_ready_to_write(Actor& self) {
  self.join();
  self.writer = writer_for(*self.session);
}

Operation of_map(std::string_view name, std::uint64_t position) {
  return {.name = name,
          .set_up = get_ready_to_write,
          .act = [](Actor&) {},
          .prepare = fill,
          .happens = 1,
          .check = [=](const Recovered& recovered) { check_the_rest(recovered, position); },
          .units = 14};
}

std::function<std::uint64_t(const Segment&)> place_becomes(
    std::uint64_t position, std::function<bool(const Segment&, std::uint64_t word)> done) {
  return [=](const Segment& segment) -> std::uint64_t {
    const auto word = sound_extents(segment, row_of(segment)).value().at(position);
    if (is_as_before(segment, position, word)) return 0;
    if (!done(segment, word)) throw std::runtime_error("the place holds neither the old nor the new");
    return 1;
  };
}

Operation put(std::string_view name, std::uint64_t position) {
  auto operation = of_map(name, position);
  operation.set_up = [=](Actor& self) {
    get_ready_to_write(self);
    self.held.push_back(patterned(*self.lane, position, new_seed));
  };
  operation.act = [=](Actor& self) {
    self.held.front() = must(self.writer.put(*self.lane, position, self.held.front()));
  };
  operation.happened = place_becomes(position, [=](const Segment& segment, std::uint64_t word) {
    return holds(segment, position, word, new_seed);
  });
  return operation;
}

Operation take(std::string_view name, std::uint64_t position, std::uint64_t leave) {
  auto operation = of_map(name, position);
  operation.act = [=](Actor& self) {
    self.held.push_back(must(self.writer.take(*self.lane, position, leave)));
  };
  operation.happened =
      place_becomes(position, [=](const Segment&, std::uint64_t word) { return word == leave; });
  return operation;
}

// The block that comes in is one that others hold too, and one of them is a place of the same map.
Operation put_a_shared_one() {
  auto operation = put("put a shared block over another", page_with_block);
  const auto set_up = operation.set_up;
  operation.set_up = [=](Actor& self) {
    set_up(self);
    const auto twin = must(self.heap().clone(self.held.front()));
    must(self.writer.put(*self.lane, page_without, twin));
  };
  operation.check = [](const Recovered& recovered) {
    auto writer = writer_for(recovered.session);
    const auto word = writer.at(page_without);
    recovered.expect(
        word > extent_zeroes && test::has_pattern(find_block(recovered.session.segment(), {word})->span(),
                                                  new_seed + page_with_block),
        "the other place has lost its reference");
    const auto twin = must(writer.take(recovered.lane, page_without));
    must(recovered.lane.heap().release(twin));
    writer = {};
    check_the_rest(recovered, page_with_block);
  };
  return operation;
}

Operation claim_role() {
  auto operation = of_map("claim the writer's role", ~std::uint64_t{0});
  operation.set_up = [](Actor& self) { self.join(); };
  operation.act = [](Actor& self) { self.writer = writer_for(*self.session); };
  operation.happened = [](const Segment& segment) -> std::uint64_t { return row_of(segment).writer != 0; };
  return operation;
}

Operation give_role_up() {
  auto operation = of_map("give up the writer's role", ~std::uint64_t{0});
  operation.act = [](Actor& self) { self.writer = {}; };
  operation.happened = [](const Segment& segment) -> std::uint64_t { return row_of(segment).writer == 0; };
  return operation;
}

// The name is free or leads to a whole map, of zeroes: a block goes in and comes out.
void check_new_map(const Recovered& recovered) {
  if (!find_queue(recovered.session.segment(), "another"))
    must(create_extents(recovered.lane, "another", pages));
  auto writer = writer_for(recovered.session, "another");
  for (std::uint64_t position = 0; position < writer.slots().count(); ++position)
    recovered.expect(writer.at(position) == 0, "a new map is not empty");
  must(writer.put(recovered.lane, 3, patterned(recovered.lane, 3, new_seed)));
  const auto block = must(writer.take(recovered.lane, 3));
  recovered.expect(test::has_pattern(recovered.lane.heap().bytes(block), new_seed + 3), "it has other bytes");
  must(recovered.lane.heap().release(block));
}

}  // namespace

std::vector<Operation> extent_operations() {
  return {
      {.name = "create an extent map",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { must(create_extents(*self.lane, "another", pages)); },
       .check = check_new_map},
      claim_role(),
      give_role_up(),
      put("put where nothing is", page_without),
      put("put a group's block where nothing is", group_without),
      put("put over a block", page_with_block),
      put("put over a page of zeroes", page_of_zeroes),
      put("put over a group's block", group_with_block),
      put_a_shared_one(),
      take("take", page_over_group, 0),
      take("take and leave zeroes", page_over_group, extent_zeroes),
      take("take a group's block", group_with_block, 0),
      take("take where nothing is and leave zeroes", page_without, extent_zeroes),
  };
}

}  // namespace sluice::verify
