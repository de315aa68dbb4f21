// Lanes as threads: blocks go round through streams and are freed far from where they were born. Run under
// ThreadSanitizer, this is the test of the memory orders.
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t threads = 3;
constexpr std::uint64_t messages_each = 4000;
constexpr std::size_t size_max = 3000;

/// Stops everything when one thread has failed or hangs; Catch's macros are not for threads.
struct Watch {
  std::atomic<const char*> failure{nullptr};
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::now() + 40s;

  bool fail(const char* what) {
    failure = what;
    return false;
  }
  bool going() {
    if (std::chrono::steady_clock::now() > deadline) fail("nothing moves any more");
    return failure.load() == nullptr;
  }
};

/// Thread i produces for stream i and consumes from stream i - 1, whose blocks it frees as a stranger.
class Participant {
 public:
  Participant(Session& session, const std::array<QueueId, threads>& streams, std::size_t index, Watch& watch)
      : lane_(must(session.claim_lane({.cells = 512}))),
        producer_(must(StreamProducer::claim(*lane_, streams[index]))),
        consumer_(must(StreamConsumer::claim(*lane_, streams[(index + threads - 1) % threads]))),
        watch_(watch),
        random_(index) {}

  void run() {
    while (watch_.going() && (sent_ < messages_each || received_ < messages_each)) {
      for (int i = 0; i < 100; ++i) {
        const bool moved = (sent_ < messages_each && send()) | (received_ < messages_each && receive());
        if (!moved) std::this_thread::yield();
      }
      lane_->heap().flush();
    }
  }

 private:
  bool send() {
    if (producer_.room() == 0) return false;
    const auto bytes = 1 + random_() % size_max;
    const auto reference = lane_->heap().allocate(bytes);
    if (!reference) return reference.error() == Status::exhausted ? false : watch_.fail("allocation");
    fill_pattern(lane_->heap().bytes(*reference).first(bytes), sent_);
    Message message{};
    message.length = static_cast<std::uint32_t>(bytes);
    message.position = sent_;
    if (producer_.push(message, *reference) != Status::ok) return watch_.fail("push");
    ++sent_;
    return true;
  }

  bool receive() {
    const auto* message = consumer_.peek();
    if (message == nullptr) return false;
    if (message->position != received_) return watch_.fail("order");
    const auto length = message->length;
    const auto reference = consumer_.pop();
    if (!reference) return watch_.fail("pop");
    if (!has_pattern(lane_->heap().bytes(*reference).first(length), received_)) return watch_.fail("bytes");
    if (lane_->heap().release(*reference) != Status::ok) return watch_.fail("release");
    ++received_;
    return true;
  }

  std::unique_ptr<Lane> lane_;
  StreamProducer producer_;
  StreamConsumer consumer_;
  Watch& watch_;
  std::mt19937_64 random_;
  std::uint64_t sent_ = 0, received_ = 0;
};

void check_sound(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit: " << violation.what);
  for (const auto& line : take_census(segment).contradictions()) FAIL_CHECK("census: " << line);
  CHECK(take_census(segment).live.empty());
}

}  // namespace

TEST_CASE("threads: blocks passed round a ring of lanes arrive whole, and all come back", "[ipc][threads]") {
  Rig rig(small_options(24), Place::shared_memory, {.cells = 32768});
  std::array<QueueId, threads> streams;
  for (std::size_t i = 0; i < threads; ++i)
    streams[i] = must(create_stream(*rig.lane, "s" + std::to_string(i), 64));
  Watch watch;
  {
    std::vector<std::jthread> running;
    for (std::size_t i = 0; i < threads; ++i)
      running.emplace_back([&, i] {
        try {
          Participant(rig.session, streams, i, watch).run();
        } catch (const std::exception&) {
          watch.fail("exception");
        }
      });
  }
  if (watch.failure.load() != nullptr) FAIL(watch.failure.load());
  check_sound(rig.segment());
  CHECK(capacity_for(*rig.lane, unit_bytes) == capacity_expected(rig.segment(), unit_bytes));
}

TEST_CASE("threads: lanes that fight for the last units get all of them between them", "[shm][threads]") {
  Rig rig(small_options(16));
  Watch watch;
  std::atomic<std::uint64_t> held{0}, peak{0}, refused{0};
  {
    std::vector<std::jthread> running;
    for (std::size_t i = 0; i < threads; ++i)
      running.emplace_back([&, i] {
        const auto lane = must(rig.session.claim_lane());
        std::mt19937_64 random(i);
        std::vector<std::pair<Reference, std::uint64_t>> mine;
        for (int step = 0; step < 3000 && watch.going(); ++step) {
          const auto units = 1 + random() % 5;
          const auto reference = lane->heap().allocate(units * unit_bytes);
          if (reference) {
            const auto now = held.fetch_add(units) + units;
            if (now > 16) watch.fail("more units than there are");
            peak.store(std::max(peak.load(), now));
            mine.emplace_back(*reference, units);
            lane->heap().bytes(*reference)[0] = static_cast<std::byte>(i);
          } else {
            ++refused;
          }
          while (!mine.empty() && (!reference || mine.size() > 3)) {
            const auto [old, size] = mine.back();
            mine.pop_back();
            if (lane->heap().bytes(old)[0] != static_cast<std::byte>(i))
              watch.fail("shared with another lane");
            held.fetch_sub(size);
            must(lane->heap().release(old));
          }
        }
        for (const auto& [old, size] : mine) {
          held.fetch_sub(size);
          must(lane->heap().release(old));
        }
      });
  }
  if (watch.failure.load() != nullptr) FAIL(watch.failure.load());
  CHECK(peak.load() > 8);
  check_sound(rig.segment());
  CHECK(rig.heap().allocate(16 * unit_bytes).has_value());
}

TEST_CASE("threads: lanes come and go while others use what they left", "[ipc][threads]") {
  Rig rig(small_options(16));
  Watch watch;
  {
    std::vector<std::jthread> running;
    for (std::size_t i = 0; i < threads; ++i)
      running.emplace_back([&, i] {
        std::mt19937_64 random(i);
        for (int life = 0; life < 40 && watch.going(); ++life) {
          const auto lane = must(rig.session.claim_lane({.cells = 256}));
          std::vector<Reference> mine;
          for (int step = 0; step < 200; ++step) {
            const auto bytes = 1 + random() % 40'000;
            const auto reference = lane->heap().allocate(bytes);
            if (reference) {
              fill_pattern(lane->heap().bytes(*reference).first(1), reference->handle.value);
              mine.push_back(*reference);
            }
            if (!reference || mine.size() > 6) {
              if (mine.empty()) continue;
              if (!has_pattern(lane->heap().bytes(mine.back()).first(1), mine.back().handle.value))
                watch.fail("bytes");
              if (lane->heap().release(mine.back()) != Status::ok) watch.fail("release");
              mine.pop_back();
            }
          }
        }
      });
  }
  if (watch.failure.load() != nullptr) FAIL(watch.failure.load());
  check_sound(rig.segment());
  CHECK(capacity_for(*rig.lane, unit_bytes) == 16);
}

}  // namespace sluice::test
