// Queues of values: one T in each message, over each kind of queue.
#include "runtime/values.hpp"

#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <string>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct Point {
  std::int32_t x, y;
};

void create(Lane& lane, const std::string& kind) {
  if (kind == "stream") must(create_stream(lane, "q", 8));
  if (kind == "work") must(create_work_queue(lane, "q", {.capacity = 8}));
  if (kind == "broadcast") must(create_broadcast(lane, "q", {.capacity = 8}));
}

}  // namespace

TEST_CASE("values: what is published is read in the loop, in the block", "[runtime][queue]") {
  Rig rig;
  const auto other = rig.another_lane();
  create(*rig.lane, GENERATE("stream", "work", "broadcast"));
  auto in = must(ValueConsumer<Point>::open(*other, "q"));
  auto out = must(ValueProducer<Point>::open(*rig.lane, "q"));
  for (int i = 0; i < 5; ++i) must(out.publish({i, -i}));
  out.queue().close();
  int next = 0;
  for (const Point& point : in) {
    CHECK(point.x == next);
    CHECK(point.y == -next++);
  }
  CHECK(next == 5);
  CHECK(in.ended_with() == Status::closed);
}

TEST_CASE("values: a message of another size is none, ends the loop and stays", "[runtime][queue]") {
  Rig rig;
  const auto other = rig.another_lane();
  create(*rig.lane, GENERATE("stream", "work"));
  auto in = must(ValueConsumer<Point>::open(*other, "q"));
  auto out = must(Producer::open(*rig.lane, "q"));
  must(out.publish_value(Point{1, 2}));
  must(out.publish_value(std::uint8_t{7}));
  must(out.publish_value(Point{3, 4}));
  int seen = 0;
  for (const Point& point : in) seen += point.x;
  CHECK(seen == 1);
  CHECK(in.ended_with() == Status::ok);
  CHECK(in.receive(0s).error() == Status::bad_argument);
  auto odd = must(in.queue().receive(0s));
  CHECK(odd.bytes().size() == 1);
  must(odd.acknowledge());
  CHECK(must(in.receive(0s))->x == 3);
}

TEST_CASE("values: one in hand is acknowledged or given back", "[runtime][queue]") {
  Rig rig;
  const auto other = rig.another_lane();
  create(*rig.lane, "work");
  auto in = must(ValueConsumer<Point>::open(*other, "q"));
  must(must(ValueProducer<Point>::open(*rig.lane, "q")).publish({1, 2}));
  must(must(in.receive(0s)).reject());
  auto again = must(in.receive(0s));
  CHECK(again.message().deliveries() == 1);
  CHECK(again->y == 2);
  must(again.acknowledge());
  CHECK(in.receive(0s).error() == Status::timeout);
  CHECK(ValueConsumer<Point>::open(*other, "nothing").error().status == Status::not_found);
}

}  // namespace sluice::test
