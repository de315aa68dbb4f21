#include "ipc/queues.hpp"

#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <thread>

namespace sluice::test {

TEST_CASE("queue: a created stream is found by its name, in every mapping", "[ipc]") {
  Rig rig;
  const auto created = must(create_stream(*rig.lane, "numbers", 100));
  const auto other = must(Segment::attach_read_only(rig.file.path()));
  for (const auto* segment : {&rig.segment(), &other}) {
    CHECK(must(find_queue(*segment, "numbers")) == created);
    const auto& row = queue_row(*segment, created.index);
    CHECK(queue_word::state(row.word) == QueueState::ready);
    CHECK(row.kind == static_cast<std::uint32_t>(QueueKind::stream));
    CHECK(row.capacity == 128);  // the next power of two
    CHECK(row.message_bytes == sizeof(Message));
    CHECK(std::string(row.name) == "numbers");
  }
}

TEST_CASE("queue: a name that is not there is not found, also as the beginning of another", "[ipc]") {
  Rig rig;
  must(create_stream(*rig.lane, "numbers", 8));
  for (const auto* name : {"number", "numbers2", "", "Numbers"})
    CHECK(find_queue(rig.segment(), name).error().status == Status::not_found);
}

TEST_CASE("queue: a name is given once, whatever the capacity", "[ipc]") {
  Rig rig;
  const auto first = must(create_stream(*rig.lane, "numbers", 8));
  const auto again = create_stream(*rig.lane, "numbers", 16);
  REQUIRE_FALSE(again);
  CHECK(again.error().status == Status::exists);
  CHECK(must(find_or_create_stream(*rig.lane, "numbers", 16)) == first);
  CHECK(queue_row(rig.segment(), first.index).capacity == 8);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("queue: bad names and capacities are refused without effect", "[ipc]") {
  Rig rig;
  const std::string longest(queue_name_bytes - 1, 'n');
  CHECK(create_stream(*rig.lane, longest, 8).has_value());
  CHECK(find_queue(rig.segment(), longest).has_value());
  const auto before = take_census(rig.segment()).storage_units;
  for (const auto& name : {std::string(), longest + "n", std::string("a\0b", 3)})
    CHECK(create_stream(*rig.lane, name, 8).error().status == Status::bad_argument);
  CHECK(create_stream(*rig.lane, "a", 0).error().status == Status::bad_argument);
  CHECK(create_stream(*rig.lane, "a", queue_capacity_max + 1).error().status == Status::bad_argument);
  CHECK(take_census(rig.segment()).storage_units == before);
  CHECK(find_queue(rig.segment(), "a").error().status == Status::not_found);
}

TEST_CASE("queue: a full directory refuses, with its storage given back", "[ipc]") {
  auto options = small_options(40);
  options.queues = 4;
  Rig rig(options);
  for (int i = 0; i < 4; ++i) must(create_stream(*rig.lane, "q" + std::to_string(i), 8));
  CHECK(create_stream(*rig.lane, "one more", 8).error().status == Status::exhausted);
  CHECK(take_census(rig.segment()).storage_units == 4);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("queue: a ring that does not fit is refused, and its name stays free", "[ipc]") {
  Rig rig(small_options(4));
  const auto refused = create_stream(*rig.lane, "large", 8192);  // 8 units
  REQUIRE_FALSE(refused);
  CHECK((refused.error().status == Status::exhausted || refused.error().status == Status::too_large));
  CHECK(find_queue(rig.segment(), "large").error().status == Status::not_found);
  CHECK(audit(rig.segment()).violations.empty());
  CHECK(create_stream(*rig.lane, "large", 2048).has_value());
}

TEST_CASE("queue: a ring on units that were used before begins empty", "[ipc]") {
  Rig rig(small_options(4));
  const auto dirty = must(rig.heap().allocate(4 * unit_bytes));
  std::ranges::fill(rig.heap().bytes(dirty), std::byte{0x01});
  must(rig.heap().release(dirty));
  const auto queue = must(create_stream(*rig.lane, "s", 2048));
  auto producer = must(StreamProducer::claim(*rig.lane, queue));
  auto consumer = must(StreamConsumer::claim(*rig.lane, queue));
  CHECK(consumer.peek() == nullptr);
  CHECK(producer.tail() == 0);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("queue: of many that create one name at once, one wins and all find the same", "[ipc][threads]") {
  for (int round = 0; round < 20; ++round) {
    Rig rig(small_options(24));
    std::atomic<int> created{0}, refused{0}, broken{0};
    {
      std::vector<std::jthread> running;
      for (int i = 0; i < 3; ++i)
        running.emplace_back([&] {
          const auto lane = must(rig.session.claim_lane());
          const auto made = create_stream(*lane, "contested", 8);
          if (made)
            ++created;
          else if (made.error().status == Status::exists || made.error().status == Status::busy)
            ++refused;
          else
            ++broken;
        });
    }
    CAPTURE(round, created.load(), refused.load());
    CHECK(broken == 0);
    CHECK(created <= 1);
    int named = 0;
    for (std::uint32_t i = 0; i < rig.segment().header().queue_count; ++i)
      named += queue_word::state(queue_row(rig.segment(), i).word) != QueueState::free ? 1 : 0;
    CHECK(named == created);
    CHECK(find_or_create_stream(*rig.lane, "contested", 8).has_value());
    CHECK(audit(rig.segment()).violations.empty());
  }
}

}  // namespace sluice::test
