// The worker loop: messages of one or more streams, shown to a handler in order; returning acknowledges.
// A message whose worker died before it returned is shown again to the replacement, marked redelivered.
#pragma once

#include "ipc/stream.hpp"
#include "runtime/session.hpp"

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
  bool redelivered;
};

/// Returns ok to acknowledge. Anything else ends the loop with the message unacknowledged.
using Handler = std::function<Status(const Delivery&)>;

struct WorkerReport {
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  std::uint64_t redelivered = 0;
  Status ended = Status::ok;  // ok: stopped and drained, or all streams ended; else what the handler said
};

struct WorkerOptions {
  /// Names of the streams, each created by somebody else. Served round robin, up to `batch` at a time.
  std::vector<std::string> streams;
  std::uint32_t batch = 64;
};

/// Serve until every stream has ended, or `stop` is set: then what is in the streams is served first.
///
/// errors  not_found, busy  a stream is missing, or another worker has it
///         corrupt          a message names a block that is not there
Expected<WorkerReport> run_worker(Session& session, Lane& lane, const WorkerOptions& options,
                                  const Handler& handler, const std::atomic<bool>& stop);

}  // namespace sluice
