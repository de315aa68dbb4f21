// `--watch [INTERVAL] --count N`: a command that looks again and again.
#pragma once

#include "tools/common/command_line.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace sluice::tools {

struct WatchOptions {
  std::chrono::nanoseconds interval{0};  // 0: one look
  std::uint64_t count = 0;               // rounds; 0: until a signal

  bool is_on() const noexcept { return interval.count() != 0; }
};

/// --watch and --count. The options live in the command's, whose lifetime `owner` is.
void add_watch_options(CLI::App& command, const std::shared_ptr<WatchOptions>& options);

/// Call `round` after each interval, with its number from 1 and the seconds since the one before. What it prints
/// takes the place of the round before where stdout is a terminal, unless `plain`. SIGINT and SIGTERM end the
/// program with code 0, whatever it is doing: nothing is changed by a look.
ExitCode watch(const WatchOptions& options, bool plain,
               const std::function<void(std::uint64_t number, double seconds)>& round);

}  // namespace sluice::tools
