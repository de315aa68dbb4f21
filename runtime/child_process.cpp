#include "runtime/child_process.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice {

namespace {

// What runs between fork and exec: async-signal-safe calls only, and no return.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* environment, pid_t parent,
                         int kept_fd, int death_signal, int error_fd) {
  // The parent may have died before the request: then nobody would tell this process.
  if (prctl(PR_SET_PDEATHSIG, death_signal) != 0 || getppid() != parent) _exit(0);
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  for (const int signal : {SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
  action.sa_handler = SIG_IGN;
  for (const int signal : {SIGINT, SIGHUP, SIGPIPE}) sigaction(signal, &action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  if (kept_fd >= 0) fcntl(kept_fd, F_SETFD, 0);
  execvpe(program, arguments, environment);
  const int error = errno;
  [[maybe_unused]] const auto written = write(error_fd, &error, sizeof error);
  _exit(127);
}

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const auto& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// This process's environment with `given` in place of what has the same names.
std::vector<std::string> environment_with(const std::vector<std::string>& given) {
  auto environment = given;
  for (char** own = environ; *own != nullptr; ++own) {
    const std::string_view text = *own;
    const auto name = text.substr(0, text.find('=') + 1);
    const auto has_name = [&](const std::string& other) { return other.starts_with(name); };
    if (std::ranges::none_of(given, has_name)) environment.emplace_back(text);
  }
  return environment;
}

}  // namespace

std::string ChildExit::describe() const {
  if (!killed) return fmt::format("exited with code {}", value);
  const char* name = sigabbrev_np(value);
  return name != nullptr ? fmt::format("was killed by SIG{}", name)
                         : fmt::format("was killed by signal {}", value);
}

Expected<ChildProcess> ChildProcess::start(const std::string& program,
                                           const std::vector<std::string>& arguments, int kept_fd,
                                           int death_signal, const std::vector<std::string>& environment) {
  const auto pointers = pointers_to(arguments);
  const auto variables = environment_with(environment);
  const auto variable_pointers = pointers_to(variables);

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe2");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);

  // No signal may reach the child before its handlers are its own.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0)
    become(program.c_str(), pointers.data(), variable_pointers.data(), parent, kept_fd, death_signal,
           write_end.get());
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return fail_errno(fmt::format("fork for {}", program), fork_error);

  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const int pidfd_error = errno;
  ChildProcess child(pid, std::move(pidfd));
  if (child.pidfd() < 0) return fail_errno(fmt::format("pidfd_open of {}", program), pidfd_error);
  write_end.reset();
  int exec_error = 0;
  ssize_t got = 0;
  do got = ::read(read_end.get(), &exec_error, sizeof exec_error);
  while (got < 0 && errno == EINTR);
  if (got == sizeof exec_error) return fail_errno(fmt::format("exec {}", program), exec_error);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    kill_and_reap();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
  }
  return *this;
}

ChildProcess::~ChildProcess() { kill_and_reap(); }

void ChildProcess::kill_and_reap() noexcept {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);  // not reaped, so the number is still its
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
  pid_ = -1;
}

void ChildProcess::send(int signal) const noexcept {
  if (pid_ >= 0) ::kill(pid_, signal);
}

std::optional<ChildExit> ChildProcess::reap() noexcept {
  if (pid_ < 0) return std::nullopt;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  pid_ = -1;
  if (WIFSIGNALED(status)) return ChildExit{true, WTERMSIG(status)};
  return ChildExit{false, WEXITSTATUS(status)};
}

}  // namespace sluice
