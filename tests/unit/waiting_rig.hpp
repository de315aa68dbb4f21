// Lanes that wait for queues in threads of their own, with sleeps so long that a wake-up that was lost is a failure.
#pragma once

#include "ipc/stream.hpp"
#include "ipc/waiting.hpp"
#include "ipc/work_queue.hpp"
#include "tests/support/temp_segment.hpp"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace sluice::test {

/// No looking before the sleep, and no looking around during it.
class OnlyWakeUps {
 public:
  explicit OnlyWakeUps(std::chrono::nanoseconds longest_sleep = std::chrono::seconds(10)) {
    detail::longest_sleep = longest_sleep;
    detail::spin_ns_limit = 0;
  }
  ~OnlyWakeUps() {
    detail::longest_sleep = longest_before_;
    detail::spin_ns_limit = spin_before_;
  }
  OnlyWakeUps(const OnlyWakeUps&) = delete;
  OnlyWakeUps& operator=(const OnlyWakeUps&) = delete;

 private:
  std::chrono::nanoseconds longest_before_ = detail::longest_sleep;
  std::uint32_t spin_before_ = detail::spin_ns_limit;
};

inline constexpr auto lost = std::chrono::seconds(8);  // a wait that takes so long has lost its wake-up

/// wait_any(), but one that took its whole time is a timeout, also when it found something at its end.
inline std::expected<std::size_t, Status> wait_awake(Lane& lane, std::span<const WaitSource> sources,
                                                     std::chrono::nanoseconds timeout = lost) {
  const auto begin = std::chrono::steady_clock::now();
  const auto found = wait_any(lane, sources, timeout);
  if (std::chrono::steady_clock::now() - begin >= timeout) return std::unexpected(Status::timeout);
  return found;
}

/// What /proc says of a thread: R, S, T, …
inline char state_of(pid_t thread) {
  std::ifstream file(fmt::format("/proc/{}/stat", thread));
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(") ");
  return name_end == std::string::npos ? '?' : line[name_end + 2];
}
inline bool sleeps(pid_t thread) { return state_of(thread) == 'S'; }

/// A thread that waits, once; it sleeps when this is made.
class Sleeper {
 public:
  Sleeper(Lane& lane, std::vector<WaitSource> sources, std::chrono::nanoseconds timeout = lost)
      : lane_(lane), thread_([this, &lane, timeout, list = std::move(sources)] {
          id_ = ::gettid();
          result_ = wait_awake(lane, list, timeout);
          over_ = true;
        }) {
    while (!is_asleep() && !over_) std::this_thread::yield();
  }
  ~Sleeper() { join(); }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  /// It has announced its sleep, and the kernel says that it sleeps.
  bool is_asleep() const { return load(lane_.row().doorbell.waiting, seq_cst) != 0 && sleeps(id_); }
  bool is_over() const { return over_; }
  pthread_t thread() { return thread_.native_handle(); }
  std::expected<std::size_t, Status> result() {
    join();
    return *result_;
  }

 private:
  void join() {
    if (thread_.joinable()) thread_.join();
  }

  Lane& lane_;
  std::optional<std::expected<std::size_t, Status>> result_;
  std::atomic<bool> over_{false};
  std::atomic<pid_t> id_{0};
  std::thread thread_;
};

inline Message plain_message(std::uint64_t number = 0) {
  Message message{};
  message.kind = MessageKind::user;
  message.position = number;
  return message;
}

}  // namespace sluice::test
