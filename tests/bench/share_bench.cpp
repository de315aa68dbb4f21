// References to shared blocks beside the instruction they rest on; what a dead process costs.
#include "runtime/session.hpp"
#include "tests/bench/support/bench.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <optional>

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace sluice;
using namespace sluice::bench;

constexpr int rounds = 5000;
constexpr int batch = 64;  // what they touch stays in the first cache
constexpr int references = 10'000;
constexpr int deaths = 30;
constexpr int wakes = 200;

template <class T, class E>
T must(std::expected<T, E> result) {
  if (!result) {
    fmt::print(stderr, "share_bench: unexpected failure\n");
    std::exit(1);
  }
  return std::move(*result);
}
void must(Status status) {
  if (status != Status::ok) std::abort();
}

std::uint64_t cpu_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// Clone and release one reference; the bare 16-byte compare-and-swap, twice, beside it.
void uncontended(Report& report) {
  const ScratchPath path("share");
  auto session = must(Session::join(must(Segment::create(path.str())), "bench"));
  const auto lane = must(session.claim_lane({.cells = 8192}));
  auto& heap = lane->heap();
  const auto block = must(heap.allocate(256));
  alignas(16) static TruthWord word{};
  std::vector<double> ours, bare, clones, drops;
  std::vector<Reference> held(batch);
  for (int round = 0; round < rounds; ++round) {
    auto begin = now_ns();
    for (int i = 0; i < batch; ++i) must(heap.release(must(heap.clone(block))));
    ours.push_back(static_cast<double>(now_ns() - begin) / batch);
    begin = now_ns();
    for (int i = 0; i < 2 * batch; ++i) {
      auto low = word.low;
      auto tag = word.tag;
      if (!cas_wide(word.low, word.tag, low, tag, low + 1, tag + 1)) std::abort();
    }
    bare.push_back(static_cast<double>(now_ns() - begin) / batch);
    begin = now_ns();
    for (auto& reference : held) reference = *heap.clone(block);
    clones.push_back(static_cast<double>(now_ns() - begin) / batch);
    begin = now_ns();
    for (const auto& reference : held) must(heap.release(reference));
    drops.push_back(static_cast<double>(now_ns() - begin) / batch);
  }
  report.add({"clone, p50", "ns", percentile(clones, 50), "goal", 20});
  report.add({"drop, p50", "ns", percentile(drops, 50), "goal", 20});
  report.add({"clone + drop, p50", "ns", percentile(ours, 50), "two 16-byte CAS", percentile(bare, 50)});
  report.add({"clone + drop, p99", "ns", percentile(ours, 99), "two 16-byte CAS", percentile(bare, 99)});
}

int open_pidfd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

// A child that holds `count` references, and waits to be killed.
pid_t start_holder(const std::string& path, int count) {
  int ready[2];
  if (::pipe(ready) != 0) std::abort();
  const pid_t child = ::fork();
  if (child == 0) {
    auto session = must(Session::open(path, "holder"));
    const auto lane = must(session.claim_lane({.cells = 16384}));
    for (int i = 0; i < count; ++i) must(lane->heap().allocate(64));
    if (::write(ready[1], "!", 1) != 1) std::abort();
    for (;;) ::pause();
  }
  ::close(ready[1]);
  char told;
  if (::read(ready[0], &told, 1) != 1) std::abort();
  ::close(ready[0]);
  return child;
}

// CPU time of recovering one process that was killed holding 10,000 blocks, in a segment of this size.
double recover_holder_ms(const std::string& path, Session& session) {
  const pid_t child = start_holder(path, references);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const auto begin = cpu_ns();
  const auto report = session.recover_dead();
  const auto spent = cpu_ns() - begin;
  if (report.references != references) std::abort();
  return static_cast<double>(spent) / 1e6;
}

void recovery(Report& report) {
  const ScratchPath small_path("share-small"), large_path("share-large");
  auto small = must(
      Session::join(must(Segment::create(small_path.str(), {.payload_bytes_max = 64ULL << 20})), "bench"));
  auto large = must(
      Session::join(must(Segment::create(large_path.str(), {.payload_bytes_max = 64ULL << 30})), "bench"));
  std::vector<double> in_small, in_large;
  for (int i = 0; i < deaths; ++i) {
    in_small.push_back(recover_holder_ms(small_path.str(), small));
    in_large.push_back(recover_holder_ms(large_path.str(), large));
  }
  report.add({"recover 10,000 references, CPU, 64 MiB, p50", "ms", percentile(in_small, 50), "goal", 1});
  report.add(
      {"the same, 64 GiB sparse, p50", "ms", percentile(in_large, 50), "64 MiB", percentile(in_small, 50)});
}

// From kill() to everything recovered, in a process that sleeps on the victim's pidfd as a supervisor does.
void kill_to_recovered(Report& report) {
  const ScratchPath path("share-kill");
  auto session = must(Session::join(must(Segment::create(path.str())), "bench"));
  std::vector<double> took;
  for (int i = 0; i < wakes; ++i) {
    const pid_t child = start_holder(path.str(), 16);
    pollfd death{.fd = open_pidfd(child), .events = POLLIN, .revents = 0};
    const auto begin = now_ns();
    ::kill(child, SIGKILL);
    if (::poll(&death, 1, 5000) != 1) std::abort();
    if (session.recover_dead().references != 16) std::abort();
    took.push_back(static_cast<double>(now_ns() - begin) / 1e6);
    ::close(death.fd);
    ::waitpid(child, nullptr, 0);
  }
  report.add({"SIGKILL to recovered, p50", "ms", percentile(took, 50), "goal", 1});
  report.add({"SIGKILL to recovered, p99", "ms", percentile(took, 99), "goal", 1});
}

}  // namespace

int main(int argc, char** argv) {
  Report report("share", argc, argv);
  pin_to_core(0);
  uncontended(report);
  recovery(report);
  kill_to_recovered(report);
  report.note(
      fmt::format("{} rounds of {}, one thread, nobody else; recovery: {} deaths in each segment, in turn; "
                  "a timer call costs {:.0f} ns, one is in each round",
                  rounds, batch, deaths, timer_overhead_ns()));
  return report.finish();
}
