// The worker loop: messages of one or more queues, of any kind, shown to a handler; what it says becomes of each, and
// what goes on goes into the next queue with the same block, changed where it lies.
//
//   from ── take ──> handler ── pass ──> into, or done where there is none
//                       ├── done ───> its block is released
//                       ├── again ──> back where it was, shown again after a while; a copy of a broadcast's is gone
//                       └── stop ───> the same, and the loop ends
//
// A message whose worker died before that is shown again to another one, marked.
#pragma once

#include "runtime/consumer.hpp"

#include <atomic>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace sluice {

/// What a handler sees. `bytes` is the block itself: valid until the handler returns, read-only by contract.
struct Delivery {
  const Message& message;
  std::span<const std::byte> bytes;  // empty for messages without a block
  bool redelivered;                  // it was shown before
  std::uint32_t deliveries = 0;      // how often; a stream knows only whether
  std::size_t from = 0;              // index of its queue in WorkerOptions::from
  Received* received = nullptr;      // where it came from
  /// What the next queue is told. The message as it came, unless the handler changes it.
  Message onward = {};

  /// The bytes, to be changed before the message goes on; who is given it after a death sees the change. Empty where
  /// others read the block as well (Received::writable()).
  std::span<std::byte> writable() const noexcept {
    return received != nullptr ? received->writable() : std::span<std::byte>();
  }
};

/// What becomes of a message.
class Verdict {
 public:
  enum class What : std::uint8_t { pass, done, again, stop };

  static Verdict pass() noexcept { return Verdict(What::pass); }
  static Verdict done() noexcept { return Verdict(What::done); }
  static Verdict again() noexcept { return Verdict(What::again); }
  /// ok passes it on; anything else stops the loop, which ends with that.
  Verdict(Status status) noexcept  // NOLINT(google-explicit-constructor): handlers return either
      : what_(status == Status::ok ? What::pass : What::stop), status_(status) {}

  What what() const noexcept { return what_; }
  Status status() const noexcept { return status_; }

 private:
  explicit Verdict(What what) noexcept : what_(what) {}
  What what_;
  Status status_ = Status::ok;
};

using Handler = std::function<Verdict(Delivery&)>;

struct WorkerReport {
  std::uint64_t messages = 0;  // that were passed on or done
  std::uint64_t bytes = 0;
  std::uint64_t redelivered = 0;
  std::uint64_t refused = 0;       // done because the next queue had no room, and its policy is not to wait
  std::uint64_t disconnected = 0;  // times that a broadcast went on without us, and was joined anew
  Status ended =
      Status::ok;  // ok: stopped and drained, or all queues ended; full: stopped with the next queue full;
                   // else what the handler said
};

struct WorkerOptions {
  /// Names of queues, each created by somebody else. Served round robin, up to `batch` at a time.
  std::vector<std::string> from;
  /// Where messages go on: nowhere, one queue, or several streams. A flow keeps to one of these.
  std::vector<std::string> into = {};
  SubscriberOptions subscription = {};  // to broadcasts
  std::uint32_t batch = 64;
  /// Called when there is nothing to do, at least ten times a second.
  std::function<void()> idle = {};
  /// Called once, when all queues are open and before anything is served.
  std::function<void()> opened = {};
};

/// Serve until every queue has ended, or `stop` is set: then what is there is served first.
///
/// errors  not_found, busy  a queue is missing, or somebody has the role; bad_argument  the wrong kind of queue
///         corrupt          a message names a block that is not there
Expected<WorkerReport> run_worker(Lane& lane, const WorkerOptions& options, const Handler& handler,
                                  const std::atomic<bool>& stop);

}  // namespace sluice
