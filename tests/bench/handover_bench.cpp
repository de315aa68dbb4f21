// Handing blocks from one process to another through a stream, beside a bare cache-line ping-pong between the same
// cores. One way: allocate, write 64 bytes, push; pop, read, release. The child opens the segment itself.
#include "ipc/stream.hpp"
#include "runtime/session.hpp"
#include "tests/bench/support/bench.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace sluice;
using namespace sluice::bench;

constexpr int rounds = 40;
constexpr int trips = 5000;
constexpr std::uint64_t streamed = 4'000'000;
constexpr std::uint32_t capacity = 4096;

// Shared by parent and child outside the segment: what to do next, and lines for the ping-pong. How long a line
// takes between two cores depends on where its address has its home in the processor: each round has its own two.
struct alignas(128) Line {
  std::uint64_t value;
};
struct Shared {
  Line command, done;
  Line lines[rounds][32];  // a page a round

  struct Pair {
    std::uint64_t &ping, &pong;
  };
  Pair lines_of(int round) { return {lines[round][round % 16].value, lines[round][16 + round % 16].value}; }
};
enum Command : std::uint64_t { wait = 0, pingpong = 1, echo = 2, drain = 3, quit = 4 };

struct End {
  Session session;
  std::unique_ptr<Lane> lane;
};

End join(const std::string& path, const char* role) {
  auto session = Session::open(path, role);
  if (!session) {
    fmt::print(stderr, "handover_bench: {}\n", session.error().message);
    std::exit(1);
  }
  auto lane = session->claim_lane({.cells = 8192, .name = role});
  if (!lane) {
    fmt::print(stderr, "handover_bench: {}\n", lane.error().message);
    std::exit(1);
  }
  return {std::move(*session), std::move(*lane)};
}

void must(Status status) {
  if (status == Status::ok) return;
  fmt::print(stderr, "handover_bench: {}\n", to_string(status));
  std::abort();
}

// allocate, write, push
void send(End& end, StreamProducer& producer, std::uint64_t value) {
  auto& heap = end.lane->heap();
  auto reference = heap.allocate(64);
  while (!reference) reference = heap.allocate(64);  // the consumer still has everything
  auto* words = reinterpret_cast<std::uint64_t*>(heap.bytes(*reference).data());
  for (int i = 0; i < 8; ++i) words[i] = value;
  Message message{};
  message.kind = MessageKind::data;
  message.length = 64;
  Status status;
  while ((status = producer.push(message, *reference)) == Status::full) cpu_relax();
  must(status);
}

// pop, read, release
std::uint64_t receive(End& end, StreamConsumer& consumer) {
  const Message* message;
  while ((message = consumer.peek()) == nullptr) cpu_relax();
  const auto block = find_block(end.session.segment(), {message->handle});
  if (!block) must(block.error());
  std::uint64_t words[8];
  std::memcpy(words, block->data, sizeof words);
  must(consumer.acknowledge());
  std::uint64_t sum = 0;
  for (const auto word : words) sum += word;
  return sum / 8;
}

void child_main(const std::string& path, Shared& shared) {
  int round = 0;
  pin_to_core(1);
  auto end = join(path, "echo");
  auto there = StreamConsumer::claim(*end.lane, *find_queue(end.session.segment(), "there"));
  auto back = StreamProducer::claim(*end.lane, *find_queue(end.session.segment(), "back"));
  if (!there || !back) std::abort();
  for (std::uint64_t done = 0;;) {
    const auto command = load(shared.command.value, acquire);
    if (command == wait) {
      cpu_relax();
      continue;
    }
    if (command == quit) return;
    if (command == pingpong) {
      auto [ping, pong] = shared.lines_of(round++);
      for (std::uint64_t i = 1; i <= trips; ++i) {
        while (load(ping, acquire) != i) cpu_relax();
        store(pong, i, release);
      }
    }
    if (command == echo)
      for (int i = 0; i < trips; ++i) send(end, *back, receive(end, *there));
    if (command == drain)
      for (std::uint64_t i = 0; i < streamed; ++i)
        if (receive(end, *there) != i) std::abort();
    end.lane->heap().flush();
    store(shared.command.value, wait, release);
    store(shared.done.value, ++done, release);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Report report("handover", argc, argv);
  const ScratchPath path("handover");
  {
    auto segment = Segment::create(path.str());
    if (!segment) return fmt::print(stderr, "handover_bench: {}\n", segment.error().message), 1;
    auto session = Session::join(std::move(*segment), "setup");
    auto lane = session->claim_lane();
    for (const char* name : {"there", "back"})
      if (auto queue = create_stream(**lane, name, capacity); !queue)
        return fmt::print(stderr, "handover_bench: {}\n", queue.error().message), 1;
    lane->reset();
  }
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const pid_t child = fork();
  if (child == 0) {
    child_main(path.str(), *shared);
    _exit(0);
  }
  pin_to_core(0);
  auto end = join(path.str(), "caller");
  auto there = StreamProducer::claim(*end.lane, *find_queue(end.session.segment(), "there"));
  auto back = StreamConsumer::claim(*end.lane, *find_queue(end.session.segment(), "back"));
  if (!there || !back) return fmt::print(stderr, "handover_bench: a role is taken\n"), 1;

  std::uint64_t finished = 0;
  const auto with_child = [&](Command command, const std::function<void()>& body) {
    store(shared->command.value, command, release);
    body();
    ++finished;
    while (load(shared->done.value, acquire) != finished) {
      cpu_relax();
      if (waitpid(child, nullptr, WNOHANG) == child) std::exit(1);
    }
  };

  std::vector<double> bare, ours, rate;
  for (int round = 0; round < rounds; ++round) {
    with_child(pingpong, [&] {
      auto [ping, pong] = shared->lines_of(round);
      for (std::uint64_t i = 1; i <= trips; ++i) {
        const auto begin = now_ns();
        store(ping, i, release);
        while (load(pong, acquire) != i) cpu_relax();
        bare.push_back(static_cast<double>(now_ns() - begin) / 2);
      }
    });
    with_child(echo, [&] {
      for (std::uint64_t i = 1; i <= trips; ++i) {
        const auto begin = now_ns();
        send(end, *there, i);
        if (receive(end, *back) != i) std::abort();
        ours.push_back(static_cast<double>(now_ns() - begin) / 2);
      }
    });
  }
  for (int round = 0; round < 5; ++round)
    with_child(drain, [&] {
      const auto begin = now_ns();
      for (std::uint64_t i = 0; i < streamed; ++i) send(end, *there, i);
      while (there->head() != there->tail()) cpu_relax();
      rate.push_back(static_cast<double>(streamed) * 1e3 / static_cast<double>(now_ns() - begin));
    });
  store(shared->command.value, quit, release);
  waitpid(child, nullptr, 0);

  for (const double p : {50.0, 99.0, 99.9})
    report.add({fmt::format("one way, 64 B, p{:g}", p), "ns", percentile(ours, p), "bare cache line",
                percentile(bare, p)});
  report.add({"streaming, 64 B, median of 5", "M/s", percentile(rate, 50), "goal", 8});
  report.note(
      fmt::format("one way is half a round trip, {} of them, in {} rounds interleaved with the bare line; "
                  "a timer call costs {:.0f} ns, two are in each trip",
                  rounds * trips, rounds, timer_overhead_ns()));
  there = std::unexpected(Status::closed);
  back = std::unexpected(Status::closed);
  return report.finish();
}
