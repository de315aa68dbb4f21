// Evidence of death in the shapes that processes really take: forked, half-ended, stopped for long, their lock
// file taken away. What the kernel is made to say here is what recovery acts on.
#include "ipc/audit.hpp"
#include "shm/sidecar.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

void check_sound(const Segment& segment) {
  for (const auto& violation : audit(segment).violations) FAIL_CHECK("audit: " << violation.what);
  for (const auto& line : take_census(segment).contradictions()) FAIL_CHECK("census: " << line);
}

/// Wait for something that another process does.
bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds timeout = 20s) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

// A process that has joined, with lanes and blocks.
struct Holding {
  Holding(const std::string& path, int lane_count, int blocks)
      : session(must(Session::open(path, "holding"))) {
    for (int i = 0; i < lane_count; ++i) {
      lanes.push_back(must(session.claim_lane()));
      for (int block = 0; block < blocks; ++block) must(lanes.back()->heap().allocate(5000));
    }
  }
  Session session;
  std::vector<std::unique_ptr<Lane>> lanes;
};

}  // namespace

TEST_CASE("evidence: a process that exits without leaving is dead, and its lanes are recovered",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  const auto ended = run_child([&] {
    const Holding held(file.path(), 3, 4);
    ::_exit(7);
  });
  CHECK(ended.code == 7);
  const auto report = session.recover_dead();
  CHECK(report.processes == 1);
  CHECK(report.lanes == 3);
  CHECK(report.references == 12);
  CHECK(report.disagreements.empty());
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.empty());
}

TEST_CASE("fork: a child does not keep its killed parent alive, nor can it use the parent's lanes",
          "[process]") {
  struct Story {
    std::atomic<std::uint64_t> row{0};
    std::atomic<pid_t> child{0};
    std::atomic<bool> recovered{false}, used{false}, own_block{false};
  };
  const bool opens = GENERATE(false, true);
  CAPTURE(opens);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // the child of the dead comes to us
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  SharedWithChildren<Story> story;
  Child parent([&](ChildLink& link) {
    Holding held(file.path(), 2, 3);
    story->row = held.session.membership().row();
    if (::fork() == 0) {
      story->child = ::getpid();
      if (!eventually([&] { return story->recovered.load(); })) ::_exit(1);
      auto& inherited = *held.lanes.front();
      if (!opens) {
        must(inherited.heap().allocate(100));
        story->used = true;
      }
      // Its own mapping must not come to lie where the parent's lanes think theirs is.
      auto own = must(Session::open(file.path(), "child"));
      const auto lane = must(own.claim_lane());
      story->own_block = static_cast<bool>(must(lane->heap().allocate(100)));
      must(inherited.heap().allocate(100));
      story->used = true;
      ::_exit(0);
    }
    link.ready();
    link.wait_go();
  });
  REQUIRE(parent.wait_ready());
  REQUIRE(eventually([&] { return story->child != 0; }));
  CHECK(examine_process(session.segment(), story->row).evidence == Evidence::alive);
  parent.kill_and_wait();
  CHECK(::kill(story->child, 0) == 0);
  CHECK(examine_process(session.segment(), story->row).evidence == Evidence::dead);
  const auto report = session.recover_dead();
  CHECK(report.processes == 1);
  CHECK(report.lanes == 2);
  CHECK(report.references == 6);
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.empty());
  CHECK(::kill(story->child, 0) == 0);
  story->recovered = true;
  int status = 0;
  REQUIRE(::waitpid(story->child, &status, 0) == story->child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGSEGV);
  CHECK_FALSE(story->used);
  CHECK(story->own_block == opens);
  CHECK(session.recover_dead().processes == (opens ? 1 : 0));
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.empty());
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_CASE("fork: a child that is killed, or closes every descriptor, takes nothing from its parent",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  SharedWithChildren<std::atomic<std::uint64_t>> row;
  Child parent([&](ChildLink& link) {
    Holding held(file.path(), 2, 3);
    row->store(held.session.membership().row());
    for (const bool closing : {false, true}) {
      const auto ended = run_child([&] {
        if (closing) ::syscall(SYS_close_range, 3U, ~0U, 0U);
        ::raise(SIGKILL);
      });
      must_hold(ended.signal == SIGKILL, "the child was killed");
    }
    link.ready();
    link.wait_go();
    must(held.lanes.front()->heap().allocate(5000));
  });
  REQUIRE(parent.wait_ready());
  CHECK(examine_process(session.segment(), row->load()).evidence == Evidence::alive);
  const auto report = session.recover_dead();
  CHECK(report.processes == 0);
  CHECK(report.disagreements.empty());
  CHECK(take_census(session.segment()).live.size() == 6);
  parent.go();
  CHECK(parent.wait().code == 0);
  CHECK(session.recover_dead().processes == 0);  // it left in order
}

TEST_CASE("evidence: threads that work on after the first one has ended are not disturbed", "[process]") {
  const TempSegment file(small_options(48));
  auto session = must(Session::open(file.path(), "survivor"));
  struct Progress {
    std::atomic<std::uint64_t> rounds[2] = {};
  };
  SharedWithChildren<Progress> progress;
  Child headless([&](ChildLink& link) {
    static auto* const joined = new Session(must(Session::open(file.path(), "headless")));
    for (auto& rounds : progress->rounds)
      std::thread([&rounds] {
        const auto lane = must(joined->claim_lane());
        for (;;) {
          const auto block = must(lane->heap().allocate(3000));
          fill_pattern(lane->heap().bytes(block), rounds);
          must_hold(has_pattern(lane->heap().bytes(block), rounds), "nobody else has the block");
          must(lane->heap().release(block));
          ++rounds;
        }
      }).detach();
    link.ready();
    ::syscall(SYS_exit, 0);  // of this thread alone
  });
  REQUIRE(headless.wait_ready());
  for (int i = 0; i < 20; ++i) {
    const auto before = progress->rounds[1].load();
    const auto report = session.recover_dead();
    CHECK(report.processes == 0);
    CHECK(report.disagreements.empty());
    CHECK(eventually([&] { return progress->rounds[1] > before; }));
  }
  headless.kill_and_wait();
  const auto report = session.recover_dead();
  CHECK(report.processes == 1);
  CHECK(report.lanes == 2);
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.empty());
}

TEST_CASE("evidence: a process stopped for longer than any time limit keeps what it has, while others die",
          "[process]") {
  const TempSegment file(small_options(48));
  auto session = must(Session::open(file.path(), "survivor"));
  SharedWithChildren<std::atomic<std::uint64_t>> row;
  Child stopped([&](ChildLink& link) {
    Holding held(file.path(), 2, 5);
    row->store(held.session.membership().row());
    const auto block = must(held.lanes.front()->heap().allocate(5000));
    fill_pattern(held.lanes.front()->heap().bytes(block), 8);
    link.ready();
    link.wait_go();
    must_hold(has_pattern(held.lanes.front()->heap().bytes(block), 8), "its bytes are there");
    must(held.lanes.front()->heap().release(block));
    must(held.lanes.back()->heap().allocate(5000));
  });
  REQUIRE(stopped.wait_ready());
  stopped.send(SIGSTOP);
  // The longest wait in the library, for the lock file's claim, is 5 s.
  for (const auto begin = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - begin < 6s;) {
    CHECK(run_child([&] {
            const Holding held(file.path(), 1, 5);
            ::raise(SIGKILL);
          }).signal == SIGKILL);
    const auto report = session.recover_dead();
    CHECK(report.processes == 1);
    CHECK(report.references == 5);
    CHECK(report.disagreements.empty());
    std::this_thread::sleep_for(500ms);
  }
  CHECK(examine_process(session.segment(), row->load()).evidence == Evidence::alive);
  CHECK(take_census(session.segment()).live.size() == 11);
  stopped.send(SIGCONT);
  stopped.go();
  CHECK(stopped.wait().code == 0);
  check_sound(session.segment());
}

TEST_CASE(
    "evidence: a recoverer that is stopped in the middle keeps its claim, and finishes or is taken over",
    "[process]") {
  const bool killed = GENERATE(false, true);
  CAPTURE(killed);
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  const auto victim = run_child([&] {
    const Holding held(file.path(), 2, 3);
    ::raise(SIGKILL);
  });
  REQUIRE(victim.signal == SIGKILL);
  Child recoverer([&](ChildLink& link) {
    crash_hook.store([](std::size_t index) {
      if (index != crash_point_index("recover.lane.ledger")) return;
      crash_hook.store(nullptr);
      ::raise(SIGSTOP);
    });
    const auto own = must(Session::open(file.path(), "recoverer"));  // recovers as it joins
    link.ready();
    link.wait_go();
  });
  int status = 0;
  REQUIRE(::waitpid(recoverer.pid(), &status, WUNTRACED) == recoverer.pid());
  REQUIRE(WIFSTOPPED(status));
  for (int i = 0; i < 5; ++i) {
    const auto report = session.recover_dead();
    CHECK(report.processes == 0);
    CHECK(report.disagreements.empty());
  }
  CHECK(take_census(session.segment()).live.size() == 5);
  if (killed) {
    recoverer.kill_and_wait();
    const auto report = session.recover_dead();
    CHECK(report.processes == 2);
    CHECK(report.references == 5);
  } else {
    recoverer.send(SIGCONT);
    REQUIRE(recoverer.wait_ready());
    recoverer.go();
    CHECK(recoverer.wait().code == 0);
  }
  CHECK(session.recover_dead().processes == 0);
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.empty());
}

TEST_CASE(
    "lock file: taken away or replaced, who is there goes on, nobody is reclaimed, and newcomers are told",
    "[process]") {
  const bool replaced = GENERATE(false, true);
  CAPTURE(replaced);
  const TempSegment file;
  const auto lock = sidecar_path(file.path());
  auto session = must(Session::open(file.path(), "survivor"));
  Child member([&](ChildLink& link) {
    const Holding held(file.path(), 2, 3);
    link.ready();
    link.wait_go();
    ::raise(SIGKILL);
  });
  REQUIRE(member.wait_ready());
  std::filesystem::remove(lock);
  if (replaced) write_file(lock, {});
  const auto newcomer = [&] {
    CHECK(run_child([&] {
            const auto opened = Session::open(file.path(), "newcomer");
            must_hold(!opened.has_value(), "it is refused");
            must_hold(opened.error().status == Status::disagreement, "as a disagreement");
            const auto& words = opened.error().message;
            must_hold(words.find(lock) != std::string::npos, "the lock file is named");
            must_hold(words.find(replaced ? "was replaced" : "is gone") != std::string::npos,
                      "what is wrong");
            must_hold(words.find("cp --sparse=always") != std::string::npos, "what to do");
            must_hold(words.find('\n') == std::string::npos, "in one line");
          }).code == 0);
  };
  newcomer();
  CHECK(session.recover_dead().processes == 0);
  CHECK(take_census(session.segment()).live.size() == 6);
  // Those who are there have the old file open still: between them the evidence is as good as ever.
  member.go();
  CHECK(member.wait().signal == SIGKILL);
  newcomer();
  CHECK(session.recover_dead().references == 6);
  check_sound(session.segment());
  session.leave();
  newcomer();
  // The advice holds: a copy begins with nobody alive.
  const auto copy = file.directory().file("copy");
  copy_sparse(file.path(), copy);
  CHECK(run_child([&] { must(Session::open(copy, "heir")); }).code == 0);
}

TEST_CASE(
    "lane: a thread's own lane object frees the lane as the thread ends; a lane that is left stays until "
    "the process ends",
    "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  SharedWithChildren<std::atomic<std::uint64_t>> tidy_lane, left_lane, row;
  Child member([&](ChildLink& link) {
    auto own = must(Session::open(file.path(), "member"));
    row->store(own.membership().row());
    std::thread([&] {
      thread_local std::unique_ptr<Lane> lane;
      lane = must(own.claim_lane());
      must(lane->heap().allocate(5000));
      *tidy_lane = lane->id();
    }).join();
    // On purpose: a thread that ends with its lane still claimed.
    std::thread([&] {
      auto* const lane = must(own.claim_lane()).release();
      must(lane->heap().allocate(5000));
      *left_lane = lane->id();
    }).join();
    link.ready();
    link.wait_go();
    own.leave();  // the lane is still there: the row stays with it
    link.ready();
    link.wait_go();
    ::_exit(0);
  });
  REQUIRE(member.wait_ready());
  CHECK(*tidy_lane == *left_lane);  // it was free again when the second thread came
  const auto active = [&] { return lane_word::Active::get(session.segment().lane_row(*left_lane).word); };
  CHECK(active() == 1);
  CHECK(take_census(session.segment()).live.size() == 1);
  CHECK(session.recover_dead().processes == 0);
  member.go();
  REQUIRE(member.wait_ready());
  CHECK(active() == 1);
  CHECK(examine_process(session.segment(), row->load()).evidence == Evidence::alive);
  check_sound(session.segment());
  member.go();
  CHECK(member.wait().code == 0);
  const auto report = session.recover_dead();
  CHECK(report.processes == 1);
  CHECK(report.lanes == 1);
  CHECK(report.references == 1);
  check_sound(session.segment());
  CHECK(take_census(session.segment()).live.empty());
}

}  // namespace sluice::test
