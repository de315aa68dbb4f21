// Real processes that die at any moment, not only at named points; and many that find them at once.
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

void check_sound(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit: " << violation.what);
  for (const auto& line : take_census(segment).contradictions()) FAIL_CHECK("census: " << line);
}

std::size_t random_size(std::mt19937_64& random) {
  const std::size_t sizes[] = {64, 200, 1000, 4096, 20000, unit_bytes, 3 * unit_bytes};
  return sizes[random() % 7];
}

// Allocates, moves and frees for ever.
void churn(const std::string& path, std::uint64_t seed, const std::function<void()>& started) {
  std::mt19937_64 random(seed);
  auto session = must(Session::open(path, "churner"));
  const auto lane = must(session.claim_lane());
  const auto queue = must(find_or_create_stream(*lane, "moves", 16));
  auto producer = must(StreamProducer::claim(*lane, queue));
  auto consumer = must(StreamConsumer::claim(*lane, queue));
  std::vector<Reference> held;
  started();
  for (;;) {
    const auto what = random() % 8;
    if (what < 4) {
      if (const auto reference = lane->heap().allocate(random_size(random))) held.push_back(*reference);
    }
    if (what == 4 && !held.empty() && producer.push(Message{}, held.back()) == Status::ok) held.pop_back();
    if (what == 5 && consumer.peek() != nullptr) held.push_back(must(consumer.pop()));
    if ((what == 6 || held.size() > 12) && !held.empty()) {
      must(lane->heap().release(held.front()));
      held.erase(held.begin());
    }
    if (what == 7) {
      lane->heap().flush();
      if (consumer.peek() != nullptr) must(consumer.acknowledge());
    }
  }
}

}  // namespace

TEST_CASE("recovery: a process killed at any moment is recovered, again and again on one segment",
          "[process]") {
  const TempSegment file(small_options(48));
  auto session = must(Session::open(file.path(), "survivor"));
  std::mt19937_64 random(1);
  for (std::uint64_t round = 0; round < 60; ++round) {
    CAPTURE(round);
    Child victim([&](ChildLink& link) { churn(file.path(), round, [&] { link.ready(); }); });
    REQUIRE(victim.wait_ready());
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    victim.kill_and_wait();
    const auto report = session.recover_dead();
    CHECK(report.processes == 1);
    CHECK(report.lanes == 1);
    CHECK(report.disagreements.empty());
    CHECK(session.recover_dead().processes == 0);
    check_sound(session.segment());
    const auto waiting = audit(session.segment()).counts.queue_messages;
    CHECK(take_census(session.segment()).live.size() == waiting);
  }
  const auto lane = must(session.claim_lane({.cells = 32768}));
  const auto queue = must(find_queue(session.segment(), "moves"));
  auto consumer = must(StreamConsumer::claim(*lane, queue));
  while (consumer.peek() != nullptr) must(consumer.acknowledge());
  CHECK(capacity_for(*lane, unit_bytes) == capacity_expected(session.segment(), unit_bytes));
  CHECK(capacity_for(*lane, 20480) == capacity_expected(session.segment(), 20480));
}

TEST_CASE("recovery: several processes that find one dead share the work without doing any twice",
          "[process]") {
  for (int round = 0; round < 15; ++round) {
    const TempSegment file(small_options(48));
    Child victim([&](ChildLink& link) {
      auto session = must(Session::open(file.path(), "victim"));
      std::vector<std::unique_ptr<Lane>> lanes;
      for (int i = 0; i < 3; ++i) {
        lanes.push_back(must(session.claim_lane()));
        for (int block = 0; block < 40; ++block) must(lanes.back()->heap().allocate(20'000));
      }
      link.ready();
      link.wait_go();
    });
    REQUIRE(victim.wait_ready());
    struct Shared {
      std::atomic<std::uint32_t> processes{0}, lanes{0}, references{0};
      std::atomic<bool> begin{false};
    };
    SharedWithChildren<Shared> shared;
    std::vector<std::unique_ptr<Child>> recoverers;
    for (int i = 0; i < 3; ++i)
      recoverers.push_back(std::make_unique<Child>([&](ChildLink& link) {
        auto session = must(Session::open(file.path(), "recoverer"));
        link.ready();
        while (!shared->begin) std::this_thread::yield();
        const auto report = session.recover_dead();
        shared->processes += report.processes;
        shared->lanes += report.lanes;
        shared->references += report.references;
      }));
    for (const auto& recoverer : recoverers) REQUIRE(recoverer->wait_ready());
    victim.kill_and_wait();
    shared->begin = true;
    for (const auto& recoverer : recoverers) CHECK(recoverer->wait().code == 0);
    CHECK(shared->processes == 1);
    CHECK(shared->lanes == 3);
    CHECK(shared->references == 120);
    auto session = must(Session::open(file.path(), "next"));
    check_sound(session.segment());
    CHECK(take_census(session.segment()).live.empty());
  }
}

TEST_CASE("recovery: a stopped process keeps what it holds, and goes on when it is let", "[process]") {
  const TempSegment file;
  SharedWithChildren<std::atomic<std::uint64_t>> handle;
  Child stopped([&](ChildLink& link) {
    auto session = must(Session::open(file.path(), "stopped"));
    const auto lane = must(session.claim_lane());
    const auto reference = must(lane->heap().allocate(5000));
    fill_pattern(lane->heap().bytes(reference), 5);
    handle->store(reference.handle.value);
    link.ready();
    link.wait_go();
    must_hold(has_pattern(lane->heap().bytes(reference), 5), "its bytes are there");
    must(lane->heap().release(reference));
  });
  REQUIRE(stopped.wait_ready());
  stopped.send(SIGSTOP);
  auto session = must(Session::open(file.path(), "other"));
  for (int i = 0; i < 10; ++i) {
    CHECK(session.recover_dead().processes == 0);
    std::this_thread::sleep_for(5ms);
  }
  CHECK(find_block(session.segment(), Handle{handle->load()}).has_value());
  const auto lane = must(session.claim_lane({.cells = 1024}));
  while (lane->heap().allocate(4000)) continue;  // nobody else is given its block
  stopped.send(SIGCONT);
  stopped.go();
  CHECK(stopped.wait().code == 0);
  CHECK_FALSE(find_block(session.segment(), Handle{handle->load()}).has_value());
}

TEST_CASE("recovery: a dead process that is waited for while it is examined is dead, never a disagreement",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  for (int round = 0; round < 300; ++round) {
    Child victim([&](ChildLink& link) {
      auto victim_session = must(Session::open(file.path(), "victim"));
      link.ready();
      link.wait_go();
    });
    REQUIRE(victim.wait_ready());
    std::atomic<bool> is_done{false};
    std::string said;
    std::thread examiner([&] {
      while (!is_done)
        for (std::uint64_t row = 0; row < session.segment().header().process_count; ++row)
          if (const auto verdict = examine_process(session.segment(), row);
              verdict.evidence == Evidence::disagreement)
            said = verdict.reason;
    });
    victim.kill_and_wait();
    std::this_thread::sleep_for(1ms);
    is_done = true;
    examiner.join();
    CHECK(said == "");
    CHECK(session.recover_dead().processes == 1);
  }
}

TEST_CASE("fork: the child has no mapping, its copies do nothing, and it can open the segment itself",
          "[process]") {
  Rig rig;
  const auto mine = must(rig.heap().allocate(1000));
  fill_pattern(rig.heap().bytes(mine), 1);
  const auto queue = must(create_stream(*rig.lane, "s", 8));
  auto producer = must(StreamProducer::claim(*rig.lane, queue));
  auto consumer = must(StreamConsumer::claim(*rig.lane, queue));
  const auto ended = run_child([&] {
    // As a path: the kernel says whether there are bytes at all.
    must_hold(::access(reinterpret_cast<const char*>(rig.segment().base()), F_OK) != 0 && errno == EFAULT,
              "the mapping is not inherited");
    auto session = must(Session::open(rig.file.path(), "child"));
    must_hold(session.membership().row() != rig.session.membership().row(), "a row of its own");
    must_hold(examine_process(session.segment(), rig.session.membership().row()).evidence == Evidence::alive,
              "the parent lives");
    const auto lane = must(session.claim_lane());
    must_hold(lane->id() != rig.lane->id(), "a lane of its own");
    must(lane->heap().allocate(1000));
    { const auto gone = std::move(producer); }  // copies of the parent's: they must leave the parent's alone
    { const auto gone = std::move(consumer); }
    rig.lane.reset();
    rig.session.leave();
  });
  CHECK(ended.code == 0);
  CHECK(rig.session.recover_dead().processes == 0);  // the child's own session left in order
  CHECK(has_pattern(rig.heap().bytes(mine), 1));
  CHECK(lane_word::Active::get(rig.lane->row().word) == 1);
  CHECK(process_word::state(process_row(rig.segment(), rig.session.membership().row()).word) ==
        ProcessState::alive);
  CHECK(queue_row(rig.segment(), queue.index).producer != 0);
  CHECK(queue_row(rig.segment(), queue.index).consumer != 0);
  check_sound(rig.segment());
  CHECK(take_census(rig.segment()).live.size() == 1);
  const auto other = run_child([&] {
    const auto segment = must(Segment::open(rig.file.path()));
    must_hold(examine_process(segment, rig.session.membership().row()).evidence == Evidence::alive,
              "the parent still holds its lock");
  });
  CHECK(other.code == 0);
}

TEST_CASE("mapping: processes that map the segment at different addresses understand each other",
          "[process]") {
  Rig rig;
  const auto there = must(create_stream(*rig.lane, "there", 8));
  const auto back = must(create_stream(*rig.lane, "back", 8));
  auto producer = must(StreamProducer::claim(*rig.lane, there));
  auto consumer = must(StreamConsumer::claim(*rig.lane, back));
  const auto* base = rig.segment().base();
  Child echo([&](ChildLink& link) {
    auto session = must(Session::open(rig.file.path(), "echo"));
    must_hold(session.segment().base() != base, "mapped elsewhere: the parent's place is blocked");
    const auto lane = must(session.claim_lane());
    auto in = must(StreamConsumer::claim(*lane, there));
    auto out = must(StreamProducer::claim(*lane, back));
    link.ready();
    while (!in.ended()) {
      if (in.peek() == nullptr) {
        std::this_thread::yield();
        continue;
      }
      const auto message = *in.peek();
      const auto reference = must(in.pop());
      must_hold(has_pattern(lane->heap().bytes(reference), message.position), "bytes are the parent's");
      fill_pattern(lane->heap().bytes(reference), message.position + 1000);
      must(out.push(message, reference));
    }
  });
  REQUIRE(echo.wait_ready());
  for (std::uint64_t i = 0; i < 100; ++i) {
    const auto reference = must(rig.heap().allocate(1 + i * 700));
    fill_pattern(rig.heap().bytes(reference), i);
    Message message{};
    message.position = i;
    must(producer.push(message, reference));
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    while (consumer.peek() == nullptr && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    REQUIRE(consumer.peek() != nullptr);
    CHECK(consumer.peek()->position == i);
    const auto returned = must(consumer.pop());
    CHECK(returned.handle == reference.handle);
    CHECK(has_pattern(rig.heap().bytes(returned), i + 1000));
    must(rig.heap().release(returned));
  }
  producer.close();
  CHECK(echo.wait().code == 0);
}

TEST_CASE("copy: a copied segment opens with dead rows, and the original does not notice", "[process]") {
  const TempSegment file;
  Child member([&](ChildLink& link) {
    auto session = must(Session::open(file.path(), "member"));
    const auto lane = must(session.claim_lane());
    const auto queue = must(create_stream(*lane, "s", 8));
    auto producer = must(StreamProducer::claim(*lane, queue));
    const auto reference = must(lane->heap().allocate(3000));
    fill_pattern(lane->heap().bytes(reference), 3);
    must(producer.push(Message{}, reference));
    must(lane->heap().allocate(100));
    link.ready();
    link.wait_go();
    must(lane->heap().allocate(100));
  });
  REQUIRE(member.wait_ready());
  const auto copy = file.directory().file("copy");
  copy_sparse(file.path(), copy);
  CHECK(must(Segment::attach_read_only(copy)).is_copy());
  CHECK_FALSE(must(Segment::attach_read_only(file.path())).is_copy());
  CHECK(audit(must(Segment::attach_read_only(copy))).violations.empty());
  {
    auto session = must(Session::open(copy, "heir"));
    CHECK(session.recover_dead().processes == 0);  // opening has done it
    CHECK(audit(session.segment()).counts.lanes_active == 0);
    check_sound(session.segment());
    const auto lane = must(session.claim_lane());
    auto consumer = must(StreamConsumer::claim(*lane, must(find_queue(session.segment(), "s"))));
    REQUIRE(consumer.peek() != nullptr);
    const auto taken = must(consumer.pop());
    CHECK(has_pattern(lane->heap().bytes(taken), 3));
    CHECK(take_census(session.segment()).live.size() == 1);
  }
  CHECK_FALSE(must(Segment::attach_read_only(copy)).is_copy());  // it is itself now
  auto session = must(Session::open(file.path(), "witness"));
  CHECK(session.recover_dead().processes == 0);
  CHECK(take_census(session.segment()).live.size() == 2);
  member.go();
  CHECK(member.wait().code == 0);
}

TEST_CASE("restart: what waits in a stream outlives all processes", "[process]") {
  const auto place = GENERATE(Place::shared_memory, Place::disk);
  const TempSegment file(small_options(), place);
  for (std::uint64_t life = 0; life < 4; ++life) {
    const auto ended = run_child([&] {
      auto session = must(Session::open(file.path(), "one of many"));
      const auto lane = must(session.claim_lane());
      const auto queue = must(find_or_create_stream(*lane, "s", 8));
      auto producer = must(StreamProducer::claim(*lane, queue));
      auto consumer = must(StreamConsumer::claim(*lane, queue));
      if (life > 0) {
        must_hold(consumer.peek() != nullptr, "the predecessor's message is there");
        const auto taken = must(consumer.pop());
        must_hold(has_pattern(lane->heap().bytes(taken), life - 1), "with its bytes");
      }
      const auto left = must(lane->heap().allocate(70'000));
      fill_pattern(lane->heap().bytes(left), life);
      must(producer.push(Message{}, left));
      if (life % 2 == 0) ::raise(SIGKILL);
    });
    CHECK((ended.code == 0 || ended.signal == SIGKILL));
  }
  auto session = must(Session::open(file.path(), "last"));
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.size() == 1);
}

}  // namespace sluice::test
