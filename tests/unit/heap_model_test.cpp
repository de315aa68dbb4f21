// Thousands of random operations beside a map that says what must be true.
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cmath>
#include <map>
#include <random>

namespace sluice::test {

namespace {

class HeapModel {
 public:
  explicit HeapModel(std::uint64_t seed)
      : random_(seed), rig_(small_options(64), Place::shared_memory, options) {
    lanes_.push_back(std::move(rig_.lane));
    lanes_.push_back(rig_.another_lane(options));
    lanes_.push_back(rig_.another_lane(options));
    stream_ = must(create_stream(*lanes_[0], "moves", 64));
  }

  void step() {
    switch (below(20)) {
      case 0: return move_one();
      case 1: return lanes_[below(lanes_.size())]->heap().flush();
      case 2:
        if (below(50) == 0) return replace_lane();
        [[fallthrough]];
      default:
        if (below(1000) < grow_bias_) return allocate();
        release_one();
    }
    if (below(2000) == 0) grow_bias_ = 350 + below(300);
  }

  void check() {
    for (auto& lane : lanes_) lane->heap().flush();
    for (const auto& violation : audit(rig_.segment()).violations) FAIL_CHECK("audit: " << violation.what);
    const auto census = take_census(rig_.segment());
    for (const auto& line : census.contradictions()) FAIL_CHECK("census: " << line);
    REQUIRE(census.live.size() == held_.size());
    for (const auto& [handle, held] : held_) {
      CHECK(census.live.contains(handle));
      CHECK(has_pattern(bytes_of(handle, held), handle));
    }
  }

  void release_all() {
    while (!held_.empty()) release_one();
  }

  std::uint64_t allocations() const noexcept { return allocations_; }

 private:
  static constexpr LaneOptions options{.cells = 4096};
  struct Held {
    std::size_t lane;
    Reference reference;
    std::size_t bytes;
  };

  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  // Every power of two is as likely as the next.
  std::size_t random_size() {
    const auto bits = std::uniform_real_distribution<double>(0, 19)(random_);
    return static_cast<std::size_t>(std::exp2(bits));
  }

  std::span<std::byte> bytes_of(std::uint64_t, const Held& held) {
    return lanes_[held.lane]->heap().bytes(held.reference).first(held.bytes);
  }

  void allocate() {
    const auto lane = below(lanes_.size());
    const auto bytes = random_size();
    const auto reference = lanes_[lane]->heap().allocate(bytes);
    if (!reference) {
      REQUIRE((reference.error() == Status::exhausted || reference.error() == Status::no_cell));
      return release_one();
    }
    const auto handle = reference->handle.value;
    REQUIRE_FALSE(held_.contains(handle));
    REQUIRE(dead_.count(handle) == 0);
    const auto& held = held_[handle] = Held{lane, *reference, bytes};
    fill_pattern(bytes_of(handle, held), handle);
    ++allocations_;
  }

  auto any() {
    auto found = held_.lower_bound(random_());
    return found == held_.end() ? held_.begin() : found;
  }

  void release_one() {
    if (held_.empty()) return;
    const auto [handle, held] = *any();
    REQUIRE(has_pattern(bytes_of(handle, held), handle));
    REQUIRE(lanes_[held.lane]->heap().release(held.reference) == Status::ok);
    REQUIRE(lanes_[held.lane]->heap().release(held.reference) == Status::stale);
    REQUIRE_FALSE(find_block(rig_.segment(), Handle{handle}).has_value());
    held_.erase(handle);
    dead_.emplace(handle, 0);
    if (dead_.size() > 5000) dead_.erase(any_dead());
  }

  std::map<std::uint64_t, int>::iterator any_dead() {
    auto found = dead_.lower_bound(random_());
    return found == dead_.end() ? dead_.begin() : found;
  }

  void move_one() {
    if (held_.empty()) return;
    auto& held = any()->second;
    const auto to = (held.lane + 1 + below(lanes_.size() - 1)) % lanes_.size();
    auto producer = must(StreamProducer::claim(*lanes_[held.lane], stream_));
    auto consumer = must(StreamConsumer::claim(*lanes_[to], stream_));
    REQUIRE(producer.push(Message{}, held.reference) == Status::ok);
    REQUIRE(consumer.peek() != nullptr);
    const auto moved = consumer.pop();
    if (!moved) {
      REQUIRE(moved.error() == Status::no_cell);
      consumer = {};
      consumer = must(StreamConsumer::claim(*lanes_[held.lane], stream_));
      REQUIRE(consumer.peek() != nullptr);
      held.reference = must(consumer.pop());
      return;
    }
    REQUIRE(moved->handle == held.reference.handle);
    held.reference = *moved;
    held.lane = to;
  }

  // What the lane holds dies with it; its slabs are adopted by the others.
  void replace_lane() {
    const auto lane = below(lanes_.size());
    std::erase_if(held_, [&](const auto& entry) { return entry.second.lane == lane; });
    lanes_[lane].reset();
    lanes_[lane] = rig_.another_lane(options);
  }

  std::mt19937_64 random_;
  Rig rig_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  QueueId stream_;
  std::map<std::uint64_t, Held> held_;
  std::map<std::uint64_t, int> dead_;
  std::uint64_t grow_bias_ = 550;  // of 1000 operations, how many allocate
  std::uint64_t allocations_ = 0;
};

}  // namespace

TEST_CASE("heap: random operations of three lanes agree with a map", "[shm][model]") {
  const auto seed = GENERATE(1U, 2U, 3U, 4U);
  CAPTURE(seed);
  HeapModel model(seed);
  for (int i = 0; i < 12'000; ++i) {
    model.step();
    if (i % 3000 == 0) model.check();
  }
  model.check();
  CHECK(model.allocations() > 3000);
  model.release_all();
  model.check();
}

}  // namespace sluice::test
