// A broadcast against the plainest model: positions in a list.
#include "tests/unit/broadcast_rig.hpp"

#include <algorithm>
#include <deque>
#include <random>

namespace sluice::test {

using enum SubscriberPolicy;

namespace {

// What a subscriber must see, from the positions alone.
struct Reader {
  Subscriber subscriber;
  SubscriberPolicy policy;
  std::uint64_t position;
};

}  // namespace

TEST_CASE("broadcast: random steps of many agree with a plain list of messages", "[ipc]") {
  const auto seed = GENERATE(range(1, 9));
  CAPTURE(seed);
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  BroadcastRig rig({broadcast_capacity, 5});
  auto publisher = rig.publisher();
  std::deque<Reader> readers;
  std::uint64_t tail = 0;
  for (int step = 0; step < 3000; ++step) {
    CAPTURE(step);
    const auto act = random() % 100;
    const auto chosen = readers.empty() ? 0 : random() % readers.size();
    if (act < 45) {
      bool held = tail - publisher.floor() == broadcast_capacity;
      const auto oldest = publisher.floor();
      held = held && std::ranges::any_of(readers, [&](const Reader& reader) {
               return reader.policy == block && reader.position <= oldest;
             });
      for (const auto& reader : readers)
        if (reader.policy == disconnect && !held && tail - reader.position == broadcast_capacity)
          REQUIRE_FALSE(reader.subscriber.disconnected());
      REQUIRE(publish(*rig.lane, publisher) == (held ? Status::full : Status::ok));
      if (!held) ++tail;
      REQUIRE(publisher.tail() == tail);
      REQUIRE(tail - publisher.floor() <= broadcast_capacity);
    } else if (act < 85 && !readers.empty()) {
      auto& reader = readers[chosen];
      if (reader.policy == disconnect && reader.position < publisher.floor()) {
        REQUIRE(reader.subscriber.take().error() == Status::disconnected);
        readers.erase(readers.begin() + static_cast<std::ptrdiff_t>(chosen));
        continue;
      }
      REQUIRE_FALSE(reader.subscriber.disconnected());
      if (reader.position == tail) {
        REQUIRE(reader.subscriber.take().error() == Status::empty);
        continue;
      }
      const auto lost = std::max(publisher.floor(), reader.position) - reader.position;
      REQUIRE((lost == 0 || reader.policy == lose_oldest));
      const auto lost_before = reader.subscriber.lost();
      reader.position += lost;
      REQUIRE(rig.takes(reader.subscriber, reader.position++));
      REQUIRE(reader.subscriber.lost() == lost_before + lost);
    } else if (act < 92) {
      const auto policy = static_cast<SubscriberPolicy>(random() % 3);
      const auto ask = random() % 20;
      const auto start = random() % 2 == 0 ? Start::last(ask) : Start::at(tail < 10 ? 0 : tail - 10 + ask);
      auto joined = Subscriber::join(*rig.other, rig.queue, {policy, start});
      REQUIRE(joined.has_value() == (readers.size() < 5));
      if (!joined) continue;
      const auto wanted =
          start.from == Start::From::last ? tail - std::min(ask, tail) : std::min(start.value, tail);
      REQUIRE(joined->position() == std::max(wanted, rig.row().floor_next));
      REQUIRE(joined->missed() == joined->position() - wanted);
      const auto position = joined->position();
      readers.push_back({std::move(*joined), policy, position});
    } else if (act < 97 && !readers.empty()) {
      readers.erase(readers.begin() + static_cast<std::ptrdiff_t>(chosen));
    } else {
      publisher = {};
      publisher = rig.publisher();
    }
    if (step % 100 == 0) rig.check_sound();
  }
}

}  // namespace sluice::test
