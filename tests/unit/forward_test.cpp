// Messages that go on from a stream or a work queue, in one step; what a death leaves is in tests/crash.
#include "ipc/forward.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/stages.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

namespace {

constexpr std::uint64_t stocked = 5;
constexpr std::uint32_t cells = 64;

struct StageRig : Rig {
  explicit StageRig(const StagePair& of)
      : Rig(small_options(24), Place::shared_memory, {.cells = cells}), pair(of) {
    make_stages(*lane, pair, stocked);
    lane->heap().flush();
    cells_free = heap().cells_free();
  }
  QueueRow& row(std::string_view name) const {
    return queue_row(segment(), must(find_queue(segment(), name)).index);
  }
  void check_quiet() {
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
  }
  /// And nothing is leased.
  void check_sound() {
    lane->heap().flush();
    check_quiet();
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }
  void check_in(std::string_view name, std::uint64_t first, std::uint64_t end) {
    const auto found = drain_stage(*lane, name);
    REQUIRE(found.size() == end - first);
    for (std::uint64_t i = 0; i < found.size(); ++i) CHECK(found[i] == StagedMessage{first + i, 0, true});
  }

  StagePair pair;
  std::uint32_t cells_free = 0;
};

StagePair any_pair() {
  const auto index = GENERATE(range(std::size_t{0}, std::size(stage_pairs)));
  return stage_pairs[index];
}

// The handle of the oldest message in the first queue.
Handle first_handle(Forwarder& forwarder) {
  if (auto* stream = std::get_if<StreamConsumer>(&forwarder.from)) return {stream->peek()->handle};
  auto& queue = std::get<WorkQueue>(forwarder.from);
  const auto lease = must(queue.take());
  const Handle handle{queue.message(lease)->handle};
  must(queue.reject(lease));
  return handle;
}

}  // namespace

TEST_CASE("forward: messages are in the other queue, in order, with their blocks", "[ipc][queue]") {
  StageRig rig(any_pair());
  CAPTURE(rig.pair.name);
  const auto bytes_before = rig.row(to_name).bytes_in;
  {
    Forwarder forwarder(*rig.lane, rig.pair);
    for (std::uint64_t i = 0; i < 4; ++i) {
      must(forwarder.forward_next());
      rig.check_sound();
      CHECK(staged_in(rig.segment(), from_name) == stocked - i - 1);
      CHECK(staged_in(rig.segment(), to_name) == i + 1);
    }
  }
  CHECK(rig.heap().cells_free() == rig.cells_free);
  CHECK(rig.row(to_name).bytes_in - bytes_before ==
        staged_bytes(0) + staged_bytes(1) + staged_bytes(2) + staged_bytes(3));
  rig.check_in(to_name, 0, 4);
  rig.check_in(from_name, 4, stocked);
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
}

TEST_CASE("forward: one that finds no room leaves the message as it was", "[ipc][queue]") {
  StageRig rig(any_pair());
  CAPTURE(rig.pair.name);
  {
    Forwarder forwarder(*rig.lane, rig.pair);
    const auto to = must(find_queue(rig.segment(), to_name));
    Subscriber holds;
    if (rig.pair.to == QueueKind::broadcast)
      holds = must(Subscriber::join(*rig.lane, to, {.start = Start::at(0)}));
    while (std::visit([](auto& queue) { return queue.push(Message{.length = 7, .position = 1000}); },
                      forwarder.to) == Status::ok) {}
    const auto handle = first_handle(forwarder);
    CHECK(forwarder.forward_next() == Status::full);
    CHECK(rig.heap().own_of(handle).has_value());  // nor is the block findable
    CHECK(staged_in(rig.segment(), from_name) == stocked);
    rig.check_quiet();
    forwarder.give_back();
    rig.check_sound();
  }
  const auto left = drain_stage(*rig.lane, from_name);
  REQUIRE(left.size() == stocked);
  for (std::uint64_t i = 0; i < stocked; ++i) CHECK((left[i].number == i && left[i].is_whole));
  CHECK(rig.heap().cells_free() == rig.cells_free);
}

TEST_CASE("forward: without free cells nothing moves", "[ipc][queue]") {
  StageRig rig(any_pair());
  CAPTURE(rig.pair.name);
  Forwarder forwarder(*rig.lane, rig.pair);
  forwarder.take();
  std::vector<Reference> held;
  for (const std::uint32_t left : {0U, 1U}) {
    while (rig.heap().cells_free() > left) held.push_back(must(rig.heap().allocate(64)));
    if (left == 1 && rig.pair.from == QueueKind::work) break;  // the lease has one: a second is enough
    CHECK(forwarder.forward_next() == Status::no_cell);
    CHECK(rig.heap().cells_free() == left);
    while (rig.heap().cells_free() < 2) must(rig.heap().release(held.back())), held.pop_back();
  }
  for (const auto& reference : held) must(rig.heap().release(reference));
  must(forwarder.forward_next());
  rig.check_sound();
}

TEST_CASE("forward: not into the same queue, nor through another lane's end", "[ipc][queue]") {
  StageRig rig(stage_pairs[0]);
  const auto other = rig.another_lane();
  const auto from = must(find_queue(rig.segment(), from_name)), to = must(find_queue(rig.segment(), to_name));
  auto consumer = must(StreamConsumer::claim(*rig.lane, from));
  auto same = must(StreamProducer::claim(*rig.lane, from));
  auto elsewhere = must(StreamProducer::claim(*other, to));
  REQUIRE(consumer.peek() != nullptr);
  CHECK(consumer.forward(same, *consumer.peek()) == Status::bad_argument);
  CHECK(consumer.forward(elsewhere, *consumer.peek()) == Status::bad_argument);
  CHECK(consumer.acknowledge_many(stocked) == stocked);
  elsewhere = {};
  auto here = must(StreamProducer::claim(*rig.lane, to));
  CHECK(consumer.forward(here, Message{}) == Status::empty);
  rig.check_sound();
}

TEST_CASE("forward: what is forwarded into a broadcast can be read by all, and changed by nobody",
          "[ipc][queue]") {
  StageRig rig(GENERATE(stage_pairs[2], stage_pairs[5]));
  Forwarder forwarder(*rig.lane, rig.pair);
  const auto handle = first_handle(forwarder);
  CHECK(rig.heap().own_of(handle).has_value());
  CHECK(rig.heap().look_up(handle).error() == Status::stale);
  const auto to = must(find_queue(rig.segment(), to_name));
  auto subscriber = must(Subscriber::join(*rig.lane, to, {.policy = SubscriberPolicy::lose_oldest}));
  must(forwarder.forward_next());
  const auto taken = subscriber.take();
  REQUIRE(taken.has_value());
  CHECK(taken->reference.handle == handle);
  CHECK(rig.heap().own_of(handle).error() == Status::shared);
  must(rig.heap().release(taken->reference));
  CHECK(rig.heap().own_of(handle).error() == Status::shared);  // findable still
  rig.check_sound();
}

TEST_CASE("forward: a block that was made findable and not published is like any other", "[ipc][queue]") {
  StageRig rig(GENERATE(stage_pairs[0], stage_pairs[4]));  // what a death before the broadcast leaves
  {
    Forwarder forwarder(*rig.lane, rig.pair);
    const auto handle = first_handle(forwarder);
    must(rig.heap().make_findable_of(handle));
    rig.check_sound();
    CHECK(rig.heap().own_of(handle).error() == Status::shared);
    must(forwarder.forward_next());
  }
  rig.check_in(to_name, 0, 1);
  rig.check_in(from_name, 1, stocked);
  rig.check_sound();
  CHECK(take_census(rig.segment()).live.empty());
}

}  // namespace sluice::test
