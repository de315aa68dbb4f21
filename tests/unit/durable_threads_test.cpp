// Threads that want the same durable subscription: one has it at a time, and what one leaves the next one finds. Under
// ThreadSanitizer this is the test of the memory orders.
#include "tests/unit/durable_rig.hpp"

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;
using enum SubscriberPolicy;

constexpr std::size_t rivals = 3;
constexpr std::uint64_t messages = 10'000;

/// What they have to agree on. Catch's macros are not for threads.
struct Agreement {
  std::atomic<const char*> failure{nullptr};
  std::atomic<std::uint64_t> next{0}, shown{0}, turns{0}, refusals{0}, marked{0};
  std::atomic<int> owners{0};
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::now() + 50s;

  void fail(const char* what) { failure = what; }
  bool going() {
    if (std::chrono::steady_clock::now() > deadline) fail("nothing moves any more");
    return failure.load() == nullptr;
  }
};

// Read some, in place, and leave in the middle of one.
void have_a_turn(Agreement& agreed, Subscriber& subscriber, std::uint64_t most) {
  if (agreed.owners++ != 0) agreed.fail("two have it");
  if (subscriber.position() != agreed.next) agreed.fail("it begins elsewhere");
  if (subscriber.lost() + subscriber.missed() != 0) agreed.fail("lost");
  for (std::uint64_t i = 0; agreed.going(); ++i) {
    const bool is_marked = subscriber.redelivered();
    const auto* message = subscriber.peek();
    if (message == nullptr) break;
    const auto number = agreed.next.load();
    if (message->position != number) agreed.fail("another message");
    if (message->length != 0 && !has_pattern(subscriber.bytes(*message), number)) agreed.fail("its bytes");
    if (is_marked != (number < agreed.shown)) agreed.fail("the mark");
    if (is_marked) ++agreed.marked;
    agreed.shown = number + 1;
    if (i == most) break;
    ++agreed.next;
    if (subscriber.advance() != Status::ok) agreed.fail("advance");
  }
  ++agreed.turns;
  --agreed.owners;
}

void compete(Agreement& agreed, Session& session, QueueId queue, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto lane = must(session.claim_lane());
  while (agreed.going() && agreed.next < messages) {
    auto subscriber = Subscriber::join(*lane, queue, {block, Start::at(0), durable_name});
    if (subscriber) {
      have_a_turn(agreed, *subscriber, random() % 20);
      subscriber->leave();
    } else if (subscriber.error() == Status::busy) {
      ++agreed.refusals;
    } else {
      agreed.fail("join");
    }
    std::this_thread::yield();
  }
}

}  // namespace

TEST_CASE(
    "durable: threads that take turns at one subscription read every message, and are told of those shown before",
    "[ipc][threads]") {
  must(register_waiter());
  Rig rig(small_options(32));
  const auto queue = must(create_broadcast(*rig.lane, "b", {16, 4}));
  must(ensure_subscription(*rig.lane, queue, {block, {}, durable_name}));
  Agreement agreed;
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < rivals; ++i)
      threads.emplace_back([&, i] { compete(agreed, rig.session, queue, i); });
    auto publisher = must(Publisher::claim(*rig.lane, queue));
    while (agreed.going() && publisher.tail() < messages) {
      const auto status = publish(*rig.lane, publisher);
      if (status == Status::full)
        std::this_thread::yield();
      else if (status != Status::ok)
        agreed.fail("publish");
    }
  }
  CAPTURE(agreed.failure.load(), agreed.turns.load(), agreed.refusals.load(), agreed.marked.load());
  CHECK(agreed.failure.load() == nullptr);
  CHECK(agreed.next == messages);
  CHECK(agreed.turns > 100);
  CHECK(agreed.marked > 10);
  for (const auto& violation : audit(rig.segment()).violations) FAIL_CHECK("audit: " << violation.what);
}

TEST_CASE("durable: of threads that make one name at once exactly one has it", "[ipc][threads]") {
  Rig rig(small_options(32));
  constexpr std::uint64_t rounds = 2000;
  const auto queue = must(create_broadcast(*rig.lane, "b", {16, 8}));
  std::atomic<std::uint64_t> winners{0}, others{0};
  std::atomic<const char*> failure{nullptr};
  std::barrier line(static_cast<std::ptrdiff_t>(rivals));
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < rivals; ++i)
      threads.emplace_back([&] {
        const auto lane = must(rig.session.claim_lane());
        for (std::uint64_t round = 0; round < rounds; ++round) {
          line.arrive_and_wait();
          auto subscriber = Subscriber::join(*lane, queue, {block, {}, durable_name});
          if (!subscriber && subscriber.error() != Status::busy) failure = "join";
          ++(subscriber ? winners : others);
          line.arrive_and_wait();
          if (subscriber) subscriber->unsubscribe();
        }
      });
  }
  CHECK(failure.load() == nullptr);
  CHECK(winners == rounds);
  CHECK(others == rounds * (rivals - 1));
  const auto ring = sound_ring(rig.segment(), queue_row(rig.segment(), queue.index)).value();
  for (const auto& row : ring.subscribers) CHECK(row.claim == 0);
}

}  // namespace sluice::test
