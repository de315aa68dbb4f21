// A publisher and subscribers of all policies as threads, on a ring so small that they meet all the time; some join
// and leave, the publisher changes. Under ThreadSanitizer this is the test of the memory orders.
#include "tests/unit/broadcast_rig.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t messages = 20'000;
constexpr std::uint32_t small_capacity = 16;

/// Stops everything when one thread has failed or hangs; Catch's macros are not for threads.
struct Watch {
  std::atomic<const char*> failure{nullptr};
  std::atomic<std::uint64_t> reads{0}, losses{0}, disconnections{0};
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::now() + 50s;

  bool fail(const char* what) {
    failure = what;
    return false;
  }
  bool going() {
    if (std::chrono::steady_clock::now() > deadline) fail("nothing moves any more");
    return failure.load() == nullptr;
  }
};

bool block_or_sleep(Watch& watch, Lane& lane, const WaitSource& source) {
  const std::array sources{source};
  while (watch.going())
    if (wait_any(lane, sources, 200ms)) return true;
  return false;
}

// Publishes all, in turns of a few hundred messages with the role given up in between.
void publish_all(Watch& watch, Session& session, QueueId queue) {
  const auto lane = must(session.claim_lane({.cells = 512}));
  std::uint64_t tail = 0;
  while (tail < messages && watch.going()) {
    auto publisher = must(Publisher::claim(*lane, queue));
    if (publisher.tail() != tail) watch.fail("another tail than the last publisher's");
    for (int i = 0; i < 300 && tail < messages && watch.going();) {
      const auto status = publish(*lane, publisher);
      if (status == Status::full) {
        if (!block_or_sleep(watch, *lane, publisher.room_source())) return;
        continue;
      }
      if (status != Status::ok) watch.fail("push");
      ++tail, ++i;
    }
    if (tail == messages) publisher.close();
  }
}

/// What one subscription has to keep: each position once, in order; gaps are those that were told.
class Listener {
 public:
  Listener(Watch& watch, Session& session, QueueId queue, SubscriberPolicy policy, std::uint64_t seed)
      : watch_(watch),
        lane_(must(session.claim_lane({.cells = 512}))),
        queue_(queue),
        policy_(policy),
        random_(seed) {}

  // From the first message, or where it is, to the last; with `leaves` again and again for a while.
  void run(bool leaves) {
    for (bool ended = false; !ended && watch_.going();) {
      const auto start = leaves ? Start::last(random_() % (small_capacity + 4)) : Start::at(0);
      auto joined = Subscriber::join(*lane_, queue_, {policy_, start});
      if (!joined) {
        watch_.fail("join");
        return;
      }
      ended = listen(*joined, leaves ? random_() % 100 : messages);
    }
    lane_->heap().flush();
  }

 private:
  // Whether the end was seen.
  bool listen(Subscriber& subscriber, std::uint64_t most) {
    auto next = subscriber.position();
    for (std::uint64_t i = 0; i < most && watch_.going();) {
      const auto lost = subscriber.lost();
      if (policy_ == SubscriberPolicy::block && random_() % 2 == 0) {
        if (const auto* message = subscriber.peek()) {
          if (message->position != next || message->length != bytes_of(next)) return watch_.fail("peek");
          if (message->length != 0 && !has_pattern(subscriber.bytes(*message), next))
            return watch_.fail("bytes in place");
          if (subscriber.advance() != Status::ok) return watch_.fail("advance");
          ++next, ++i;
          continue;
        }
      }
      const auto delivery = subscriber.take();
      if (!delivery) {
        if (delivery.error() == Status::closed) return true;
        if (delivery.error() == Status::disconnected && policy_ == SubscriberPolicy::disconnect) {
          ++watch_.disconnections;
          return false;
        }
        if (delivery.error() != Status::empty) return watch_.fail("take");
        next += subscriber.lost() - lost;
        if (!block_or_sleep(watch_, *lane_, subscriber.messages())) return false;
        continue;
      }
      next += subscriber.lost() - lost;
      if (!is_delivery(lane_->heap(), *delivery, next)) return watch_.fail("another message");
      if (delivery->reference && lane_->heap().release(delivery->reference) != Status::ok)
        return watch_.fail("release");
      ++next, ++i, ++watch_.reads;
      if (policy_ != SubscriberPolicy::block && random_() % 64 == 0) std::this_thread::sleep_for(50us);
    }
    if (policy_ != SubscriberPolicy::lose_oldest && subscriber.lost() != 0) return watch_.fail("lost");
    watch_.losses += subscriber.lost();
    return false;
  }

  Watch& watch_;
  std::unique_ptr<Lane> lane_;
  QueueId queue_;
  SubscriberPolicy policy_;
  std::mt19937_64 random_;
};

}  // namespace

TEST_CASE("broadcast: threads of all policies get every message, in order, but for losses that are told",
          "[ipc][threads]") {
  must(register_waiter());
  using enum SubscriberPolicy;
  Rig rig(small_options(32));
  const auto queue = must(create_broadcast(*rig.lane, "b", {small_capacity, 6}));
  Watch watch;
  struct Part {
    SubscriberPolicy policy;
    bool leaves;
  };
  constexpr std::array parts{Part{block, false}, Part{lose_oldest, false}, Part{block, true},
                             Part{lose_oldest, true}, Part{disconnect, true}};
  {
    std::vector<std::unique_ptr<Listener>> listeners;
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < parts.size(); ++i)
      listeners.push_back(std::make_unique<Listener>(watch, rig.session, queue, parts[i].policy, i));
    for (std::size_t i = 0; i < parts.size(); ++i)
      threads.emplace_back([&, i] { listeners[i]->run(parts[i].leaves); });
    // The one that must see everything is there before anything is published.
    while (watch.going() && load(sound_ring(rig.segment(), queue_row(rig.segment(), queue.index))
                                     ->subscribers[parts.size() - 1]
                                     .joins,
                                 acquire) == 0)
      std::this_thread::yield();
    publish_all(watch, rig.session, queue);
  }
  CAPTURE(watch.failure.load(), watch.reads.load(), watch.losses.load(), watch.disconnections.load());
  CHECK(watch.failure.load() == nullptr);
  auto publisher = must(Publisher::claim(*rig.lane, queue));
  CHECK(publisher.tail() == messages);
  must(publisher.trim(0));
  rig.heap().flush();
  for (const auto& violation : audit(rig.segment()).violations) FAIL_CHECK("audit: " << violation.what);
  for (const auto& line : take_census(rig.segment()).contradictions()) FAIL_CHECK("census: " << line);
  CHECK(take_census(rig.segment()).live.empty());
}

}  // namespace sluice::test
