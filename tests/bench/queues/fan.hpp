// What publishing costs with many subscribers, the same for every transport. Each subscriber is a process, all of them
// on the partner's core. The publisher is timed while they sleep: it publishes a batch, then they take it. What is
// measured is the publisher's own work, and the lines that it must fetch because subscribers have had them.
#pragma once

#include "shm/atomic.hpp"
#include "tests/bench/queues/board.hpp"
#include "tests/bench/queues/endpoint.hpp"
#include "tests/bench/support/bench.hpp"

#include <chrono>
#include <cstdint>
#include <thread>

namespace sluice::bench {

struct FanTask {
  unsigned subscribers = 1;
  std::uint32_t batches = 100;
  unsigned core[2] = {};  // by Side: the publisher's, the subscribers'
};

inline constexpr std::uint32_t batch_messages = 16;
inline constexpr std::uint32_t batches_max = 1000;
inline constexpr std::uint32_t batches_to_warm_up =
    32;  // the queues, 256 messages, have been gone round twice
inline constexpr std::uint64_t fan_bytes = 64;

struct FanBoard {
  FanTask task;
  Line ready;                      // subscribers that are connected
  Line batch;                      // published
  Line taken;                      // batches, by all subscribers together
  double publish_ns[batches_max];  // for each message, by batch
};

class Fan {
 public:
  Fan() = default;
  virtual ~Fan() = default;
  Fan(const Fan&) = delete;
  Fan& operator=(const Fan&) = delete;
  /// In the publisher's process: make it, publish_batches().
  virtual void publish(FanBoard& board) = 0;
  /// In the process of a subscriber: make it, take_batches().
  virtual void subscribe(FanBoard& board) = 0;
};

/// Publisher has loan() and send(), as an Endpoint.
template <class Publisher>
void publish_batches(Publisher& publisher, FanBoard& board) {
  const auto& task = board.task;
  const auto words = touched_words(fan_bytes, Touch::line);
  keep_on(task.core[static_cast<unsigned>(Side::caller)]);
  while (load(board.ready.value, acquire) != task.subscribers) cpu_relax();
  for (std::uint32_t batch = 1; batch <= batches_to_warm_up + task.batches; ++batch) {
    const auto begin = now_ns();
    for (std::uint32_t i = 0; i < batch_messages; ++i) {
      write_payload(publisher.loan(), words, batch);
      publisher.send();
    }
    const auto took = now_ns() - begin;
    if (batch > batches_to_warm_up)
      board.publish_ns[batch - batches_to_warm_up - 1] = static_cast<double>(took) / batch_messages;
    store(board.batch.value, batch, sluice::release);
    while (load(board.taken.value, acquire) != std::uint64_t{batch} * task.subscribers) cpu_relax();
  }
}

/// Subscriber has receive() and release(), as an Endpoint.
template <class Subscriber>
void take_batches(Subscriber& subscriber, FanBoard& board) {
  const auto& task = board.task;
  const auto words = touched_words(fan_bytes, Touch::line);
  keep_on(task.core[static_cast<unsigned>(Side::partner)]);
  fetch_add(board.ready.value, 1, acq_rel);
  for (std::uint32_t batch = 1; batch <= batches_to_warm_up + task.batches; ++batch) {
    while (load(board.batch.value, acquire) < batch)
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    for (std::uint32_t i = 0; i < batch_messages; ++i) {
      if (read_payload(subscriber.receive(), words) != batch) die("a subscriber missed a message");
      subscriber.release();
    }
    fetch_add(board.taken.value, 1, acq_rel);
  }
}

}  // namespace sluice::bench
