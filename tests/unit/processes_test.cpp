// The process table, and what the kernel's evidence says about rows in every condition.
#include "ipc/processes.hpp"

#include "runtime/session.hpp"
#include "shm/sidecar.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

/// A child that has joined with a lane and a block, and stays until it is told or killed.
class Member {
 public:
  explicit Member(const std::string& path, const std::function<void()>& then = {})
      : child_([&](ChildLink& link) {
          auto session = must(Session::open(path, "member"));
          const auto lane = must(session.claim_lane());
          must(lane->heap().allocate(1000));
          row_->store(session.membership().row());
          link.ready();
          link.wait_go();
          if (then) then();
        }) {
    must_hold(child_.wait_ready(), "the member has joined");
  }

  std::uint64_t row() const { return row_->load(); }
  Child& child() { return child_; }

 private:
  SharedWithChildren<std::atomic<std::uint64_t>> row_;
  Child child_;
};

ProcessState state_of(const Segment& segment, std::uint64_t row) {
  return process_word::state(process_row(segment, row).word);
}

char proc_state(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(stat, text);
  const auto end = text.rfind(')');
  return end == std::string::npos ? '?' : text[end + 2];
}

bool wait_for_state(pid_t pid, char state) {
  for (int i = 0; i < 2000 && proc_state(pid) != state; ++i) std::this_thread::sleep_for(1ms);
  return proc_state(pid) == state;
}

// Dead by the evidence, recovered once, and then free.
void check_dead_and_recovered(Session& session, std::uint64_t row) {
  const auto verdict = examine_process(session.segment(), row);
  CAPTURE(verdict.reason);
  CHECK(verdict.evidence == Evidence::dead);
  const auto report = session.recover_dead();
  CHECK(report.processes == 1);
  CHECK(report.disagreements.empty());
  CHECK(examine_process(session.segment(), row).evidence == Evidence::free);
  CHECK(session.recover_dead().processes == 0);
}

void check_untouched(Session& session, std::uint64_t row, Evidence evidence) {
  const auto verdict = examine_process(session.segment(), row);
  CAPTURE(verdict.reason);
  CHECK(verdict.evidence == evidence);
  const auto word = process_row(session.segment(), row).word;
  CHECK(session.recover_dead().processes == 0);
  CHECK(process_row(session.segment(), row).word == word);
}

}  // namespace

TEST_CASE("process: joining takes a row and describes who has it, leaving frees it", "[ipc]") {
  const TempSegment file;
  const auto segment = must(Segment::open(file.path()));
  auto membership = must(Membership::join(segment, "a role"));
  REQUIRE(membership.joined());
  const auto& row = process_row(segment, membership.row());
  CHECK(process_word::state(row.word) == ProcessState::alive);
  CHECK(process_word::Incarnation::get(row.word) == membership.incarnation());
  CHECK(membership.incarnation() != 0);
  CHECK(row.pid == static_cast<std::uint64_t>(::getpid()));
  CHECK(row.start_ticks == process_start_ticks(row.pid));
  CHECK(row.start_ticks != 0);
  CHECK(row.pid_namespace == own_pid_namespace());
  CHECK(std::memcmp(row.boot_id, must(current_boot_id()).bytes, 16) == 0);
  CHECK(std::string(row.role) == "a role");
  const auto verdict = examine_process(segment, membership.row());
  CHECK(verdict.evidence == Evidence::alive);
  CHECK(verdict.pid == row.pid);
  CHECK(verdict.word == row.word);
  const auto index = membership.row();
  const auto incarnation = membership.incarnation();
  membership.leave();
  CHECK_FALSE(membership.joined());
  CHECK(examine_process(segment, index).evidence == Evidence::free);
  CHECK(must(Membership::join(segment, "again")).incarnation() > incarnation);
}

TEST_CASE("process: a long role is cut, not refused", "[ipc]") {
  const TempSegment file;
  const auto segment = must(Segment::open(file.path()));
  auto membership = must(Membership::join(segment, std::string(200, 'x')));
  CHECK(std::string(process_row(segment, membership.row()).role) == std::string(role_bytes - 1, 'x'));
  membership.leave();
}

TEST_CASE("process: a read-only mapping cannot be joined", "[ipc]") {
  const TempSegment file;
  const auto segment = must(Segment::attach_read_only(file.path()));
  CHECK(Membership::join(segment, "x").error().status == Status::read_only);
}

TEST_CASE("process: a full table of living processes refuses, and has room when one leaves", "[ipc]") {
  auto options = small_options();
  options.processes = 4;
  const TempSegment file(options);
  std::vector<Session> sessions;
  for (;;) {
    auto session = Session::open(file.path(), "one of many");
    if (!session) {
      CHECK(session.error().status == Status::exhausted);
      CHECK(session.error().message.find(file.path()) != std::string::npos);
      break;
    }
    sessions.push_back(std::move(*session));
    REQUIRE(sessions.size() <= 4);
  }
  CHECK(sessions.size() >= 3);  // one row may be kept for whoever must recover
  sessions.pop_back();
  CHECK(Session::open(file.path(), "next").has_value());
}

TEST_CASE("process: a table full of the dead is recovered by who comes next", "[ipc]") {
  auto options = small_options();
  options.processes = 4;
  const TempSegment file(options);
  for (int i = 0; i < 10; ++i) {
    const auto ended = run_child([&] {
      auto session = must(Session::open(file.path(), "short-lived"));
      const auto lane = must(session.claim_lane());
      must(lane->heap().allocate(100));
      ::raise(SIGKILL);
    });
    REQUIRE(ended.signal == SIGKILL);
  }
  // And all at once, so that no successor has looked in between.
  std::vector<std::unique_ptr<Member>> members;
  for (int i = 0; i < 2; ++i) members.push_back(std::make_unique<Member>(file.path()));
  for (const auto& member : members) member->child().kill_and_wait();
  CHECK(Session::open(file.path(), "next").has_value());
}

TEST_CASE("evidence: a living process is alive, a killed one dead as soon as it is gone", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  Member member(file.path());
  check_untouched(session, member.row(), Evidence::alive);
  member.child().kill_and_wait();
  check_dead_and_recovered(session, member.row());
}

TEST_CASE("evidence: a killed process that nobody has reaped is dead", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  Member member(file.path());
  member.child().send(SIGKILL);
  siginfo_t info{};  // waits for its last thread, and leaves it unreaped
  REQUIRE(::waitid(P_PID, static_cast<id_t>(member.child().pid()), &info, WEXITED | WNOWAIT) == 0);
  check_dead_and_recovered(session, member.row());
}

TEST_CASE("evidence: a stopped process is alive", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  Member member(file.path());
  member.child().send(SIGSTOP);
  REQUIRE(wait_for_state(member.child().pid(), 'T'));
  check_untouched(session, member.row(), Evidence::alive);
  member.child().send(SIGCONT);
  check_untouched(session, member.row(), Evidence::alive);
}

TEST_CASE("evidence: a process whose first thread has ended is alive, whatever /proc calls it", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  SharedWithChildren<std::atomic<std::uint64_t>> row;
  Child child([&](ChildLink& link) {
    static Session* const joined = new Session(must(Session::open(file.path(), "headless")));
    row->store(joined->membership().row());
    std::thread([&link] {
      link.ready();
      link.wait_go();
      ::_exit(0);
    }).detach();
    ::syscall(SYS_exit, 0);  // of this thread alone
  });
  REQUIRE(child.wait_ready());
  REQUIRE(wait_for_state(child.pid(), 'Z'));
  check_untouched(session, row->load(), Evidence::alive);
  child.go();
  CHECK(child.wait().code == 0);
  check_dead_and_recovered(session, row->load());
}

TEST_CASE("evidence: a process that became another program is dead", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  Member member(file.path(), [] { ::execlp("sleep", "sleep", "60", nullptr); });
  check_untouched(session, member.row(), Evidence::alive);
  member.child().go();
  for (int i = 0; i < 2000; ++i) {
    std::ifstream comm("/proc/" + std::to_string(member.child().pid()) + "/comm");
    std::string name;
    if (std::getline(comm, name) && name == "sleep") break;
    std::this_thread::sleep_for(1ms);
  }
  check_dead_and_recovered(session, member.row());
}

TEST_CASE(
    "evidence: a free lock of a process that still maps the segment is a disagreement, and nothing is done",
    "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  SharedWithChildren<std::atomic<std::uint64_t>> row;
  Child child([&](ChildLink& link) {
    auto joined = must(Session::open(file.path(), "careless"));
    row->store(joined.membership().row());
    ::close(::open(sidecar_path(file.path()).c_str(), O_RDWR));  // drops every lock of this process on it
    link.ready();
    link.wait_go();
  });
  REQUIRE(child.wait_ready());
  check_untouched(session, row->load(), Evidence::disagreement);
  CHECK(session.recover_dead().disagreements.size() == 1);
  child.kill_and_wait();
  check_dead_and_recovered(session, row->load());
}

TEST_CASE("evidence: a row that was being joined is dead by its free lock alone", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  const auto index = session.membership().row() + 3;
  auto& row = process_row(session.segment(), index);
  row.word = process_word::make(ProcessState::joining, 1);
  row.pid = static_cast<std::uint64_t>(::getppid());  // what stands beside the word may be another's
  row.start_ticks = process_start_ticks(row.pid);
  check_dead_and_recovered(session, index);
}

TEST_CASE("evidence: a row of an earlier boot, or of a pid that is another process now, is dead", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  const auto index = session.membership().row() + 3;
  auto& row = process_row(session.segment(), index);
  row = process_row(session.segment(), session.membership().row());
  row.word = process_word::make(ProcessState::alive, 5);
  row.pid = 1;
  row.start_ticks = process_start_ticks(1);
  SECTION("earlier boot") { row.boot_id[3] ^= 1; }
  SECTION("reused pid") { row.start_ticks += 1; }
  SECTION("no such pid") { row.pid = 0x7fffffff; }
  check_dead_and_recovered(session, index);
  CHECK(process_word::Incarnation::get(row.word) == 6);
}

TEST_CASE("evidence: a row of another pid namespace cannot be judged by its pid", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  const auto index = session.membership().row() + 3;
  auto& row = process_row(session.segment(), index);
  row = process_row(session.segment(), session.membership().row());
  row.word = process_word::make(ProcessState::alive, 5);
  row.pid = 0x7fffffff;
  row.pid_namespace += 1;
  check_untouched(session, index, Evidence::disagreement);
}

TEST_CASE("evidence: a claim holds only for the word that was examined", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  Member member(file.path());
  member.child().kill_and_wait();
  const auto verdict = examine_process(session.segment(), member.row());
  REQUIRE(verdict.evidence == Evidence::dead);
  CHECK(session.recover_dead().processes == 1);
  Member next(file.path());  // the row lives again
  REQUIRE(next.row() == member.row());
  const auto word = load(process_row(session.segment(), next.row()).word, acquire);
  CHECK(recover_process(session.segment(), session.membership(), member.row(), verdict).processes == 0);
  CHECK(load(process_row(session.segment(), next.row()).word, acquire) == word);
  check_untouched(session, next.row(), Evidence::alive);
}

TEST_CASE("evidence: a recoverer that is gone leaves its claim to the next", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  const auto& segment = session.segment();
  const auto own = session.membership().row();
  const auto index = own + 3;
  auto& word = process_row(segment, index).word;
  SECTION("an earlier incarnation of a living row") {
    word = process_word::make(ProcessState::recovering, 5, own, session.membership().incarnation() - 1);
  }
  SECTION("a free row") { word = process_word::make(ProcessState::recovering, 5, own + 5, 1); }
  SECTION("no row at all") { word = process_word::make(ProcessState::recovering, 5, 2047, 1); }
  SECTION("itself") { word = process_word::make(ProcessState::recovering, 5, index, 5); }
  check_dead_and_recovered(session, index);
}

TEST_CASE("evidence: a recoverer that lives keeps its claim", "[ipc]") {
  const TempSegment file;
  auto session = must(Session::open(file.path(), "test"));
  const auto own = session.membership().row();
  const auto index = own + 3;
  process_row(session.segment(), index).word =
      process_word::make(ProcessState::recovering, 5, own, session.membership().incarnation());
  check_untouched(session, index, Evidence::alive);
}

TEST_CASE("process: two sessions of one process are two rows, and each leaves alone", "[ipc]") {
  const TempSegment file;
  auto first = must(Session::open(file.path(), "first"));
  auto second = std::make_unique<Session>(must(Session::open(file.path(), "second")));
  const auto row = first.membership().row();
  CHECK(row != second->membership().row());
  second.reset();
  CHECK(state_of(first.segment(), row) == ProcessState::alive);
  const auto ended = run_child([&] {
    auto other = must(Session::open(file.path(), "other"));
    must_hold(examine_process(other.segment(), row).evidence == Evidence::alive, "the first is still locked");
  });
  CHECK(ended.code == 0);
}

}  // namespace sluice::test
