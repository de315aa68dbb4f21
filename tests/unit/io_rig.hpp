// An ingress on a thread, a worker on another for each stream, and clients: one process, real sockets.
#pragma once

#include "io/ingress.hpp"
#include "runtime/worker.hpp"
#include "tests/support/temp_segment.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {

/// What workers saw of one flow.
struct FlowLog {
  std::string bytes;
  std::uint32_t stream = 0;
  bool opened = false;
  std::optional<MessageKind> ended;  // close or abort
  std::uint32_t detail = 0;          // of the abort
};

/// What workers saw. Broken order is written down, not thrown.
class Journal {
 public:
  void note(std::uint32_t stream, const Delivery& delivery);
  std::map<std::uint64_t, FlowLog> flows() const;
  std::vector<std::string> faults() const;
  std::vector<std::uint64_t> restarts() const;
  std::uint64_t open_flows_max() const;
  /// The flow whose bytes begin with `head`, waiting for it.
  FlowLog flow_with(const std::string& head) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::uint64_t, FlowLog> flows_;
  std::vector<std::string> faults_;
  std::vector<std::uint64_t> restarts_;
  std::uint64_t open_flows_ = 0, open_flows_max_ = 0;
};

/// Poll until `condition`, at most 20 s. False: it never came.
bool eventually(const std::function<bool()>& condition);

struct PipelineOptions {
  std::uint64_t units = 64;
  std::uint32_t streams = 1;
  std::uint32_t capacity = 64;
  IngressOptions ingress{};
};

class IngressPipeline {
 public:
  explicit IngressPipeline(PipelineOptions options);
  ~IngressPipeline();

  std::uint16_t port() const { return port_; }
  IngressCounters counters() const { return ingress_.load()->counters(); }
  /// Workers take nothing while this is held.
  void hold() { held_ = true; }
  void let_go() { held_ = false; }
  /// Stop the ingress; returns what run() said, after the workers have seen the end of their streams (unless
  /// `workers_stay`).
  Expected<void> stop(bool workers_stay = false);
  /// Start another ingress on the same segment and streams.
  void restart();
  std::thread& thread() { return ingress_thread_; }

  Rig rig;
  Journal journal;

 private:
  void start();

  PipelineOptions options_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> stop_workers_{false};
  std::atomic<bool> held_{false};
  std::atomic<Ingress*> ingress_{nullptr};
  std::atomic<bool> keep_ingress_{true};
  std::uint16_t port_ = 0;
  std::optional<Error> open_error_;
  Expected<void> ran_{};
  std::thread ingress_thread_;
  std::vector<std::thread> workers_;
};

/// A TCP client.
class Client {
 public:
  explicit Client(std::uint16_t port, const char* host = "127.0.0.1");
  Client(Client&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Client& operator=(Client&&) = delete;
  ~Client() { close(); }

  /// All of it, waiting as long as it takes; false if the connection broke.
  bool send(const std::string& bytes);
  /// As much as the socket takes within 100 ms. Returns how much.
  std::size_t send_some(const std::string& bytes);
  void finish();  // FIN: nothing follows
  void close();
  void reset();  // RST

 private:
  int fd_ = -1;
};

/// Bytes that depend on `seed`, beginning with a line that names it.
std::string content(std::uint64_t seed, std::size_t bytes);
inline std::string head_of(std::uint64_t seed) { return "client " + std::to_string(seed) + "\n"; }

}  // namespace sluice::test
