// The measurements of two processes, the same for every transport:
//
//   fill    each side sends what the queue holds before the other receives: both have touched all memory afterwards
//   trips   the caller sends a payload, the partner one back; the time of both together, halved, is one way
//   stream  the caller sends as fast as it goes, until the partner has released the last message
//
// The last message of a part says that it is: nobody has to know beforehand how many there will be.
#pragma once

#include "shm/atomic.hpp"
#include "tests/bench/queues/board.hpp"
#include "tests/bench/queues/endpoint.hpp"
#include "tests/bench/support/bench.hpp"

#include <algorithm>
#include <cstdint>

namespace sluice::bench {

/// A transport that is open for two processes: names, descriptors, files. Gone at its end.
class Pair {
 public:
  Pair() = default;
  virtual ~Pair() = default;
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  /// In the process of that side: make an end, measure().
  virtual void run(Side side, Board& board) = 0;
};

inline constexpr std::uint64_t last_message = std::uint64_t{1} << 63;

template <Endpoint End>
void fill(End& end, Side side, Side from, Board& board) {
  const auto& task = board.task;
  const auto words = touched_words(task.bytes, Touch::all);
  auto& filled = board.filled[static_cast<unsigned>(from)].value;
  if (side == from) {
    for (std::uint32_t i = 0; i < in_flight(task.bytes); ++i) send(end, words, i);
    store(filled, 1, sluice::release);
  } else {
    while (load(filled, acquire) == 0) cpu_relax();
    for (std::uint32_t i = 0; i < in_flight(task.bytes); ++i)
      if (receive(end, words) != i) die("messages did not arrive in order");
  }
}

/// Trips until the time is over, at least a few, `count_max` at most. Returns how many; their times are in `took_ns`.
template <Endpoint End>
std::uint32_t call(End& end, std::uint64_t words, std::uint64_t ms, std::uint32_t count_max,
                   std::uint32_t* took_ns) {
  const std::uint32_t count_min = 5;
  const auto until = now_ns() + ms * 1'000'000;
  for (std::uint32_t i = 1;; ++i) {
    const auto begin = now_ns();
    const bool last = i == count_max || (i >= count_min && begin >= until);
    const auto value = last ? i | last_message : i;
    send(end, words, value);
    if (receive(end, words) != value) die("an answer belongs to another message");
    took_ns[i - 1] = static_cast<std::uint32_t>(std::min<std::uint64_t>(now_ns() - begin, ~std::uint32_t{0}));
    if (last) return i;
  }
}

template <Endpoint End>
void answer(End& end, std::uint64_t words) {
  for (std::uint64_t value = 0; (value & last_message) == 0;) {
    value = receive(end, words);
    send(end, words, value);
  }
}

/// Messages per second.
template <Endpoint End>
double stream(End& end, std::uint64_t words, Board& board) {
  const auto& task = board.task;
  const std::uint64_t look_every =
      task.bytes < 65536 ? 64 : 1;  // at the clock, which costs as much as a message
  const auto finished = load(board.finished.value, acquire);
  const auto begin = now_ns();
  const auto until = begin + task.ms * 1'000'000;
  std::uint64_t i = 1;
  for (;; ++i) {
    const bool last = i % look_every == 0 && now_ns() >= until;
    send(end, words, last ? i | last_message : i);
    if (last) break;
  }
  while (load(board.finished.value, acquire) == finished) cpu_relax();
  return static_cast<double>(i) * 1e9 / static_cast<double>(now_ns() - begin);
}

template <Endpoint End>
void drain(End& end, std::uint64_t words, Board& board) {
  for (std::uint64_t expected = 1;; ++expected) {
    const auto value = receive(end, words);
    if ((value & ~last_message) != expected) die("messages did not arrive in order");
    if ((value & last_message) != 0) break;
  }
  store(board.finished.value, board.finished.value + 1, sluice::release);
}

template <Endpoint End>
void measure(End& end, Side side, Board& board) {
  const auto& task = board.task;
  const bool is_caller = side == Side::caller;
  keep_on(task.core[static_cast<unsigned>(side)]);
  if (task.holds_messages) {
    fill(end, side, Side::caller, board);
    fill(end, side, Side::partner, board);
  }
  for (const auto touch : touches) {
    const auto words = touched_words(task.bytes, touch);
    if (touch == Touch::all && task.bytes <= 64) continue;  // the same
    const auto index = static_cast<unsigned>(touch);
    auto* took_ns = board.trip_ns[index];
    if (is_caller) {
      call(end, words, task.ms / 10, trips_max / 10, took_ns);  // warm-up, overwritten
      board.trip_count[index] = call(end, words, task.ms, trips_max, took_ns);
    } else {
      answer(end, words);
      answer(end, words);
    }
    if (!task.streams) continue;
    if (is_caller)
      board.messages_per_s[index] = stream(end, words, board);
    else
      drain(end, words, board);
  }
}

}  // namespace sluice::bench
