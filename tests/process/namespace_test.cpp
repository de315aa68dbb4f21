// Real pid reuse, and processes that cannot see each other: in pid namespaces of their own. Needs root, or a
// kernel that lets anybody make namespaces; else each test says why it is skipped.
#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"
#include "tools/common/process_table.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

enum class Proc : std::uint8_t { own, foreign };  // whether /proc shows the new namespace

[[noreturn]] void skip(const char* what) {
  std::fprintf(stderr, "skipped: %s: %s\n", what, std::strerror(errno));
  ::_exit(exit_skipped);
}

// To be run in a child: `body` is the first process of a new pid namespace; its exit code becomes ours.
void in_pid_namespace(Proc proc, const std::function<void()>& body) {
  if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) skip("no pid namespace here");
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) skip("no private mounts here");
  const auto init = ::fork();
  if (init == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (proc == Proc::own && ::mount("proc", "/proc", "proc", 0, nullptr) != 0) skip("no /proc of its own");
    try {
      body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "in the namespace: %s\n", error.what());
      ::_exit(exit_threw);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(init, &status, 0);
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : exit_threw);
}

bool was_skipped(const Exit& ended) {
  if (ended.code == exit_skipped) WARN("skipped: pid namespaces are not permitted here");
  return ended.code == exit_skipped;
}

// A process that joins, takes a lane and a block, and is killed there. Returns its pid.
pid_t leave_one_dead(const std::string& path, std::uint64_t& row) {
  SharedWithChildren<std::atomic<std::uint64_t>> its_row;
  Child victim([&](ChildLink& link) {
    const auto segment = must(Segment::open(path));  // no Session: that would recover the others
    const auto membership = must(Membership::join(segment, "victim"));
    const auto lane = must(Lane::claim(segment, membership));
    must(lane->heap().allocate(5000));
    its_row->store(membership.row());
    link.ready();
    link.wait_go();
  });
  must_hold(victim.wait_ready(), "the victim has joined");
  row = its_row->load();
  const auto pid = victim.pid();
  victim.kill_and_wait();
  std::this_thread::sleep_for(30ms);  // start times have a resolution of 10 ms
  return pid;
}

// The next process of this namespace gets `pid`.
void steer_to(pid_t pid) {
  std::ofstream last("/proc/sys/kernel/ns_last_pid");
  last << pid - 1 << std::flush;
  if (!last) skip("ns_last_pid cannot be written");
}

}  // namespace

TEST_CASE("pid reuse: a dead one's pid that is another process, or one that joined again, changes nothing",
          "[process]") {
  const TempSegment file;
  const auto ended = run_child([&] {
    in_pid_namespace(Proc::own, [&] {
      auto session = must(Session::open(file.path(), "survivor"));
      const auto& segment = session.segment();
      std::uint64_t row = 0;
      const auto dead_with = [&](std::string_view reason) {
        const auto verdict = examine_process(segment, row);
        if (verdict.evidence != Evidence::dead || verdict.reason.find(reason) == std::string::npos)
          throw std::runtime_error("expected dead, " + std::string(reason) + ", but: " + verdict.reason);
        const auto report = session.recover_dead();
        must_hold(report.processes == 1 && report.references == 1 && report.disagreements.empty(),
                  "recovered");
      };
      {
        const auto pid = leave_one_dead(file.path(), row);
        steer_to(pid);
        Child unrelated([](ChildLink& link) {
          link.ready();
          link.wait_go();
        });
        must_hold(unrelated.pid() == pid && unrelated.wait_ready(), "the pid is an unrelated process's");
        dead_with("the pid is another process");
        must_hold(::kill(pid, 0) == 0, "which lives on");
      }
      const auto with_successor = [&](const std::function<void(std::uint64_t own_row)>& check) {
        SharedWithChildren<std::atomic<std::uint64_t>> own_row;
        const auto pid = leave_one_dead(file.path(), row);
        steer_to(pid);
        Child again([&](ChildLink& link) {
          const auto joined = must(Segment::open(file.path()));
          auto membership = must(Membership::join(joined, "again"));
          own_row->store(membership.row());
          auto lane = must(Lane::claim(joined, membership));
          const auto block = must(lane->heap().allocate(5000));
          link.ready();
          link.wait_go();
          must(lane->heap().release(block));
          lane.reset();
          membership.leave();
        });
        must_hold(again.pid() == pid && again.wait_ready(), "the pid has joined again");
        must_hold(own_row->load() != row, "in another row");
        check(own_row->load());
        again.go();
        must_hold(again.wait().code == 0, "and was not disturbed");
      };
      with_successor([&](std::uint64_t own_row) {
        dead_with("the pid is another process");
        must_hold(examine_process(segment, own_row).evidence == Evidence::alive, "the successor lives");
      });
      // Both started in one tick of the clock: then it cannot be told from the dead one, and nothing is done.
      with_successor([&](std::uint64_t own_row) {
        process_row(segment, row).start_ticks = process_row(segment, own_row).start_ticks;
        const auto report = session.recover_dead();
        must_hold(report.processes == 0 && report.disagreements.size() == 1, "a disagreement while it lives");
      });
      dead_with("the pid is gone");
      must_hold(audit(segment).violations.empty() && take_census(segment).live.empty(), "sound");
    });
  });
  if (!was_skipped(ended)) CHECK(ended.code == 0);
}

TEST_CASE("pid namespace: the dead of another one are reported and left, and recovered by their own",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "outside"));
  SharedWithChildren<std::atomic<std::uint64_t>> row, outside_row;
  SharedWithChildren<std::atomic<bool>> skipped;
  *skipped = true;
  Child inside([&](ChildLink& link) {
    in_pid_namespace(Proc::own, [&] {
      auto own = must(Session::open(file.path(), "inside"));
      Child member([&](ChildLink& its_link) {
        auto its = must(Session::open(file.path(), "member"));
        const auto lane = must(its.claim_lane());
        must(lane->heap().allocate(5000));
        row->store(its.membership().row());
        its_link.ready();
        its_link.wait_go();
      });
      must_hold(member.wait_ready(), "the member has joined");
      *skipped = false;
      link.ready();
      link.wait_go();
      member.kill_and_wait();
      link.ready();
      link.wait_go();
      const auto report = own.recover_dead();
      must_hold(report.processes == 1 && report.references == 1, "the own dead are recovered");
      link.ready();
      link.wait_go();
      const auto verdict = examine_process(own.segment(), outside_row->load());
      must_hold(verdict.evidence == Evidence::disagreement, "the dead outside are not ours");
      must_hold(own.recover_dead().processes == 0, "and are left");
    });
  });
  if (!inside.wait_ready() || *skipped) {
    REQUIRE(was_skipped(inside.wait()));
    return;
  }
  // Alive: its lock says so, through the namespaces.
  CHECK(examine_process(session.segment(), row->load()).evidence == Evidence::alive);
  auto report = session.recover_dead();
  CHECK(report.processes == 0);
  CHECK(report.disagreements.empty());
  inside.go();
  REQUIRE(inside.wait_ready());
  // Dead: its lock is free, and its pid means nothing here.
  report = session.recover_dead();
  CHECK(report.processes == 0);
  REQUIRE(report.disagreements.size() == 1);
  CHECK(report.disagreements.front().find("recover in its own namespace") != std::string::npos);
  CHECK(take_census(session.segment()).live.size() == 1);
  CHECK(run_child([&] {
          const auto table = tools::read_process_table(must(Segment::attach_read_only(file.path())));
          must_hold(table[row->load()].presence == tools::Presence::unknown, "unknown to shm-dump");
        }).code == 0);
  inside.go();
  REQUIRE(inside.wait_ready());
  report = session.recover_dead();
  CHECK(report.disagreements.empty());
  CHECK(take_census(session.segment()).live.empty());
  std::uint64_t dead_outside = 0;
  leave_one_dead(file.path(), dead_outside);
  outside_row->store(dead_outside);
  inside.go();
  CHECK(inside.wait().code == 0);
  CHECK(session.recover_dead().processes == 1);
  CHECK(audit(session.segment()).violations.empty());
}

TEST_CASE(
    "pid namespace: under a /proc of another namespace a gone pid is still dead, a used one is not judged",
    "[process]") {
  const TempSegment file;
  const auto ended = run_child([&] {
    in_pid_namespace(Proc::foreign, [&] {
      auto session = must(Session::open(file.path(), "survivor"));
      std::uint64_t row = 0;
      leave_one_dead(file.path(), row);
      must_hold(session.recover_dead().processes == 1, "the kernel says that nobody has the pid");
      const auto pid = leave_one_dead(file.path(), row);
      steer_to(pid);
      {
        Child unrelated([](ChildLink& link) {
          link.ready();
          link.wait_go();
        });
        must_hold(unrelated.pid() == pid && unrelated.wait_ready(), "the pid is used again");
        const auto report = session.recover_dead();
        must_hold(report.processes == 0 && report.disagreements.size() == 1, "a disagreement");
      }
      must_hold(session.recover_dead().processes == 1, "recovered once the pid is nobody's");
      must_hold(audit(session.segment()).violations.empty() && take_census(session.segment()).live.empty(),
                "sound");
    });
  });
  if (!was_skipped(ended)) CHECK(ended.code == 0);
}

}  // namespace sluice::test
