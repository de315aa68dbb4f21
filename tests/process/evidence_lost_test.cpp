// Evidence that was lost, or is not what it seems: closed descriptors, a standard stream's number, /proc that does not
// tell, clocks of another namespace, a word that is the same again. Nobody who lives may be taken for dead.
#include "ipc/audit.hpp"
#include "shm/sidecar.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/temp_segment.hpp"
#include "tools/common/process_table.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct Member {
  explicit Member(const std::string& path)
      : session(must(Session::open(path, "member"))), lane(must(session.claim_lane())) {
    block = must(lane->heap().allocate(100));
  }
  Session session;
  std::unique_ptr<Lane> lane;
  Reference block;
};

void check_disagreement(Session& session, std::uint64_t row) {
  CHECK(examine_process(session.segment(), row).evidence == Evidence::disagreement);
  const auto report = session.recover_dead();
  CHECK(report.processes == 0);
  CHECK(report.disagreements.size() == 1);
  CHECK(take_census(session.segment()).live.size() == 1);
}

[[noreturn]] void skip(const char* what) {
  std::fprintf(stderr, "skipped: %s: %s\n", what, std::strerror(errno));
  ::_exit(exit_skipped);
}

void check_code_or_skipped(const Exit& ended, int code) {
  if (ended.code == exit_skipped)
    WARN("skipped, as it says above");
  else
    CHECK(ended.code == code);
}

// In a child: become `sluice segment recover`, which has learned nothing from this process.
[[noreturn]] void become_recover(const std::string& path) {
  const char* bin = std::getenv("SLUICE_BIN_DIR");
  must_hold(bin != nullptr, "SLUICE_BIN_DIR names the programs");
  const auto tool = std::string(bin) + "/sluice";
  ::execl(tool.c_str(), "sluice", "segment", "recover", path.c_str(), nullptr);
  ::_exit(exit_threw);
}

// A member that holds a block, and has closed all its descriptors. The row is the next one after `session`'s.
class Unlocked {
 public:
  explicit Unlocked(const std::string& path, Session& session)
      : child_([&](ChildLink&) {
          const Member self(path);
          ::close_range(3, ~0U, 0);
          for (;;) ::pause();
        }),
        row_(session.membership().row() + 1) {
    for (int i = 0; i < 2000; ++i, std::this_thread::sleep_for(1ms))
      if (examine_process(session.segment(), row_).evidence == Evidence::disagreement) return;
    FAIL("it has not closed them");
  }
  std::uint64_t row() const noexcept { return row_; }

 private:
  Child child_;
  std::uint64_t row_;
};

}  // namespace

TEST_CASE("evidence lost: threads that outlive the first one are seen although their lock is gone",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  const SharedWithChildren<std::atomic<int>> row;
  *row = -1;
  Child member([&](ChildLink&) {
    std::thread([&] {
      const Member self(file.path());
      ::close_range(3, ~0U, 0);  // the lock goes with its descriptor
      *row = static_cast<int>(self.session.membership().row());
      for (;;) ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);
  });
  for (int i = 0; i < 2000 && *row < 0; ++i) std::this_thread::sleep_for(1ms);
  REQUIRE(*row >= 0);
  std::this_thread::sleep_for(20ms);  // the first thread has ended by now, or ends at once
  check_disagreement(session, static_cast<std::uint64_t>(row->load()));
  member.kill_and_wait();
  CHECK(session.recover_dead().references == 1);
}

TEST_CASE(
    "evidence lost: a process that has closed its descriptors does not recover itself when it opens again",
    "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  const auto ended = run_child([&] {
    Member self(file.path());
    ::close_range(3, ~0U, 0);
    for (int i = 0; i < 8; ++i)  // their numbers are other files' now
      must_hold(::open("/dev/null", O_RDWR | O_CLOEXEC) >= 0, "/dev/null is there");
    auto again = must(Session::open(file.path(), "again"));
    must_hold(again.recover_dead().processes == 0, "it lives");
    must_hold(!self.lane->heap().bytes(self.block).empty(), "and keeps its block");
    must_hold(known_sidecar(sidecar_path(file.path())).has_value(), "the lock file is open again");
    struct stat info{};
    must_hold(::fstat(again.segment().sidecar_fd(), &info) == 0 &&
                  info.st_ino == again.segment().identity().sidecar_inode,
              "what is locked is the lock file");
    ::_exit(0);
  });
  CHECK(ended.code == 0);
  CHECK(session.recover_dead().processes == 2);
}

TEST_CASE("evidence lost: a child that closes what it inherited locks its own row, not another file",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "parent"));
  Child child([&](ChildLink& link) {
    for (int fd = session.segment().sidecar_fd(); fd >= 0; fd = -1) {
      ::close(fd);
      must_hold(::open("/dev/null", O_RDWR | O_CLOEXEC) == fd, "the number is used again");
    }
    const Member self(file.path());
    link.ready();
    link.wait_go();
  });
  REQUIRE(child.wait_ready());
  const auto report = session.recover_dead();
  CHECK(report.disagreements.empty());
  CHECK(report.processes == 0);
  child.kill_and_wait();
  CHECK(session.recover_dead().references == 1);
}

TEST_CASE("evidence lost: whoever is recovered while it joins does not come alive again", "[process]") {
  if (!has_crash_points) {
    WARN("skipped: this build has no crash points (SLUICE_CRASH_POINTS)");
    return;
  }
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  Child child([&](ChildLink&) {
    const Meanwhile meanwhile("process.join.joining", [] {
      ::close_range(3, ~0U, 0);
      ::raise(SIGSTOP);
    });
    const auto opened = Session::open(file.path(), "late");
    ::_exit(opened ? 1 : 0);
  });
  int status = 0;
  REQUIRE(::waitpid(child.pid(), &status, WUNTRACED) == child.pid());
  REQUIRE(WIFSTOPPED(status));
  CHECK(session.recover_dead().processes == 1);  // JOINING with a free lock
  const auto next = must(Session::open(file.path(), "next"));
  child.send(SIGCONT);
  CHECK(child.wait().code == 0);  // it was told
  CHECK(examine_process(session.segment(), next.membership().row()).evidence == Evidence::alive);
  CHECK(audit(session.segment()).violations.empty());
}

TEST_CASE("evidence lost: a table read by a member leaves the member its lock", "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  Child member([&](ChildLink& link) {
    const Member self(file.path());
    (void)tools::read_process_table(self.session.segment());
    link.ready();
    link.wait_go();
  });
  REQUIRE(member.wait_ready());
  CHECK(session.recover_dead().disagreements.empty());
  member.kill_and_wait();
  CHECK(session.recover_dead().processes == 1);
}

TEST_CASE("evidence lost: a claim with evidence of an incarnation that came round again is taken back",
          "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "recoverer"));
  const auto& segment = session.segment();
  std::uint64_t row = 0;
  {
    Child dead([&](ChildLink& link) {
      const Member self(file.path());
      link.ready();
      link.wait_go();
    });
    REQUIRE(dead.wait_ready());
    row = session.membership().row() + 1;
    dead.kill_and_wait();
  }
  const auto verdict = examine_process(segment, row);
  REQUIRE(verdict.evidence == Evidence::dead);
  CHECK(session.recover_dead().processes == 1);
  // As after 2^25 joins, all but one.
  store(process_row(segment, row).word,
        process_word::make(ProcessState::free, process_word::Incarnation::get(verdict.word)), release);
  Child living([&](ChildLink& link) {
    const Member self(file.path());
    link.ready();
    link.wait_go();
    ::_exit(self.lane->heap().bytes(self.block).empty() ? 1 : 0);
  });
  REQUIRE(living.wait_ready());
  REQUIRE(load(process_row(segment, row).word, acquire) == verdict.word);
  CHECK(recover_process(segment, session.membership(), row, verdict).processes == 0);
  CHECK(examine_process(segment, row).evidence == Evidence::alive);
  living.go();
  CHECK(living.wait().code == 0);
}

TEST_CASE("evidence lost: without the boot's id nothing is opened and nobody judged", "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  const Unlocked member(file.path(), session);
  const auto refused = run_child([&] {
    if (::unshare(CLONE_NEWNS) != 0) skip("no mounts of its own");
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) skip("no private mounts");
    if (::mount("proc", "/proc", "proc", 0, "subset=pid") != 0) skip("no /proc with processes only");
    become_recover(file.path());
  });
  check_code_or_skipped(refused, 1);
  check_disagreement(session, member.row());
}

TEST_CASE("evidence lost: start times of another time namespace are no evidence", "[process]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "survivor"));
  const Unlocked member(file.path(), session);
  const auto recovered = run_child([&] {
    if (::unshare(CLONE_NEWTIME) != 0) skip("no time namespace here");
    std::ofstream offsets("/proc/self/timens_offsets");
    offsets << "boottime 100000 0\n" << std::flush;
    if (!offsets) skip("its clock cannot be set");
    const auto inside = ::fork();
    if (inside == 0) become_recover(file.path());
    int status = 0;
    ::waitpid(inside, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : exit_threw);
  });
  check_code_or_skipped(recovered, 9);
  check_disagreement(session, member.row());
}

TEST_CASE("fork: a child made while another thread joins can open the segment itself", "[process]") {
  Rig rig;
  std::atomic<bool> stop{false};
  std::thread joining([&] {
    while (!stop) (void)Session::open(rig.file.path(), "thread");
  });
  int failed = 0;
  for (int i = 0; i < 100 && failed == 0; ++i) {
    const auto ended = run_child([&] { must(Session::open(rig.file.path(), "child")); }, 10s);
    failed += ended.code != 0 ? 1 : 0;
  }
  stop = true;
  joining.join();
  CHECK(failed == 0);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("fork: copies in a child with the parent's pid number do nothing", "[process]") {
  const TempSegment file;
  const auto ended = run_child([&] {
    if (::unshare(CLONE_NEWPID) != 0) skip("no pid namespace here");
    const auto first = ::fork();
    if (first == 0) {  // pid 1
      auto self = std::make_unique<Member>(file.path());
      must_hold(::unshare(CLONE_NEWPID) == 0, "a namespace in the namespace");
      const auto inner = ::fork();
      if (inner == 0) {  // pid 1 too
        self.reset();
        ::_exit(0);
      }
      int status = 0;
      ::waitpid(inner, &status, 0);
      must_hold(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the copies do nothing");
      must_hold(!self->lane->heap().bytes(self->block).empty(), "the parent keeps its block");
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(first, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  });
  check_code_or_skipped(ended, 0);
}

}  // namespace sluice::test
