// What a wait costs: how late a message is seen, and how much processor time the waiter uses, when messages come so
// far apart; with what was learned about looking, when sleeping at once, and when always looking for as long as one may.
#include "ipc/stream.hpp"
#include "ipc/waiting.hpp"
#include "runtime/session.hpp"
#include "tests/bench/support/bench.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <thread>

namespace {

using namespace sluice;
using namespace sluice::bench;

constexpr std::uint64_t gaps_us[] = {2, 5, 10, 20, 50, 200, 1000};
constexpr int rounds = 5;
constexpr std::uint64_t round_ns = 60'000'000;  // of each gap and way

enum class Way { learned, sleep_at_once, look_always };

struct Sample {
  std::vector<double> late_ns;
  double cpu_ns = 0;  // of the waiter
  std::uint64_t messages = 0;
};

std::uint64_t thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

template <class T>
T must(Expected<T> result) {
  if (result) return std::move(*result);
  fmt::print(stderr, "waiting_bench: {}\n", result.error().message);
  std::exit(1);
}

void push_at_gaps(StreamProducer& producer, std::uint64_t gap_ns, std::uint64_t count) {
  pin_to_core(0);
  auto next = now_ns() + 1'000'000;
  for (std::uint64_t i = 0; i < count; ++i, next += gap_ns) {
    while (now_ns() < next) cpu_relax();
    Message message{};
    message.kind = MessageKind::user;
    message.receive_ns = now_ns();
    if (producer.push(message) != Status::ok) std::abort();
    next = std::max(next, now_ns() - gap_ns);  // whoever was put aside does not catch up
  }
}

void measure(Lane& lane, StreamConsumer& consumer, StreamProducer& producer, std::uint64_t gap_us, Way way,
             Sample& sample) {
  const auto count = std::clamp<std::uint64_t>(round_ns / (gap_us * 1000), 50, 4000);
  detail::spin_ns_limit = way == Way::sleep_at_once ? 0 : spin_ns_max;
  lane.spin() = {};
  std::jthread pushing([&] { push_at_gaps(producer, gap_us * 1000, count); });
  const auto source = consumer.messages();
  const auto begin = thread_cpu_ns();
  for (std::uint64_t taken = 0; taken < count;) {
    if (way == Way::look_always) lane.spin() = {};
    (void)wait_any(lane, std::span(&source, 1), std::chrono::seconds(1));
    for (const auto* message = consumer.peek(); message != nullptr; message = consumer.peek(), ++taken) {
      sample.late_ns.push_back(static_cast<double>(now_ns() - message->receive_ns));
      if (consumer.acknowledge() != Status::ok) std::abort();
    }
  }
  sample.cpu_ns += static_cast<double>(thread_cpu_ns() - begin);
  sample.messages += count;
}

}  // namespace

int main(int argc, char** argv) {
  Report report("waiting", argc, argv);
  const ScratchPath path("waiting");
  {
    auto session = must(Session::join(must(Segment::create(path.str())), "bench"));
    const auto ours = must(session.claim_lane());
    const auto theirs = must(session.claim_lane());
    const auto id = must(create_stream(*ours, "s", 4096));
    auto consumer = *StreamConsumer::claim(*ours, id);
    auto producer = *StreamProducer::claim(*theirs, id);
    pin_to_core(1);
    for (const auto gap : gaps_us) {
      Sample samples[3];
      for (int round = 0; round < rounds; ++round)
        for (const auto way : {Way::learned, Way::sleep_at_once, Way::look_always})
          measure(*ours, consumer, producer, gap, way, samples[static_cast<int>(way)]);
      const auto late = [&](Way way) {
        return percentile(samples[static_cast<int>(way)].late_ns, 50) / 1000;
      };
      const auto cpu = [&](Way way) {
        const auto& sample = samples[static_cast<int>(way)];
        return sample.cpu_ns / static_cast<double>(sample.messages) / 1000;
      };
      const auto name = fmt::format("every {} us", gap);
      report.add({name + ", late p50", "us", late(Way::learned), "sleep at once", late(Way::sleep_at_once)});
      report.add({name + ", late p50", "us", late(Way::learned), "look always", late(Way::look_always)});
      report.add({name + ", CPU each", "us", cpu(Way::learned), "sleep at once", cpu(Way::sleep_at_once)});
      report.add({name + ", CPU each", "us", cpu(Way::learned), "look always", cpu(Way::look_always)});
    }
  }
  report.note(fmt::format("two threads of one process, a stream, each pinned; {} rounds of each way in turns",
                          rounds));
  report.note(
      "CPU is the waiter's, for each message; the other thread pushes at its times and does nothing else");
  return report.finish();
}
