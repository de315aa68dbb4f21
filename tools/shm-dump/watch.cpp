#include "tools/shm-dump/watch.hpp"

#include "tools/common/parse.hpp"

#include <fmt/format.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <thread>

#include <unistd.h>

namespace sluice::tools {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::nanoseconds interval_min = std::chrono::milliseconds(10);
constexpr std::chrono::nanoseconds interval_max = std::chrono::hours(24);

// Seconds as a number, or a duration with its unit; 0: neither.
std::chrono::nanoseconds parse_interval(std::string_view text) {
  double seconds = 0;
  const char* end = std::to_address(text.end());
  const auto [rest, error] = std::from_chars(std::to_address(text.begin()), end, seconds);
  if (error == std::errc{} && rest == end) {
    const bool fits = seconds > 0 && seconds <= std::chrono::duration<double>(interval_max).count();
    return std::chrono::nanoseconds(fits ? static_cast<std::int64_t>(seconds * 1e9) : 0);
  }
  return parse_duration(text).value_or(std::chrono::nanoseconds(0));
}

void end_at_signal(int /*signal*/) { _exit(static_cast<int>(ExitCode::ok)); }

bool is_screen() noexcept {
  const char* term = std::getenv("TERM");
  return term != nullptr && std::string_view(term) != "dumb" && isatty(STDOUT_FILENO) == 1;
}

}  // namespace

void add_watch_options(CLI::App& command, const std::shared_ptr<WatchOptions>& options) {
  const CLI::callback_t set = [options](const CLI::results_t& values) {
    const std::string text = values.empty() || values.back().empty() ? "1" : values.back();
    const auto interval = parse_interval(text);
    if (interval < interval_min || interval > interval_max)
      throw CLI::ValidationError(
          "--watch",
          fmt::format("'{}' is not an interval: expected seconds or a duration, 10ms to 24h", text));
    options->interval = interval;
    return true;
  };
  auto* watched = command.add_option("--watch", set, "Look again every INTERVAL seconds (1), until a signal");
  watched->type_name("INTERVAL")->expected(0, 1)->take_last();
  command.add_option("--count", options->count, "With --watch: end after N rounds")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->needs(watched);
}

ExitCode watch(const WatchOptions& options, bool plain,
               const std::function<void(std::uint64_t number, double seconds)>& round) {
  std::signal(SIGINT, end_at_signal);
  std::signal(SIGTERM, end_at_signal);
  const bool redraws = !plain && is_screen();
  auto before = Clock::now();
  for (std::uint64_t number = 1;; ++number) {
    std::this_thread::sleep_for(options.interval);
    const auto now = Clock::now();
    if (redraws) fmt::print("\x1b[H\x1b[2J");
    round(number, std::chrono::duration<double>(now - before).count());
    before = now;
    if (std::fflush(stdout) != 0 || number == options.count) return ExitCode::ok;
  }
}

}  // namespace sluice::tools
