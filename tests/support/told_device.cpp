#include "tests/support/told_device.hpp"

#include "tests/support/must.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace sluice::test {

namespace {

constexpr std::uint32_t changes_capacity = 64;
constexpr std::uint64_t group_bytes = extent_group_pages * extent_page_bytes;

}  // namespace

std::unique_ptr<ExtentStore> open_told_device(const Session& session, Lane& lane) {
  return must(ExtentStore::open(session.membership(), must(find_queue(session.segment(), device_name)),
                                must(Lane::claim(session.segment(), session.membership(), {.cells = 64})),
                                must(find_or_create_stream(lane, changes_name, changes_capacity))));
}

void write_pattern(Lane& lane, ExtentStore& store, std::uint64_t position, std::uint64_t seed) {
  const auto block =
      must(lane.heap().allocate(position < store.slots().pages ? extent_page_bytes : group_bytes));
  fill_pattern(lane.heap().bytes(block), seed);
  must(store.write(lane, position, block));
}

std::vector<std::byte> content_of(const ExtentStore& store) {
  const auto pages = store.slots().pages;
  std::vector<std::byte> content(pages * extent_page_bytes);
  for (std::uint64_t page = 0; page < pages; ++page)
    if (const auto* bytes = must(store.bytes_of(page)); bytes != nullptr)
      std::memcpy(content.data() + page * extent_page_bytes, bytes, extent_page_bytes);
  return content;
}

std::uint64_t replay_changes(Lane& lane, QueueId map, QueueId stream, std::span<std::byte> content) {
  auto consumer = must(StreamConsumer::claim(lane, stream));
  const auto first = load(queue_row(lane.segment(), stream.index).head, relaxed);
  auto number = first;
  for (; const auto* message = consumer.peek(); ++number) {
    must_hold(change_number(*message) == number, "changes are numbered without a gap");
    must_hold(message->flow == device_number(map), "a change names its device");
    must_hold(message->position <= content.size() && message->length <= content.size() - message->position,
              "a change is inside of the device");
    const auto part = content.subspan(message->position, message->length);
    if (message->kind == MessageKind::write) {
      const auto block = must(find_block(lane.segment(), {message->handle}));
      must_hold(block.bytes >= part.size(), "a change's block has its bytes");
      std::memcpy(part.data(), block.data, part.size());
    } else if (message->kind == MessageKind::zeroes) {
      std::ranges::fill(part, std::byte{0});
    }
    must(consumer.acknowledge());
  }
  return number - first;
}

std::vector<std::byte> check_told(const Session& session, Lane& lane, Complaints& complaints) {
  const auto store = open_told_device(session, lane);
  const auto map = must(find_queue(session.segment(), device_name));
  const auto stream = must(find_queue(session.segment(), changes_name));
  auto content = content_of(*store);
  std::vector<std::byte> told(content.size());
  replay_changes(lane, map, stream, told);
  for (std::uint64_t page = 0; page < store->slots().pages; ++page)
    if (const auto at = page * extent_page_bytes;
        std::memcmp(&content[at], &told[at], extent_page_bytes) != 0)
      complaints.push_back(fmt::format("page {} is not what the stream tells", page));
  must(store->clear(lane, 0, store->slots().pages));
  replay_changes(lane, map, stream, told);
  lane.heap().flush();
  return content;
}

}  // namespace sluice::test
