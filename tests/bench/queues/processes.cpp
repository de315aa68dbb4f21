#include "tests/bench/queues/processes.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::bench {

namespace {

[[noreturn]] void be_child(const std::function<void()>& body, pid_t parent, unsigned seconds_max) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it was gone before the line above
  alarm(seconds_max);
  body();
  std::exit(0);  // destructors of libraries say goodbye to their daemons
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return "a process did not end in time";
  if (WIFSIGNALED(status)) return fmt::format("a process ended with signal {}", WTERMSIG(status));
  return fmt::format("a process ended with exit code {}", WEXITSTATUS(status));
}

}  // namespace

std::string run_processes(const std::vector<std::function<void()>>& bodies, unsigned seconds_max) {
  std::fflush(nullptr);  // else each child prints it again
  const pid_t parent = getpid();
  std::vector<pid_t> running;
  std::string problem;
  for (const auto& body : bodies) {
    const pid_t child = fork();
    if (child == 0) be_child(body, parent, seconds_max);
    if (child > 0)
      running.push_back(child);
    else
      problem = "no process can be started";
  }
  const auto end_all = [&] {
    for (const pid_t child : running) kill(child, SIGKILL);
  };
  if (!problem.empty()) end_all();
  while (!running.empty()) {
    int status = 0;
    const pid_t child = waitpid(-1, &status, 0);
    if (child < 0) continue;
    std::erase(running, child);
    if (status == 0 || !problem.empty()) continue;
    problem = how_it_ended(status);
    end_all();
  }
  return problem;
}

void die(const std::string& sentence) {
  fmt::print(stderr, "queues_bench: {}\n", sentence);
  std::exit(1);
}

}  // namespace sluice::bench
