// The TCP ingress: network bytes from the kernel straight into blocks of the segment, and from there as
// messages into named queues: streams, a work queue or a broadcast.
//
//   socket ── multishot recv ──> block in the buffer ring ── DATA message ──> queue ──> worker
//                                      ^ a fresh block takes its place            │
//                                      └──────────── released, harvested ─────────┘
//
// A connection is a flow. Of several streams it is pinned to one, which gets OPEN, DATA … and then CLOSE (orderly end)
// or ABORT (reset, or cut off by the drain), in order. Nothing is dropped: without a free block, without room in
// the queue, or over its share of the blocks a connection is not read from, and TCP holds its sender back.
//
// Thread safety: open(), run() and destruction on one thread, which is the lane's and the ring's; counters()
// and port() from any.
#pragma once

#include "runtime/session.hpp"
#include "shm/status.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

struct IngressOptions {
  std::string host = "127.0.0.1";          // numeric, IPv4 or IPv6
  std::uint16_t port = 0;                  // 0: a free one is picked, see Ingress::port()
  std::vector<std::string> into;           // names of existing queues: streams, or one of another kind
  std::uint32_t buffers = 512;             // blocks in the provided-buffer ring, [2, 32768]
  std::uint32_t buffer_bytes = 32 * 1024;  // of each block, [64, 1 MiB]
  std::uint32_t connections_max = 1024;    // [1, 65536]; more wait in the listen backlog
  std::uint32_t connection_share = 0;      // most blocks of one connection that no worker has taken yet;
                                           // 0: a quarter of the buffers, at least 2
  std::chrono::milliseconds drain_grace = std::chrono::seconds(5);  // [0, 1 hour]
};

/// Events since open(). A stall is counted once for each connection that it stops.
struct IngressCounters {
  std::uint64_t accepted = 0;            // connections that became flows
  std::uint64_t closed = 0;              // flows that ended with CLOSE
  std::uint64_t reset = 0;               // flows that ended with ABORT because the connection failed
  std::uint64_t aborted_at_drain = 0;    // flows that ended with ABORT because the grace was over
  std::uint64_t refused_at_drain = 0;    // accepted by the kernel, closed before they became flows
  std::uint64_t bytes = 0;               // received
  std::uint64_t messages = 0;            // DATA messages
  std::uint64_t stalls_no_buffer = 0;    // the buffer ring was dry
  std::uint64_t stalls_stream_full = 0;  // the flow's stream took no more
  std::uint64_t stalls_share = 0;        // the connection had its share of the blocks
  std::uint64_t accept_pauses = 0;       // times that connections_max was reached
  std::uint64_t accept_backoffs = 0;     // times that accept failed for want of descriptors or memory
  std::uint64_t stale_completions = 0;   // of a connection that its slot no longer holds
  std::uint64_t bad_buffers = 0;         // buffer ids in completions that name no buffer the kernel had
  std::uint64_t waits = 0;               // times that the thread entered the kernel to wait
};

class Ingress {
 public:
  /// Listen, claim a lane and the queues' producer roles, and fill the buffer ring. Tells each queue that
  /// earlier flows are over (MessageKind::restart) if there were any. Raises the soft limit of descriptors.
  ///
  /// errors  bad_argument  an option out of range, or a host that is not numeric; named
  ///         not_found     a queue does not exist
  ///         busy          a queue has another producer
  ///         exhausted     the segment has no room for two blocks, or no lane
  ///         io_error, permission  "listen on 127.0.0.1:80: …", "io_uring_setup: …"
  static Expected<std::unique_ptr<Ingress>> open(Session& session, const IngressOptions& options);
  Ingress(const Ingress&) = delete;
  Ingress& operator=(const Ingress&) = delete;
  ~Ingress();

  /// The port that is listened on.
  std::uint16_t port() const noexcept;

  /// Serve until `stop` is set (a signal handler may), then drain: accept no more, serve what is connected
  /// until it ends or the grace is over, push everything that was received, close the queues, return; a work queue
  /// stays open.
  ///
  /// errors  timeout   a queue's workers took nothing for another grace after the drain; what was lost is named
  ///         io_error, corrupt  the ring or the segment failed
  Expected<void> run(const std::atomic<bool>& stop);

  /// A copy of the counters, now.
  IngressCounters counters() const noexcept;

 private:
  struct Parts;
  explicit Ingress(std::unique_ptr<Parts> parts) noexcept;
  std::unique_ptr<Parts> parts_;
};

}  // namespace sluice
