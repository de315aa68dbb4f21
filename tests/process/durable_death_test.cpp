// A durable subscriber that is killed again and again, at any instruction, while its publisher goes on.
#include "ipc/audit.hpp"
#include "ipc/broadcast.hpp"
#include "ipc/subscription.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr int deaths = 200;
constexpr std::size_t notes_max = 1U << 20;
constexpr std::string_view name = "stage";

/// What was delivered, in order, by whoever was there to be given it: the number, and whether it was marked.
struct Notes {
  std::atomic<std::uint64_t> count{0};
  std::atomic<std::uint64_t> faults{0};
  std::atomic<std::uint64_t> number[notes_max];
  std::atomic<bool> marked[notes_max];

  void note(std::uint64_t message, bool is_marked) {
    const auto i = count.load();
    if (i == notes_max) return;
    number[i] = message;
    marked[i] = is_marked;
    count = i + 1;
  }
};

// Half of the messages have a block.
std::uint32_t bytes_of(std::uint64_t number) {
  return number % 2 == 0 ? 0 : static_cast<std::uint32_t>(100 + number % 1000);
}

Status publish_next(Lane& lane, Publisher& publisher) {
  if (publisher.room() == 0) return Status::full;
  Message message{};
  message.kind = MessageKind::user;
  message.position = publisher.tail();
  message.length = bytes_of(message.position);
  if (message.length == 0) return publisher.push(message);
  const auto block = must(lane.heap().allocate(message.length));
  fill_pattern(lane.heap().bytes(block).first(message.length), message.position);
  return publisher.push(message, block);
}

// Reads in place until it is killed, or until the publisher has closed.
void be_the_stage(const std::string& path, Notes& notes, ChildLink& link) {
  auto session = must(Session::open(path, "stage"));
  const auto lane = must(session.claim_lane());
  auto subscriber = must(Subscriber::join(*lane, must(find_queue(session.segment(), "numbers")),
                                          {SubscriberPolicy::block, {}, name}));
  link.ready();
  while (!subscriber.ended()) {
    const bool is_marked = subscriber.redelivered();
    const auto* message = subscriber.peek();
    if (message == nullptr) {
      std::this_thread::yield();
      continue;
    }
    const bool is_whole =
        message->length == bytes_of(message->position) &&
        (message->length == 0 || has_pattern(subscriber.bytes(*message), message->position));
    if (!is_whole) ++notes.faults;
    notes.note(message->position, is_marked);
    for (int i = 0; i < 2000; ++i) cpu_relax();  // it works on it: most deaths are here
    must(subscriber.advance());
  }
}

}  // namespace

TEST_CASE("durable: a subscriber that is killed 200 times misses nothing, and what comes twice is marked",
          "[process]") {
  TempSegment file(small_options(32));
  auto session = must(Session::open(file.path(), "publisher"));
  const auto lane = must(session.claim_lane());
  const auto queue = must(create_broadcast(*lane, "numbers", {64, 4}));
  must(ensure_subscription(*lane, queue, {SubscriberPolicy::block, {}, name}));
  auto publisher = must(Publisher::claim(*lane, queue));
  SharedWithChildren<Notes> notes;
  const auto ring = sound_ring(session.segment(), queue_row(session.segment(), queue.index)).value();
  const auto& row = ring.subscribers[0];
  std::uint64_t in_hand = 0, noted = 0;
  std::mt19937_64 random(7);
  const auto publish_for = [&](std::chrono::microseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end)
      if (publish_next(*lane, publisher) == Status::full) std::this_thread::yield();
  };
  for (int i = 0; i < deaths; ++i) {
    CAPTURE(i);
    Child stage([&](ChildLink& link) { be_the_stage(file.path(), *notes, link); });
    REQUIRE(stage.wait_ready());
    publish_for(std::chrono::microseconds(random() % 5000));
    stage.send(SIGKILL);
    REQUIRE(stage.wait().signal == SIGKILL);
    // It died with the last one that it noted in hand, if the cursor is not past that.
    if (notes->count != noted && notes->number[notes->count - 1] + 1 == load(row.cursor, acquire)) ++in_hand;
    noted = notes->count;
    publish_for(std::chrono::microseconds(random() % 100));  // nobody is there
    if (i % 10 != 0) continue;
    REQUIRE(session.recover_dead().disagreements.empty());
    for (const auto& violation : audit(session.segment()).violations) FAIL_CHECK("audit: " << violation.what);
  }
  publisher.close();
  Child last([&](ChildLink& link) { be_the_stage(file.path(), *notes, link); });
  REQUIRE(last.wait().code == 0);

  CHECK(notes->faults == 0);
  REQUIRE(notes->count > 1000);
  REQUIRE(notes->count < notes_max);
  std::uint64_t next = 0, again = 0;
  for (std::size_t i = 0; i < notes->count; ++i) {
    const auto number = notes->number[i].load();
    const bool is_again = i != 0 && number + 1 == next;
    REQUIRE((number == next || is_again));
    if (is_again) REQUIRE(notes->marked[i]);
    again += is_again ? 1 : 0;
    next = number + 1;
  }
  CHECK(next == publisher.tail());
  CHECK(again == in_hand);
  CHECK(again > 0);  // else no kill came between
  must(unsubscribe(*lane, queue, name));
  must(publisher.trim(0));
  lane->heap().flush();
  for (const auto& violation : audit(session.segment()).violations) FAIL_CHECK("audit: " << violation.what);
  CHECK(take_census(session.segment()).live.empty());
}

}  // namespace sluice::test
