// References to a block that several hold: counts, errors without effect, the last drop from everywhere.
#include "shm/shared.hpp"
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "shm/operation_log.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

TruthWord& word_of(const Segment& segment, Handle handle) {
  return segment.truth_word(segment.split().unit(handle), segment.split().slot(handle));
}
std::uint64_t count_of(const Segment& segment, Handle handle) {
  return truth::Count::get(load(word_of(segment, handle).low, acquire));
}
bool is_sound(const Segment& segment) {
  const auto report = audit(segment);
  for (const auto& violation : report.violations) UNSCOPED_INFO(violation.what);
  for (const auto& line : take_census(segment).contradictions()) UNSCOPED_INFO(line);
  return report.violations.empty() && take_census(segment).contradictions().empty();
}

}  // namespace

TEST_CASE("shared: references are alike, each is given up by itself, the last frees", "[shm]") {
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{5000}, 3 * unit_bytes}) {
    CAPTURE(bytes);
    Rig rig;
    auto& heap = rig.heap();
    const auto first = must(heap.allocate(bytes));
    fill_pattern(heap.bytes(first), 7);
    const auto second = must(heap.clone(first));
    const auto third = must(heap.clone(second));
    CHECK(second.handle == first.handle);
    CHECK(count_of(rig.segment(), first.handle) == 3);
    CHECK(is_sound(rig.segment()));
    must(heap.release(first));
    must(heap.release(third));
    CHECK(has_pattern(heap.bytes(second), 7));
    CHECK(count_of(rig.segment(), second.handle) == 1);
    must(heap.release(second));
    CHECK_FALSE(find_block(rig.segment(), second.handle).has_value());
    CHECK(take_census(rig.segment()).live.empty());
    CHECK(is_sound(rig.segment()));
    CHECK(must(heap.allocate(bytes)).handle != first.handle);
  }
}

TEST_CASE("shared: the last drop by another lane comes back to the slab's owner", "[shm]") {
  Rig rig;
  auto other = rig.another_lane();
  const auto units = rig.segment().geometry().units_max;
  for (std::uint64_t i = 0; i < 4 * units; ++i) {  // more bytes than there are
    const auto mine = must(rig.heap().allocate(30000));
    must(rig.heap().make_findable(mine));
    const auto theirs = must(other->heap().look_up(mine.handle));
    must(rig.heap().release(mine));
    must(other->heap().release(theirs));
  }
  other->heap().flush();
  CHECK(is_sound(rig.segment()));
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("shared: what cannot be cloned is refused, and nothing changes", "[shm]") {
  Rig rig;
  auto& heap = rig.heap();
  auto other = must(rig.session.claim_lane({.cells = 64}));
  const auto block = must(heap.allocate(100));
  const auto gone = must(heap.clone(block));
  must(heap.release(gone));
  auto& word = word_of(rig.segment(), block.handle);

  SECTION("a reference that was given up") {
    CHECK(heap.clone(gone).error() == Status::stale);
    CHECK(heap.release(gone) == Status::stale);
    CHECK(heap.make_findable(gone) == Status::stale);
    CHECK(heap.own(gone).error() == Status::stale);
    CHECK(heap.resize(gone, 10).error() == Status::stale);
  }
  SECTION("a reference of another lane's") {
    CHECK(other->heap().clone(block).error() == Status::stale);
    CHECK(other->heap().release(block) == Status::stale);
    CHECK(heap.clone({block.handle, 1U << 30}).error() == Status::stale);
  }
  SECTION("a block that is not findable, or was never there") {
    CHECK(other->heap().look_up(block.handle).error() == Status::stale);
    CHECK(other->heap().look_up({}).error() == Status::stale);
    CHECK(other->heap().look_up({block.handle.value + 1}).error() == Status::stale);
    CHECK(other->heap().look_up({~std::uint64_t{0}}).error() == Status::stale);
  }
  SECTION("a findable block whose generation is over") {
    must(heap.make_findable(block));
    must(heap.release(block));
    CHECK(other->heap().look_up(block.handle).error() == Status::stale);
    const auto next = must(heap.allocate(100));
    CHECK(other->heap().look_up(next.handle).error() == Status::stale);
    return;
  }
  SECTION("a full ledger") {
    std::vector<Reference> filling;
    while (other->heap().cells_free() > 0) filling.push_back(must(other->heap().allocate(64)));
    CHECK(other->heap().clone(filling.front()).error() == Status::no_cell);
    CHECK(count_of(rig.segment(), filling.front().handle) == 1);
  }
  SECTION("a count at its limit") {
    const auto before = load(word.low, relaxed);
    store(word.low, truth::Count::set(before, count_max), relaxed);
    const auto cells = heap.cells_free();
    CHECK(heap.clone(block).error() == Status::overflow);
    CHECK(heap.cells_free() == cells);
    CHECK(count_of(rig.segment(), block.handle) == count_max);
    store(word.low, before, relaxed);
  }
  CHECK(count_of(rig.segment(), block.handle) == 1);
  CHECK(open_sequence(rig.lane->row()) == 0);
  CHECK(is_sound(rig.segment()));
}

TEST_CASE("shared: a reference in a stream is one of the references", "[shm][ipc]") {
  Rig rig;
  auto consumer_lane = rig.another_lane();
  const auto queue = must(create_stream(*rig.lane, "shared", 16));
  auto producer = must(StreamProducer::claim(*rig.lane, queue));
  auto consumer = must(StreamConsumer::claim(*consumer_lane, queue));
  const auto mine = must(rig.heap().allocate(100));
  Message message{};
  message.kind = MessageKind::user;
  for (int i = 0; i < 3; ++i) must(producer.push(message, must(rig.heap().clone(mine))));
  CHECK(count_of(rig.segment(), mine.handle) == 4);
  CHECK(is_sound(rig.segment()));
  must(rig.heap().release(mine));
  const auto taken = must(consumer.pop());
  const auto again = must(consumer_lane->heap().clone(taken));
  must(consumer_lane->heap().release(taken));
  must(consumer.acknowledge());
  CHECK(count_of(rig.segment(), mine.handle) == 2);
  CHECK(is_sound(rig.segment()));
  must(consumer.acknowledge());
  must(consumer_lane->heap().release(again));
  consumer_lane->heap().flush();
  CHECK_FALSE(find_block(rig.segment(), mine.handle).has_value());
  CHECK(is_sound(rig.segment()));
}

TEST_CASE("own: take, modify, publish without a copy, while nobody else can see the block",
          "[shm][ipc][P3]") {
  Rig rig;
  auto worker = rig.another_lane();
  const auto in = must(create_stream(*rig.lane, "in", 16));
  const auto out = must(create_stream(*rig.lane, "out", 16));
  auto source = must(StreamProducer::claim(*rig.lane, in));
  auto sink = must(StreamConsumer::claim(*rig.lane, out));
  auto consumer = must(StreamConsumer::claim(*worker, in));
  auto producer = must(StreamProducer::claim(*worker, out));
  const auto block = must(rig.heap().allocate(100));
  fill_pattern(rig.heap().bytes(block), 1);
  Message message{};
  message.kind = MessageKind::user;
  must(source.push(message, block));

  const auto taken = must(consumer.pop());
  const auto bytes = must(worker->heap().own(taken));
  CHECK(bytes.data() == find_block(rig.segment(), block.handle)->data);
  fill_pattern(bytes, 2);
  must(producer.push(message, taken));

  const auto back = must(sink.pop());
  CHECK(back.handle == block.handle);
  CHECK(has_pattern(rig.heap().bytes(back), 2));
  // Not while another holds it, and again once that one has let go.
  const auto second = must(rig.heap().clone(back));
  CHECK(rig.heap().own(back).error() == Status::shared);
  must(rig.heap().release(second));
  CHECK(rig.heap().own(back).has_value());
  must(rig.heap().make_findable(back));
  CHECK(rig.heap().own(back).error() == Status::shared);
}

TEST_CASE("resize: the contents move to a block of the new size, the reference stays the only one", "[shm]") {
  Rig rig;
  auto& heap = rig.heap();
  auto block = must(heap.allocate(100));
  fill_pattern(heap.bytes(block), 3);
  const auto first = heap.bytes(block).size();
  for (const std::size_t bytes : {std::size_t{120}, std::size_t{5000}, 2 * unit_bytes, 3 * unit_bytes}) {
    block = must(heap.resize(block, bytes));
    CHECK(heap.bytes(block).size() >= bytes);
    CHECK(has_pattern(heap.bytes(block).first(first), 3));
    CHECK(take_census(rig.segment()).live.size() == 1);
  }
  const auto same = must(heap.resize(block, 3 * unit_bytes - 5));
  CHECK(same.handle == block.handle);
  block = must(heap.resize(block, 64));
  CHECK(heap.bytes(block).size() == 64);
  CHECK(has_pattern(heap.bytes(block), 3));

  CHECK(heap.resize(block, 0).error() == Status::bad_argument);
  CHECK(heap.resize(block, rig.segment().block_bytes_max() + 1).error() == Status::too_large);
  CHECK(heap.resize(block, rig.segment().block_bytes_max()).error() == Status::exhausted);
  CHECK(has_pattern(heap.bytes(block), 3));
  const auto second = must(heap.clone(block));
  CHECK(heap.resize(block, 5000).error() == Status::shared);
  must(heap.release(second));
  CHECK(heap.resize(block, 5000).has_value());
  CHECK(is_sound(rig.segment()));
}

TEST_CASE("shared: an operation whose tag was removed is decided by who removed it", "[shm]") {
  Rig rig;
  auto victim = rig.another_lane();
  const auto block = must(rig.heap().allocate(100));
  must(rig.heap().make_findable(block));
  const auto theirs = must(victim->heap().look_up(block.handle));
  const auto& view = victim->view();
  const auto sequence = load(view.row->sequence, relaxed);
  const auto tagged = load(word_of(rig.segment(), block.handle).tag, relaxed);
  REQUIRE(tagged == truth_tag::make(victim->id(), sequence - 1));

  // As a kill leaves it after the compare-and-swap of that look-up: the log is open, the cell is empty.
  store(view.row->sequence, sequence - 1, relaxed);
  store(view.cells[theirs.cell].handle, 0, relaxed);
  CHECK(open_cell(view).differs);
  CHECK(is_sound(rig.segment()) == false);  // the census counts bytes, not operations
  CHECK(audit(rig.segment()).violations.empty());
  must(rig.heap().release(must(rig.heap().clone(block))));  // the tag is this lane's now
  CHECK(load(rig.segment().seen_row(rig.lane->id())[victim->id()], relaxed) == sequence - 1);
  CHECK(open_cell(view).differs);
  finish_shared(view);
  CHECK(load(view.cells[theirs.cell].handle, relaxed) == block.handle.value);
  close_log(view);
  CHECK(is_sound(rig.segment()));

  // The same log, one operation later: it has not happened, whatever others have seen of earlier ones.
  open_log(view, LaneOperation::clone, 40, block.handle);
  CHECK_FALSE(open_cell(view).differs);
  must(rig.heap().release(must(rig.heap().clone(block))));
  CHECK_FALSE(open_cell(view).differs);
  finish_shared(view);
  CHECK(load(view.cells[40].handle, relaxed) == 0);
  close_log(view);
}

TEST_CASE("shared: lanes that clone, hand over and drop at once leave counts exact", "[shm][threads]") {
  constexpr int lanes = 3;
  constexpr int rounds = 3000;
  Rig rig(small_options(64));
  std::vector<Reference> shared;
  for (const std::size_t bytes : {64UL, 64UL, 3000UL, 200'000UL}) {
    shared.push_back(must(rig.heap().allocate(bytes)));
    fill_pattern(rig.heap().bytes(shared.back()), shared.size());
    must(rig.heap().make_findable(shared.back()));
  }
  std::atomic<const char*> failure{nullptr};
  const auto body = [&](int seed) {
    const auto lane = must(rig.session.claim_lane({.cells = 128}));
    auto& heap = lane->heap();
    std::mt19937 random(static_cast<unsigned>(seed));
    std::vector<Reference> held;
    for (int i = 0; i < rounds && failure == nullptr; ++i) {
      const auto which = random() % shared.size();
      if (held.size() < 40 && random() % 2 == 0) {
        const auto reference = held.empty() || random() % 2 == 0 ? heap.look_up(shared[which].handle)
                                                                 : heap.clone(held[random() % held.size()]);
        if (!reference)
          failure = "a live block could not be cloned";
        else
          held.push_back(*reference);
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        if (heap.bytes(held.back()).empty()) failure = "a held block was not live";
        if (heap.release(held.back()) != Status::ok) failure = "a held block could not be released";
        held.pop_back();
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < lanes; ++i) threads.emplace_back(body, i);
  }
  CHECK(std::string_view(failure.load() == nullptr ? "" : failure.load()) == "");
  for (std::size_t i = 0; i < shared.size(); ++i) {
    CHECK(count_of(rig.segment(), shared[i].handle) == 1);
    CHECK(has_pattern(rig.heap().bytes(shared[i]), i + 1));
    must(rig.heap().release(shared[i]));
  }
  CHECK(take_census(rig.segment()).live.empty());
  CHECK(is_sound(rig.segment()));
}

}  // namespace sluice::test
