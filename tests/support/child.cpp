#include "tests/support/child.hpp"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::test {

namespace {

[[noreturn]] void fail_test(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

// Catch's and the sanitizers' handlers are the parent's: a child's signals are its result.
void become_child(pid_t parent) {
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGINT, SIGTERM})
    std::signal(signal, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(exit_threw);
}

int run_body(const std::function<void()>& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
    return exit_threw;
  }
}

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail_test("pipe2");
    read_end = ends[0];
    write_end = ends[1];
  }
};

pid_t fork_child(const std::function<void()>& body) {
  const pid_t parent = ::getpid();
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid < 0) fail_test("fork");
  if (pid == 0) {
    become_child(parent);
    ::_exit(run_body(body));
  }
  return pid;
}

Exit reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) fail_test("waitpid");
  if (WIFSIGNALED(status)) return {.code = -1, .signal = WTERMSIG(status)};
  return {.code = WEXITSTATUS(status)};
}

Exit wait_for(pid_t pid, std::chrono::milliseconds timeout) {
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) fail_test("pidfd_open");
  pollfd ended{.fd = pidfd, .events = POLLIN, .revents = 0};
  int ready = 0;
  do ready = ::poll(&ended, 1, static_cast<int>(timeout.count()));
  while (ready < 0 && errno == EINTR);
  ::close(pidfd);
  if (ready == 1) return reap(pid);
  ::kill(pid, SIGKILL);
  reap(pid);
  return {.timed_out = true};
}

}  // namespace

void ChildLink::ready() const {
  if (::write(to_parent_, "r", 1) != 1) ::_exit(exit_threw);
}

void ChildLink::wait_go() const {
  char byte = 0;
  ssize_t got = 0;
  do got = ::read(from_parent_, &byte, 1);
  while (got < 0 && errno == EINTR);
  if (got != 1) ::_exit(exit_threw);
}

Child::Child(const std::function<void(ChildLink&)>& body) {
  const Pipe up, down;
  pid_ = fork_child([&] {
    ::close(up.read_end);
    ::close(down.write_end);
    ChildLink link;
    link.to_parent_ = up.write_end;
    link.from_parent_ = down.read_end;
    body(link);
  });
  ::close(up.write_end);
  ::close(down.read_end);
  from_child_ = up.read_end;
  to_child_ = down.write_end;
}

Child::~Child() {
  if (!reaped_) kill_and_wait();
  ::close(from_child_);
  ::close(to_child_);
}

bool Child::wait_ready(std::chrono::milliseconds timeout) const {
  pollfd readable{.fd = from_child_, .events = POLLIN, .revents = 0};
  int ready = 0;
  do ready = ::poll(&readable, 1, static_cast<int>(timeout.count()));
  while (ready < 0 && errno == EINTR);
  char byte = 0;
  return ready == 1 && ::read(from_child_, &byte, 1) == 1;
}

void Child::go() const {
  if (::write(to_child_, "g", 1) != 1) fail_test("write to the child");
}

void Child::send(int signal) const {
  if (::kill(pid_, signal) != 0) fail_test("kill");
}

Exit Child::wait(std::chrono::milliseconds timeout) {
  reaped_ = true;
  return wait_for(pid_, timeout);
}

void Child::kill_and_wait() {
  ::kill(pid_, SIGKILL);
  reaped_ = true;
  reap(pid_);
}

Exit run_child(const std::function<void()>& body, std::chrono::milliseconds timeout) {
  return wait_for(fork_child(body), timeout);
}

}  // namespace sluice::test
