// Starting on what others left: a table full of the dead, whatever they were doing, and lock files in every state.
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "shm/sidecar.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr std::array deaths = {"block.allocate.announced", "block.clone.counted",  "block.drop.dropped",
                               "run.take.reserved_one",    "run.free.freeing",     "stream.push.filled",
                               "stream.pop.advanced",      "queue.create.storage", "process.leave.leaving"};

// Passes every point of `deaths`, on a stream of its own.
void work(Session& session, std::unique_ptr<Lane>& lane, const std::string& stream) {
  const auto queue = must(create_stream(*lane, stream, 8));
  auto producer = must(StreamProducer::claim(*lane, queue));
  auto consumer = must(StreamConsumer::claim(*lane, queue));
  const auto block = must(lane->heap().allocate(100));
  const auto other = must(lane->heap().clone(block));
  must(lane->heap().release(other));
  must(lane->heap().release(must(lane->heap().allocate(2 * unit_bytes))));
  must(producer.push(Message{}, block));
  must_hold(consumer.peek() != nullptr, "the message is there");
  must(consumer.pop());
  { const auto gone = std::move(producer); }
  { const auto gone = std::move(consumer); }
  lane.reset();
  session.leave();
}

}  // namespace

TEST_CASE("start: several at once open a table full of dead rows in time, whatever the dead were doing",
          "[process]") {
  auto options = small_options(256);
  options.processes = 28;  // one of them for recovery
  options.lanes = 40;
  options.queues = 40;
  const TempSegment file(options);
  std::vector<std::unique_ptr<Child>> dying;
  for (std::size_t i = 0; i < 27; ++i) {
    dying.push_back(std::make_unique<Child>([&](ChildLink& link) {
      auto session = must(Session::open(file.path(), "dying"));
      auto lane = must(session.claim_lane());
      link.ready();
      link.wait_go();
      kill_self_at(deaths[i % deaths.size()]);
      work(session, lane, "stream-" + std::to_string(i));
    }));
    REQUIRE(dying.back()->wait_ready());
  }
  for (const auto& child : dying) child->go();
  for (std::size_t i = 0; i < dying.size(); ++i) {
    const auto ended = dying[i]->wait();
    CAPTURE(deaths[i % deaths.size()], ended.code);
    CHECK(ended.signal == SIGKILL);
  }
  // And the last row: a recoverer that died in it, having claimed one of the dead.
  CHECK(run_child([&] {
          kill_self_at("recover.process.claimed");
          must(Session::open(file.path(), "recoverer"));
        }).signal == SIGKILL);
  struct Report {
    std::atomic<bool> begin{false};
    std::atomic<std::uint64_t> longest_ms{0};
  };
  SharedWithChildren<Report> shared;
  std::vector<std::unique_ptr<Child>> openers;
  for (int i = 0; i < 5; ++i)
    openers.push_back(std::make_unique<Child>([&](ChildLink& link) {
      link.ready();
      while (!shared->begin) ::usleep(100);
      const auto from = std::chrono::steady_clock::now();
      auto session = must(Session::open(file.path(), "opener"));
      must(must(session.claim_lane())->heap().allocate(1000));
      const auto took =
          std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - from);
      auto longest = shared->longest_ms.load();
      while (longest < static_cast<std::uint64_t>(took.count()) &&
             !shared->longest_ms.compare_exchange_weak(longest, static_cast<std::uint64_t>(took.count()))) {}
    }));
  for (const auto& opener : openers) REQUIRE(opener->wait_ready());
  shared->begin = true;
  for (const auto& opener : openers) CHECK(opener->wait().code == 0);
  CHECK(shared->longest_ms < 4000);
  auto session = must(Session::open(file.path(), "last"));
  CHECK(session.recover_dead().processes == 0);
  for (const auto& violation : audit(session.segment()).violations) FAIL_CHECK("audit: " << violation.what);
  CHECK(audit(session.segment()).counts.lanes_active == 0);
  CHECK(take_census(session.segment()).contradictions().empty());
}

TEST_CASE(
    "lock file: it has the segment's mode whatever the umask, so that who may write the segment may join",
    "[process]") {
  const TempDirectory directory;
  const auto path = directory.file("segment");
  CHECK(run_child([&] {
          ::umask(077);
          auto options = small_options();
          options.mode = 0666;
          must(Segment::create(path, options));
        }).code == 0);
  struct stat info{};
  REQUIRE(::stat(sidecar_path(path).c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0666);
}

}  // namespace sluice::test
