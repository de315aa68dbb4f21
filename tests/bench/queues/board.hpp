// What the two processes of a measurement share, besides what is measured: the task, and what came out.
#pragma once

#include "tests/bench/queues/cores.hpp"

#include <cstddef>
#include <cstdint>

namespace sluice::bench {

/// A cache line of its own, and its neighbour, which processors fetch along.
struct alignas(128) Line {
  std::uint64_t value;
};

enum class Side : unsigned { caller = 0, partner = 1 };
/// What of a payload the sender writes and the receiver reads: its first cache line, or all bytes.
enum class Touch : unsigned { line = 0, all = 1 };
inline constexpr Touch touches[] = {Touch::line, Touch::all};

struct Task {
  std::uint64_t bytes = 64;     // of each payload
  std::uint64_t ms = 100;       // how long each figure is measured
  unsigned core[2] = {};        // by Side
  bool holds_messages = false;  // in_flight() of them, without anybody who receives
  bool streams = false;         // whether a sender can go ahead of the receiver
};

/// Messages on their way at once, at most: 16 MiB of them, and 256, the largest queue that iceoryx has.
constexpr std::uint32_t in_flight(std::uint64_t bytes) {
  const std::uint64_t fitting = (std::uint64_t{16} << 20) / bytes;
  return static_cast<std::uint32_t>(fitting < 256 ? fitting : 256);
}

inline constexpr std::uint32_t trips_max = 20'000;

struct Board {
  Task task;
  Line filled[2];               // that side has sent what the queue holds
  Line finished;                // streams whose last message the partner has taken
  std::uint32_t trip_count[2];  // by Touch
  std::uint32_t trip_ns[2][trips_max];
  double messages_per_s[2];
};

}  // namespace sluice::bench
