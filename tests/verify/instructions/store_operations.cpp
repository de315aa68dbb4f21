// What the writer of a device does whose stream is told: changes, and opening, which finishes the change that a
// predecessor died in. What recovery leaves of a change is for the next writer, so the judge becomes that one.
#include "tests/support/told_device.hpp"
#include "tests/verify/instructions/operation.hpp"

#include <algorithm>
#include <cstddef>
#include <span>

namespace sluice::verify {

namespace {

constexpr std::uint64_t pages = 48;

std::uint64_t group(std::uint64_t number) { return pages + number; }

/// A block into a place, or zeroes.
struct Change {
  std::uint64_t first;       // of zeroes a page; else a page or a group's place
  std::uint64_t zeroes = 0;  // pages
  std::uint64_t seed = 0;
};

Change write(std::uint64_t position, std::uint64_t seed) { return {.first = position, .seed = seed}; }
Change clear(std::uint64_t first, std::uint64_t count) { return {.first = first, .zeroes = count}; }

// The first group has pages alone; the second a block, with a page over it and one of zeroes; so has the third,
// whose last page is the only one that shows it. Zeroes come last: what is left of their description would make zeroes
// of what the next one describes.
std::vector<Change> first_changes() {
  std::vector<Change> all = {write(0, 1), write(2, 2), write(group(1), 3), write(17, 4), write(group(2), 5)};
  for (std::uint64_t page = 32; page < pages - 1; ++page) all.push_back(write(page, page));
  all.push_back(clear(18, 1));
  return all;
}

void make(Lane& lane, ExtentStore& store, const Change& change) {
  if (change.zeroes != 0)
    must(store.clear(lane, change.first, change.zeroes));
  else
    test::write_pattern(lane, store, change.first, change.seed);
}

// The same to an array.
void make(std::span<std::byte> content, const Change& change) {
  const bool is_group = change.first >= pages;
  const auto page = is_group ? (change.first - pages) * extent_group_pages : change.first;
  const auto count = change.zeroes != 0 ? change.zeroes : is_group ? extent_group_pages : 1;
  const auto part = content.subspan(page * extent_page_bytes, count * extent_page_bytes);
  if (change.zeroes != 0)
    std::ranges::fill(part, std::byte{0});
  else
    test::fill_pattern(part, change.seed);
}

std::uint64_t told_changes(const Segment& segment) {
  return pushed_messages(segment, queue_row(segment, must(find_queue(segment, test::changes_name)).index));
}

void create(test::Survivor& survivor) {
  must(create_extents(*survivor.lane, test::device_name, pages));
  must(create_stream(*survivor.lane, test::changes_name, 64));
}

void fill(test::Survivor& survivor) {
  create(survivor);
  const auto store = test::open_told_device(survivor.session, *survivor.lane);
  for (const auto& change : first_changes()) make(*survivor.lane, *store, change);
  survivor.lane->heap().flush();
}

// The next writer finds all of the change or nothing; all of it once it was told. It is told once, or never.
void check_content(const Recovered& recovered, std::span<const Change> made, const Change& change) {
  const auto& segment = recovered.session.segment();
  std::vector<std::byte> before(pages * extent_page_bytes);
  for (const auto& earlier : made) make(before, earlier);
  auto after = before;
  make(after, change);
  const auto was_told = told_changes(segment) > made.size();
  const auto found = test::check_told(recovered.session, recovered.lane, recovered.complaints);
  recovered.expect(found == before || found == after, "a change is there in part");
  recovered.expect(found == after || !was_told, "a change was told and is not there");
  const auto told = made.size() + (found != before ? 1 : 0) + 1;  // the last is the judge's
  recovered.expect(told_changes(segment) == told,
                   "a change was told more than once, or one that is not there");
}

void open_store(Actor& self) { self.store = test::open_told_device(*self.session, *self.lane); }

Operation change_of(std::string_view name, const Change& change) {
  return {.name = name,
          .set_up =
              [=](Actor& self) {
                self.join();
                open_store(self);
                if (change.zeroes != 0) return;
                self.hold(extent_page_bytes * (change.first < pages ? 1 : extent_group_pages));
                test::fill_pattern(self.heap().bytes(self.held.front()), change.seed);
              },
          .act =
              [=](Actor& self) {
                if (change.zeroes != 0)
                  must(self.store->clear(*self.lane, change.first, change.zeroes));
                else
                  must(self.store->write(*self.lane, change.first, self.held.front()));
              },
          .prepare = fill,
          .happened = told_changes,
          .happens = 1,
          .check = [=](const Recovered& recovered) { check_content(recovered, first_changes(), change); },
          .units = 24,
          .kept_bytes = {1000}};
}

// The predecessor is dead, and recovered when its successor joins.
Operation finish_a_change(std::string_view name, const Change& change,
                          const std::function<bool(const ExtentSlots&)>& here) {
  auto operation = change_of(name, change);
  operation.set_up = [](Actor& self) { self.join(); };
  operation.act = open_store;
  operation.prepare = [=](test::Survivor& survivor) {
    stop_during(survivor, change_of("change", change), [&](const Segment& segment) {
      const auto& row = queue_row(segment, must(find_queue(segment, test::device_name)).index);
      return load(row.change_sequence, acquire) == told_changes(segment) + 1 &&
             here(sound_extents(segment, row).value());
    });
  };
  return operation;
}

Operation bind_a_stream() {
  auto operation = change_of("open a device and bind its stream", {});
  operation.set_up = [](Actor& self) { self.join(); };
  operation.act = open_store;
  operation.prepare = create;
  operation.happened = [](const Segment& segment) -> std::uint64_t {
    return queue_row(segment, must(find_queue(segment, test::device_name)).index).change_stream != 0;
  };
  operation.check = [](const Recovered& recovered) { check_content(recovered, {}, clear(0, pages)); };
  return operation;
}

}  // namespace

std::vector<Operation> store_operations() {
  return {
      bind_a_stream(),
      finish_a_change("open a device and finish a group's write", write(group(0), 100),
                      [](const ExtentSlots& map) { return map.at(group(0)) != 0 && map.at(0) == 0; }),
      finish_a_change("open a device and finish a clear", clear(1, 24),
                      [](const ExtentSlots& map) { return map.at(2) == 0 && map.at(17) > extent_zeroes; }),
      change_of("change: a page where nothing is", write(5, 100)),
      change_of("change: a page over a page", write(2, 100)),
      change_of("change: a page over a group's block", write(20, 100)),
      change_of("change: the last page that shows a group", write(pages - 1, 100)),
      change_of("change: a group over pages", write(group(0), 100)),
      change_of("change: a group over a group and pages", write(group(1), 100)),
      change_of("change: clear a part of a group", clear(16, 4)),
      change_of("change: clear a group", clear(16, 16)),
      change_of("change: clear across groups", clear(1, 24)),
  };
}

}  // namespace sluice::verify
