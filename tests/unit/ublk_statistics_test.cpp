// What a queue counts and times: the histogram by itself, and a queue between the model of the driver and a target that
// a test directs.
#include "ublk/statistics.hpp"

#include "runtime/ring.hpp"
#include "tests/unit/ublk_memory_target.hpp"
#include "tests/unit/ublk_rig.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t ms = 1'000'000;

void sleep(int count) { std::this_thread::sleep_for(milliseconds(count)); }

}  // namespace

TEST_CASE("latency: buckets follow each other without gap, none wider than 1/16 of its values", "[ublk]") {
  for (std::size_t bucket = 0; bucket + 1 < LatencyHistogram::buckets; ++bucket) {
    const auto end = LatencyHistogram::bucket_end(bucket);
    REQUIRE(LatencyHistogram::bucket_of(end) == bucket);
    REQUIRE(LatencyHistogram::bucket_of(end + 1) == bucket + 1);
    const auto begin = bucket == 0 ? 0 : LatencyHistogram::bucket_end(bucket - 1) + 1;
    REQUIRE((end - begin) * LatencyHistogram::sub_buckets <= end);
  }
}

TEST_CASE("latency: percentiles are those of the sorted values, at most 1/16 too much", "[ublk]") {
  std::mt19937_64 random(3);
  std::lognormal_distribution<double> times(11, 2);
  std::vector<std::uint64_t> values;
  LatencyHistogram one, other;
  for (int i = 0; i < 20'000; ++i) {
    const auto value = static_cast<std::uint64_t>(times(random));
    values.push_back(value);
    (i % 3 == 0 ? one : other).record(value);
  }
  auto both = one.snapshot();
  both += other;
  std::ranges::sort(values);
  CHECK(both.count() == values.size());
  CHECK(both.max_ns() == values.back());
  for (const double part : {0.0, 0.001, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(part * static_cast<double>(values.size())));
    const auto exact = values[rank == 0 ? 0 : rank - 1];
    CAPTURE(part, exact);
    CHECK(both.percentile_ns(part) >= exact);
    CHECK(both.percentile_ns(part) <= exact + exact / 16);
  }
}

TEST_CASE("latency: nothing, one value, and values beyond the last bucket", "[ublk]") {
  LatencyHistogram times;
  CHECK(times.percentile_ns(0.5) == 0);
  CHECK(times.max_ns() == 0);
  times.record(1'000'003);
  CHECK(times.percentile_ns(0.5) == 1'000'003);
  CHECK(times.percentile_ns(0.999) == 1'000'003);
  times.record(~0ULL);
  CHECK(times.max_ns() == ~0ULL);
  CHECK(times.percentile_ns(1.0) == ~0ULL);
  CHECK(times.count() == 2);
}

TEST_CASE("ublk statistics: a request's time is from its arrival to the submission of its result", "[ublk]") {
  MemoryTarget target;
  target.late = true;
  QueueRig rig(target);
  rig.driver.ask({.operation = Operation::read});
  rig.driver.ask({.operation = Operation::write});
  rig.turn();
  sleep(20);
  target.execute(*target.kept[0]);
  rig.turn();
  sleep(20);
  target.execute(*target.kept[1]);
  target.late = false;
  rig.driver.ask({.operation = Operation::flush});
  rig.turn();
  rig.turn();
  const auto statistics = rig.queue->statistics();
  const auto& [reads, writes, others] = statistics.latencies;
  CHECK(reads.count() == 1);
  CHECK(reads.max_ns() >= 20 * ms);
  CHECK(writes.count() == 1);
  CHECK(writes.max_ns() >= 40 * ms);
  CHECK(writes.max_ns() > reads.max_ns());
  CHECK(others.count() == 1);
  CHECK(others.max_ns() < reads.max_ns());
}

TEST_CASE("ublk statistics: failed and refused requests have their time too", "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target);
  rig.io({.operation = Operation::read, .sector = ~0ULL});
  rig.io({.operation = static_cast<Operation>(77)});
  const auto statistics = rig.queue->statistics();
  CHECK(statistics.latencies.reads.count() == 1);
  CHECK(statistics.latencies.others.count() == 1);
  CHECK(statistics.counters.requests() == 2);
}

TEST_CASE("ublk statistics: what is in flight, and for how long the oldest", "[ublk]") {
  MemoryTarget target;
  target.late = true;
  QueueRig rig(target);
  CHECK(rig.queue->statistics().under_way.requests == 0);
  rig.driver.ask({.operation = Operation::read});
  rig.turn();
  sleep(20);
  rig.driver.ask({.operation = Operation::read});
  rig.turn();
  sleep(5);
  auto under_way = rig.queue->statistics().under_way;
  CHECK(under_way.requests == 2);
  CHECK(under_way.oldest_tag == 0);
  CHECK(under_way.oldest_age >= milliseconds(25));
  CHECK(under_way.turn_age >= milliseconds(5));
  CHECK(under_way.turn_age < under_way.oldest_age);

  target.execute(*target.kept[0]);
  rig.turn();
  under_way = rig.queue->statistics().under_way;
  CHECK(under_way.requests == 1);
  CHECK(under_way.oldest_tag == 1);
}

TEST_CASE("ublk statistics: over several queues, requests add up and the oldest one wins", "[ublk]") {
  UblkUnderWay sum;
  sum += {.requests = 2,
          .oldest_age = milliseconds(5),
          .oldest_queue = 0,
          .oldest_tag = 9,
          .turn_age = milliseconds(70)};
  sum += {.requests = 3,
          .oldest_age = milliseconds(60),
          .oldest_queue = 1,
          .oldest_tag = 4,
          .turn_age = milliseconds(2)};
  sum += {.requests = 0, .oldest_queue = 2};
  CHECK(sum.requests == 5);
  CHECK(sum.oldest_age == milliseconds(60));
  CHECK(sum.oldest_queue == 1);
  CHECK(sum.oldest_tag == 4);
  CHECK(sum.turn_age == milliseconds(70));
}

TEST_CASE("ublk statistics: system calls are counted, those that copy apart", "[ublk]") {
  MemoryTarget target;
  const auto path = GENERATE(DataPath::user_copy, DataPath::copy);
  QueueRig rig(target, path);
  const auto enters = rig.queue->counters().enters;
  rig.io({.operation = Operation::write, .sectors = 2});
  rig.io({.operation = Operation::read, .sectors = 2});
  rig.io({.operation = Operation::flush});
  auto counters = rig.queue->counters();
  CHECK(counters.copy_calls == (path == DataPath::user_copy ? 2 : 0));
  CHECK(counters.enters == enters + 6);  // one brings the request, one takes its result
  if (path == DataPath::user_copy) {
    rig.driver.limit_copies(600);
    rig.io({.operation = Operation::read, .sectors = 2});
    CHECK(rig.queue->counters().copy_calls == 4);  // a copy that is cut short goes on with another call
  }
}

TEST_CASE("ring: its system calls are counted, also that a wait needs none", "[ublk]") {
  const auto ring = must(Ring::open(2, 8));
  CHECK(ring->enters() == 0);
  REQUIRE(ring->next(1) != nullptr);
  REQUIRE(ring->wait(std::chrono::seconds(10)) == Status::ok);
  CHECK(ring->enters() == 1);
  REQUIRE(ring->wait(std::chrono::seconds(10)) == Status::ok);  // the completion is still there
  CHECK(ring->enters() == 1);
  ring->advance(1);
  CHECK(ring->wait(milliseconds(1)) == Status::timeout);
  CHECK(ring->enters() == 2);
  for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(ring->next(i) != nullptr);  // the third does not fit
  CHECK(ring->enters() == 3);
}

TEST_CASE("ublk statistics: a reader on another thread sees only what was there", "[ublk]") {
  MemoryTarget target;
  QueueRig rig(target);
  std::atomic<bool> done{false};
  std::uint64_t looks = 0;
  std::thread reader([&] {
    std::uint64_t before = 0;
    for (bool last = false; !last; ++looks) {
      last = done.load();
      const auto seen = rig.queue->statistics();
      const auto count = seen.latencies.reads.count();
      must_hold(count >= before && seen.under_way.requests <= 4, "counts only grow");
      before = count;
    }
  });
  for (int i = 0; i < 500; ++i) rig.io({.operation = Operation::read, .sectors = 1});
  done = true;
  reader.join();
  CHECK(looks > 0);
  CHECK(rig.queue->statistics().latencies.reads.count() == 500);
}

}  // namespace sluice::test
