#include "tests/support/model.hpp"

#include "ipc/audit.hpp"
#include "ipc/extents.hpp"
#include "ipc/work_queue.hpp"
#include "tests/support/census.hpp"

#include <fmt/format.h>

#include <set>

namespace sluice::test {

void check_sound(const Segment& segment, Complaints& complaints) {
  for (const auto& violation : audit(segment).violations) complaints.push_back("audit: " + violation.what);
  for (const auto& line : take_census(segment).contradictions()) complaints.push_back("census: " + line);
}

void check_nothing_left_to_recover(Session& session, Complaints& complaints) {
  const auto again = session.recover_dead();
  const auto expect_none = [&](std::uint64_t found, std::string_view what) {
    if (found != 0) complaints.push_back(fmt::format("a second recovery found {} {}", found, what));
  };
  expect_none(again.processes, "dead processes");
  expect_none(again.lanes, "lanes");
  expect_none(again.references, "references");
  expect_none(again.moves, "moving cells");
  expect_none(again.roles, "roles");
  for (const auto& line : again.disagreements) complaints.push_back("disagreement: " + line);
}

std::uint64_t count_blocks_in_stream(const Segment& segment, QueueId stream) {
  const auto& row = queue_row(segment, stream.index);
  std::uint64_t count = 0;
  const auto tail = pushed_messages(segment, row);
  for (auto position = row.head; position < tail; ++position)
    if (message_slot(segment, row, position).handle != 0) ++count;
  return count;
}

std::uint64_t count_blocks_in_queues(const Segment& segment) {
  std::set<std::uint64_t> blocks;
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    const auto& row = queue_row(segment, index);
    if (queue_word::state(load(row.word, acquire)) != QueueState::ready) continue;
    if (const auto map = sound_extents(segment, row)) {
      for (std::uint64_t position = 0; position < map->count(); ++position)
        if (map->at(position) > extent_zeroes) blocks.insert(map->at(position));
    } else if (const auto slots = sound_ring(segment, row, QueueKind::work)) {
      for (std::uint64_t i = 0; i < slots->capacity; ++i)
        if (work_word::state(slots->slots[i].stamp) != WorkState::empty && slots->slots[i].handle != 0)
          blocks.insert(slots->slots[i].handle);
    } else if (const auto ring = sound_ring(segment, row)) {
      for (auto position = row.head; position < pushed_messages(*ring, row); ++position)
        if (const auto handle = ring->at(position).handle; handle != 0) blocks.insert(handle);
    }
  }
  return blocks.size();
}

void check_live(Survivor& survivor, std::uint64_t blocks_elsewhere, Complaints& complaints) {
  const auto expected = survivor.kept.size() + blocks_elsewhere;
  if (const auto found = take_census(survivor.segment()).live.size(); found != expected)
    complaints.push_back(fmt::format("{} blocks are live, the model has {}", found, expected));
  for (const auto& [reference, seed] : survivor.kept)
    if (!has_pattern(survivor.lane->heap().bytes(reference), seed))
      complaints.push_back(fmt::format("the survivor's block {} has other bytes", seed));
}

void check_drained(Lane& lane, QueueId stream, Complaints& complaints) {
  const auto& segment = lane.segment();
  const auto& row = queue_row(segment, stream.index);
  const auto tail = pushed_messages(segment, row);
  auto consumer = StreamConsumer::claim(lane, stream);
  if (!consumer) {
    complaints.push_back("the consumer's end cannot be taken over: " + describe(consumer.error()));
    return;
  }
  auto number = row.head;
  while (const auto* message = consumer->peek()) {
    if (!is_numbered(segment, *message, number))
      complaints.push_back(fmt::format("message {} is not the one that was pushed", number));
    if (const auto status = consumer->acknowledge(); status != Status::ok) {
      complaints.push_back(fmt::format("message {} cannot be acknowledged: {}", number, describe(status)));
      break;
    }
    ++number;
  }
  if (number != tail) complaints.push_back(fmt::format("{} messages can be taken, of {}", number, tail));
}

void check_all_bytes_usable(Lane& lane, Complaints& complaints) {
  const auto& segment = lane.segment();
  // What could not be isolated when its holder died is tried again by who finds no room.
  if (load(segment.control().quarantined, acquire) != 0) (void)capacity_for(lane, unit_bytes);
  for (const std::size_t bytes : {std::size_t{20480}, std::size_t{64}, std::size_t{unit_bytes}}) {
    const auto expected = capacity_expected(segment, bytes);
    if (expected >= lane.heap().cells_free()) continue;
    if (const auto found = capacity_for(lane, bytes); found != expected)
      complaints.push_back(
          fmt::format("{} blocks of {} bytes can be allocated, expected {}", found, bytes, expected));
  }
  const auto stretch = longest_stretch(segment);
  if (const auto longest = lane.heap().allocate(stretch * unit_bytes); !longest)
    complaints.push_back(
        fmt::format("a run of {} units cannot be allocated: {}", stretch, describe(longest.error())));
  else
    must(lane.heap().release(*longest));
  const auto census = take_census(segment);
  if (!census.live.empty())
    complaints.push_back(fmt::format("{} blocks are live in the end", census.live.size()));
  if (census.freeing != 0) complaints.push_back(fmt::format("{} blocks stay half freed", census.freeing));
}

}  // namespace sluice::test
