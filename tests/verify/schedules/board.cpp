#include "tests/verify/schedules/board.hpp"

#include "tests/support/census.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

namespace sluice::verify {

namespace {

constexpr std::size_t marked_words = 8;

std::uint64_t word_of(std::uint64_t handle, std::size_t place) noexcept {
  return Random(handle + place * 0x1000'0000'0000'0001).next();
}

bool has_word(std::span<const std::byte> bytes, std::size_t offset, std::uint64_t word) noexcept {
  return std::memcmp(bytes.data() + offset, &word, sizeof word) == 0;
}

}  // namespace

std::int64_t Holding::total() const noexcept {
  return std::accumulate(by_actor.begin(), by_actor.end(), std::int64_t{0}) +
         std::accumulate(by_stream.begin(), by_stream.end(), std::int64_t{0}) + by_work + by_broadcast;
}

Holding* Board::find(std::uint64_t handle) noexcept {
  const auto at = std::ranges::find(holdings, handle, &Holding::handle);
  return handle == 0 || at == holdings.end() ? nullptr : &*at;
}

Holding& Board::change(std::uint64_t handle) {
  if (auto* holding = find(handle)) return *holding;
  const auto idle = [](const Holding& holding) {
    const auto none = [](const auto& counts) {
      return std::ranges::all_of(counts, [](int n) { return n == 0; });
    };
    return none(holding.by_actor) && none(holding.by_stream) && holding.by_work == 0 &&
           holding.by_broadcast == 0;
  };
  auto at = std::ranges::find(holdings, 0U, &Holding::handle);
  if (at == holdings.end()) at = std::ranges::find_if(holdings, idle);
  if (at == holdings.end()) throw std::runtime_error("the board is full");
  *at = Holding{};
  at->handle = handle;
  return *at;
}

void Board::add(std::size_t actor, std::uint64_t handle, std::uint64_t begin, std::uint64_t bytes) {
  for (const auto& other : holdings)
    if (other.handle != handle && other.total() > 0 && begin < other.begin + other.bytes &&
        other.begin < begin + bytes)
      fail(fmt::format("actor {} was handed block {:#x}, whose bytes are those of {:#x}, which is held",
                       actor, handle, other.handle));
  auto& holding = change(handle);
  holding.begin = begin;
  holding.bytes = bytes;
  ++holding.by_actor[actor];
}

void Board::remove(std::size_t actor, std::uint64_t handle) {
  auto& holding = change(handle);
  --holding.by_actor[actor];
  settle(holding);
}

void Board::push_done(std::size_t actor, std::uint32_t stream, std::uint64_t handle) {
  ++streams[stream].pushed;
  if (handle == 0) return;
  auto& holding = change(handle);
  --holding.by_actor[actor];
  ++holding.by_stream[stream];
}

void Board::unqueue(std::uint32_t stream, std::uint64_t handle) {
  auto& holding = change(handle);
  --holding.by_stream[stream];
  settle(holding);
}

void Board::pop_done(std::size_t actor, std::uint32_t stream, std::uint64_t handle) {
  ++streams[stream].popped;
  if (handle == 0) return;
  auto& holding = change(handle);
  --holding.by_stream[stream];
  ++holding.by_actor[actor];
}

void Board::died(std::size_t actor, const Segment& segment) {
  auto& row = actors[actor];
  row.state = ActorState::dead;
  ++deaths;
  auto& doing = row.doing;
  const bool moves = doing.what[0] != '\0' &&
                     (doing.act == Act::push || doing.act == Act::pop || doing.act == Act::acknowledge);
  if (moves) {
    auto& stream = streams[doing.stream];
    const auto& queue = queue_row(segment, stream.id.index);
    if (doing.act == Act::push && pushed_messages(segment, queue) > doing.position) {
      ++stream.pushed;
      if (doing.handle != 0) ++change(doing.handle).by_stream[doing.stream];
    }
    const bool taken = doing.act != Act::push && load(queue.head, acquire) > doing.position;
    if (taken) ++stream.popped;
    if (doing.handle != 0) {
      auto& in_stream = change(doing.handle).by_stream[doing.stream];
      if (doing.act == Act::pop && taken) --in_stream;
      if (doing.act == Act::acknowledge && !taken) ++in_stream;  // it was taken off before
    }
  }
  work.died(*this, actor, segment);
  broadcast.died(*this, actor, segment);
  for (auto& holding : holdings) {
    if (holding.by_actor[actor] == 0) continue;
    holding.by_actor[actor] = 0;
    settle(holding);
  }
}

void Board::fail(std::string_view what) noexcept {
  if (!failed()) what.copy(failure, sizeof failure - 1);
}

void mark_block(std::span<std::byte> bytes, std::uint64_t handle) noexcept {
  for (std::size_t i = 0; i < marked_words; ++i) {
    const auto word = word_of(handle, i);
    std::memcpy(bytes.data() + i * sizeof word, &word, sizeof word);
  }
  const auto last = word_of(handle, marked_words);
  if (bytes.size() > marked_words * sizeof last)
    std::memcpy(bytes.data() + bytes.size() - sizeof last, &last, sizeof last);
}

bool begins_marked(std::span<const std::byte> bytes, std::uint64_t handle) noexcept {
  if (bytes.size() < marked_words * sizeof handle) return false;
  for (std::size_t i = 0; i < marked_words; ++i)
    if (!has_word(bytes, i * sizeof handle, word_of(handle, i))) return false;
  return true;
}

bool is_marked(std::span<const std::byte> bytes, std::uint64_t handle) noexcept {
  return begins_marked(bytes, handle) &&
         (bytes.size() == marked_words * sizeof handle ||
          has_word(bytes, bytes.size() - sizeof handle, word_of(handle, marked_words)));
}

void check_holdings(Board& board, const Segment& segment, test::Complaints& complaints) {
  const auto live = test::take_census(segment).live;
  std::map<std::uint64_t, std::int64_t> droppable;  // nobody knows of them for certain but the queue itself
  for (const auto& queue : board.work.queues)
    if (queue.drops)
      for (const auto& slot : slots_of(segment, queue.id))
        if (slot.state == WorkState::full) ++droppable[slot.handle];
  for (const auto& [handle, count] : live) {
    const auto* holding = board.find(handle);
    const auto expected = (holding == nullptr ? 0 : holding->total()) + droppable[handle];
    if (static_cast<std::int64_t>(count) != expected)
      complaints.push_back(
          fmt::format("block {:#x} has {} references, the model {}", handle, count, expected));
  }
  for (const auto& holding : board.holdings) {
    if (holding.total() <= 0) continue;
    const auto found = find_block(segment, Handle{holding.handle});
    if (!found)
      complaints.push_back(fmt::format("block {:#x} is held, but not live", holding.handle));
    else if (!is_marked(found->span(), holding.handle))
      complaints.push_back(fmt::format("block {:#x} has other bytes", holding.handle));
  }
}

void check_owners_told(const Segment& segment, test::Complaints& complaints) {
  const auto named = test::take_census(segment).references;
  for (std::uint32_t unit = 0; unit < segment.units_committed(); ++unit) {
    const auto word = load(segment.unit(unit).word, acquire);
    const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
    if (unit_word::state(word) != UnitState::slab || size_class >= segment.classes().count()) continue;
    const auto owner = load(segment.lane_row(unit_word::Lane::get(word)).word, acquire);
    if (lane_word::Incarnation::get(owner) != unit_word::Tag::get(word))
      continue;  // its adopter needs no bit
    for (std::uint32_t slot = 0; slot < segment.classes().slots(size_class); ++slot) {
      const auto low = load(segment.truth_word(unit, slot).low, acquire);
      const bool told = (load(segment.remote_bits(unit).words[slot / 64], acquire) >> (slot % 64) & 1) != 0;
      if (truth::state(low) != BlockState::freeing || told) continue;
      if (const auto handle = segment.split().make(truth::Generation::get(low), unit, slot);
          !named.contains(handle.value))
        complaints.push_back(
            fmt::format("block {:#x} was given up, and its owner is not told", handle.value));
    }
  }
}

}  // namespace sluice::verify
