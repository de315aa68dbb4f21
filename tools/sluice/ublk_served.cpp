#include "tools/sluice/ublk_served.hpp"

#include "tools/common/format.hpp"
#include "tools/common/json.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <string_view>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

sigset_t status_signal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  return signals;
}

// Microseconds with a decimal where format_duration() would be too coarse to compare.
std::string time_text(std::uint64_t ns) {
  if (ns >= 1'000 && ns < 100'000) return fmt::format("{:.1f} us", static_cast<double>(ns) / 1e3);
  if (ns >= 1'000'000 && ns < 100'000'000) return fmt::format("{:.1f} ms", static_cast<double>(ns) / 1e6);
  return format_duration(std::chrono::nanoseconds(ns));
}

std::string served_text(const UblkCounters& counters) {
  return fmt::format(
      "served: {} reads ({}), {} writes ({}), {} durable writes, {} flushes, {} discards, {} write-zeroes, {} errors",
      counters.reads, format_size(counters.read_bytes), counters.writes, format_size(counters.write_bytes),
      counters.durable_writes, counters.flushes, counters.discards, counters.write_zeroes, counters.errors);
}

std::string times_text(std::string_view what, const LatencyHistogram& times) {
  if (times.count() == 0) return fmt::format("{} none", what);
  return fmt::format("{} p50 {}, p99 {}, p99.9 {}, max {}", what, time_text(times.percentile_ns(0.5)),
                     time_text(times.percentile_ns(0.99)), time_text(times.percentile_ns(0.999)),
                     time_text(times.max_ns()));
}

std::string latency_text(const UblkLatencies& latencies) {
  return fmt::format("latency: {}; {}; {}", times_text("reads", latencies.reads),
                     times_text("writes", latencies.writes), times_text("others", latencies.others));
}

std::string calls_text(const UblkCounters& counters) {
  const auto calls = counters.enters + counters.copy_calls;
  const auto requests = counters.requests();
  return fmt::format("calls: {} io_uring_enter, {} copies, {:.3f} for each request", counters.enters,
                     counters.copy_calls,
                     requests != 0 ? static_cast<double>(calls) / static_cast<double>(requests) : 0.0);
}

std::string under_way_text(const UblkUnderWay& under_way) {
  const auto turn = fmt::format("last turn {} ago", format_duration(under_way.turn_age));
  if (under_way.requests == 0) return fmt::format("nothing in flight, {}", turn);
  return fmt::format("{} in flight, the oldest for {} (queue {}, tag {}), {}", under_way.requests,
                     format_duration(under_way.oldest_age), under_way.oldest_queue, under_way.oldest_tag,
                     turn);
}

Json times_json(const LatencyHistogram& times) {
  return {{"count", times.count()},
          {"p50_ns", times.percentile_ns(0.5)},
          {"p99_ns", times.percentile_ns(0.99)},
          {"p99_9_ns", times.percentile_ns(0.999)},
          {"max_ns", times.max_ns()}};
}

}  // namespace

void print_served(const UblkStatistics& statistics, bool json, std::string_view label) {
  const auto& counters = statistics.counters;
  if (!json) {
    for (const auto& line : {served_text(counters), latency_text(statistics.latencies), calls_text(counters)})
      fmt::print("{}{}\n", label, line);
    return;
  }
  auto document = json_document("sluice.ublk.served/1");
  document["reads"] = counters.reads;
  document["read_bytes"] = counters.read_bytes;
  document["writes"] = counters.writes;
  document["write_bytes"] = counters.write_bytes;
  document["durable_writes"] = counters.durable_writes;
  document["flushes"] = counters.flushes;
  document["discards"] = counters.discards;
  document["write_zeroes"] = counters.write_zeroes;
  document["errors"] = counters.errors;
  document["refused"] = counters.refused;
  document["turns"] = counters.turns;
  document["waits"] = counters.waits;
  document["enters"] = counters.enters;
  document["copy_calls"] = counters.copy_calls;
  document["latency"] = {{"reads", times_json(statistics.latencies.reads)},
                         {"writes", times_json(statistics.latencies.writes)},
                         {"others", times_json(statistics.latencies.others)}};
  print_json(document);
}

void StatusAnswers::block_signal() {
  const auto signals = status_signal();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

Expected<std::unique_ptr<StatusAnswers>> StatusAnswers::begin(const UblkServer& server) {
  const auto signals = status_signal();
  UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd) return fail_errno("signalfd");
  UniqueFd ended(::eventfd(0, EFD_CLOEXEC));
  if (!ended) return fail_errno("eventfd");
  return std::unique_ptr<StatusAnswers>(new StatusAnswers(server, std::move(signal_fd), std::move(ended)));
}

StatusAnswers::StatusAnswers(const UblkServer& server, UniqueFd signals, UniqueFd ended)
    : server_(server), signals_(std::move(signals)), ended_(std::move(ended)), thread_([this] { run(); }) {}

StatusAnswers::~StatusAnswers() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto ignored = ::write(ended_.get(), &one, sizeof one);
  thread_.join();
}

void StatusAnswers::run() const {
  for (;;) {
    pollfd waiting[2] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                         {.fd = ended_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    if (waiting[1].revents != 0) return;
    signalfd_siginfo asked{};
    if (::read(signals_.get(), &asked, sizeof asked) != sizeof asked) continue;
    const auto now = server_.statistics();
    fmt::print(stderr, "status: {}; {}; {}; {}\n", under_way_text(now.under_way), served_text(now.counters),
               latency_text(now.latencies), calls_text(now.counters));
  }
}

}  // namespace sluice::tools
