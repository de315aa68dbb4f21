// What a queue counts and times, and what is under way in it. The sum over queues is what is told of a device.
#pragma once

#include "ublk/latency.hpp"

#include <chrono>
#include <cstdint>

namespace sluice {

/// Since the queue was opened.
struct UblkCounters {
  std::uint64_t reads = 0, writes = 0, flushes = 0, discards = 0, write_zeroes = 0;
  std::uint64_t read_bytes = 0, write_bytes = 0;
  std::uint64_t durable_writes = 0;  // of the writes, those with FUA
  std::uint64_t errors = 0;          // requests finished with an errno, which count nowhere above
  std::uint64_t refused = 0;         // of those, descriptors that no device of ours can have
  std::uint64_t turns = 0;           // in which at least one request was committed
  std::uint64_t waits = 0;           // turns, also those in which nothing happened
  std::uint64_t enters = 0;          // system calls that submit and wait: io_uring_enter
  std::uint64_t copy_calls = 0;      // system calls that move data: user copy

  std::uint64_t requests() const noexcept {
    return reads + writes + flushes + discards + write_zeroes + errors;
  }
  UblkCounters& operator+=(const UblkCounters& other) noexcept;
};

/// From the arrival of a request, which is the end of the wait that brought it, to the submission of its result.
struct UblkLatencies {
  LatencyHistogram reads, writes, others;

  UblkLatencies& operator+=(const UblkLatencies& other) noexcept;
};

struct UblkUnderWay {
  std::uint32_t requests = 0;  // that have arrived and are not committed
  std::chrono::nanoseconds oldest_age{0};
  std::uint16_t oldest_queue = 0;
  std::uint16_t oldest_tag = 0;
  /// Since a queue last looked for requests, the longest. Queues do it each second at least: more is a thread that
  /// its target keeps, and requests that wait for it are not counted above.
  std::chrono::nanoseconds turn_age{0};

  UblkUnderWay& operator+=(const UblkUnderWay& other) noexcept;
};

struct UblkStatistics {
  UblkCounters counters;
  UblkLatencies latencies;
  UblkUnderWay under_way;

  UblkStatistics& operator+=(const UblkStatistics& other) noexcept;
};

}  // namespace sluice
