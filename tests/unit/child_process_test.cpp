// A supervisor's children one by one, and how often it starts them again.
#include "runtime/child_process.hpp"
#include "runtime/backoff.hpp"
#include "tests/support/must.hpp"
#include "tests/support/temp_segment.hpp"

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace sluice;
using namespace sluice::test;
using namespace std::chrono_literals;

TEST_CASE("backoff: at once, then 100 ms doubling to 5 s, and anew after 10 s of health",
          "[runtime][supervisor]") {
  Backoff backoff;
  CHECK(backoff.next(0s) == 0s);
  CHECK(backoff.next(1s) == 100ms);
  CHECK(backoff.next(1s) == 200ms);
  for (int i = 0; i < 10; ++i) CHECK(backoff.next(1s) <= 5s);
  CHECK(backoff.next(1s) == 5s);
  CHECK(backoff.next(10s) == 0s);
  CHECK(backoff.next(1s) == 100ms);
}

TEST_CASE("child: a program that is not there is an error of start, not of the child",
          "[runtime][supervisor]") {
  const auto child = ChildProcess::start("/no/such/program", {"program"});
  REQUIRE(!child);
  CHECK(child.error().status == Status::not_found);
  CHECK(child.error().message.find("/no/such/program") != std::string::npos);
}

TEST_CASE("child: how it ended is told once", "[runtime][supervisor]") {
  const auto end = [](const char* text) {
    auto child = must(ChildProcess::start("/bin/sh", {"sh", "-c", text}));
    for (;;)
      if (auto exit = child.reap()) {
        CHECK(!child.reap());
        return exit->describe();
      }
  };
  CHECK(end("exit 0") == "exited with code 0");
  CHECK(end("exit 6") == "exited with code 6");
  CHECK(end("kill -KILL $$") == "was killed by SIGKILL");
}

TEST_CASE("child: dies of the signal that it was given for its parent's death", "[runtime][supervisor]") {
  const auto [signal, dies] = GENERATE(std::pair(SIGKILL, true), std::pair(SIGTERM, false));
  CAPTURE(signal);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t parent = ::fork();
  if (parent == 0) {
    const auto child = ChildProcess::start(
        "/bin/sh",
        {"sh", "-c", fmt::format("trap '' TERM; echo $$ >/proc/self/fd/{}; exec sleep 60", ends[1])}, ends[1],
        signal);
    if (child) ::pause();
    ::_exit(1);
  }
  write_end.reset();
  char text[32] = {};
  REQUIRE(::read(read_end.get(), text, sizeof text - 1) > 0);
  const auto child = static_cast<pid_t>(std::atoi(text));
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  pollfd end{.fd = read_end.get(), .events = POLLIN, .revents = 0};  // the pipe ends with the child
  CHECK((::poll(&end, 1, dies ? 10'000 : 300) == 1) == dies);
  ::kill(child, SIGKILL);
}

TEST_CASE("child: its environment is its parent's, but for what it is given; its program may be in PATH",
          "[runtime][supervisor]") {
  const TempDirectory directory;
  ::setenv("SLUICE_TEST_KEPT", "kept", 1);
  ::setenv("SLUICE_TEST_OWN", "the parent's", 1);
  auto child = must(ChildProcess::start(
      "sh", {"sh", "-c", "echo \"$SLUICE_TEST_KEPT, $SLUICE_TEST_OWN\" >\"$0\"", directory.file("out")}, -1,
      SIGTERM, {"SLUICE_TEST_OWN=its own"}));
  while (!child.reap()) ::usleep(1000);
  const auto bytes = read_file(directory.file("out"));
  CHECK(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == "kept, its own\n");
}
