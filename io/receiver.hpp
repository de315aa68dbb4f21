// Receiving: the state of each connection between accept and its last message.
//
//             begin                       no block        stream full, over its share
//   socket ──────────> arming ──> armed ─────────────┐  ┌── (cancel, wait for the last completion)
//                        ^          │ end, error     v  v
//                        │          v              waiting ──┐
//                        │       ending ─> freed             │
//                        └───────────────────────────────────┘ when what it waits for is there
//
// Invariants
//   1. A connection waits for one thing at a time, and is armed only when it waits for nothing.
//   2. Its socket is closed only when no receive is armed for it: nothing arrives after its last message.
//   3. Each buffer that a completion names is taken from the buffer ring, whoever the completion belongs to, and
//      sent on or given back.
// Thread safety: the ring's thread.
#pragma once

#include "io/buffer_ring.hpp"
#include "io/connections.hpp"
#include "io/dispatch.hpp"
#include "io/user_data.hpp"
#include "runtime/pipeline_layout.hpp"
#include "runtime/ring.hpp"

#include <cstdint>
#include <vector>

namespace sluice {

struct ReceiverCounters {
  std::uint64_t accepted = 0, closed = 0, reset = 0, aborted_at_drain = 0;
  std::uint64_t bytes = 0, messages = 0;
  std::uint64_t stalls_no_buffer = 0, stalls_stream_full = 0, stalls_share = 0;
  std::uint64_t stale_completions = 0, bad_buffers = 0;
};

class Receiver final : private TakenListener {
 public:
  /// share  most blocks of one connection that no worker has taken, at least 1. What was received before the
  ///        pause takes effect still arrives.
  Receiver(Ring& ring, BufferRing& buffers, ConnectionPool& pool, Dispatch& dispatch, PipelineState& pipeline,
           std::uint32_t share);

  /// A socket becomes a flow. The pool has a free slot.
  void begin(int fd, std::uint64_t now_ns) noexcept;

  /// A completion of RingOp::receive, whatever slot and generation it names.
  void complete(UserData data, int result, std::uint32_t flags, std::uint64_t now_ns) noexcept;

  /// A completion of RingOp::cancel: the receive was not found. It has ended, or was just at work; then it is
  /// cancelled again.
  void cancel_failed(UserData data) noexcept;

  /// After a batch of completions: push what is pending, count off what was taken, refill the buffer ring, and
  /// arm what can be. True if anything moved that a connection may wait for.
  bool settle(std::uint64_t now_ns) noexcept;

  /// End all flows where they are, with ABORT: those that are armed after what they still deliver.
  void cut(std::uint64_t now_ns) noexcept;

  /// Some connection or message waits for workers.
  bool waiting_for_workers() const noexcept { return waiting_ != 0 || dispatch_.pending() != 0; }
  /// Some connection waits for blocks to come back.
  bool waiting_for_blocks() const noexcept { return !starved_.empty() || !arming_.empty(); }
  /// From now on one buffer for each receive. Several save a quarter of the CPU time per byte at 16 connections. Not
  /// done before kernel 6.17: from 6.10 on a retried bundle could put bytes out of order or leave a gap, and no
  /// feature bit tells that this is repaired.  source: axboe/liburing issue 1409
  void forgo_bundles() noexcept { bundles_ = false; }
  const ReceiverCounters& counters() const noexcept { return counters_; }

 private:
  void taken(Connection& connection) noexcept override;
  void receive(Connection& connection, const BufferLease& first, std::uint32_t length,
               std::uint64_t now_ns) noexcept;
  void deliver(Connection& connection, const BufferLease& lease, std::uint32_t length,
               std::uint64_t now_ns) noexcept;
  void discard(const BufferLease& first, int length) noexcept;
  void end(Connection& connection, MessageKind kind, int errno_value, std::uint64_t now_ns) noexcept;
  bool must_pause(const Connection& connection) const noexcept;
  void pause(Connection& connection) noexcept;
  void place(Connection& connection, bool no_buffer) noexcept;
  void wait_for(Connection& connection, Waiting what) noexcept;
  void stop_waiting(Connection& connection) noexcept;
  ConnectionList* list_of(const Connection& connection) noexcept;
  bool arm(Connection& connection) noexcept;
  void wake_starved(std::uint64_t now_ns) noexcept;

  Ring& ring_;
  BufferRing& buffers_;
  ConnectionPool& pool_;
  Dispatch& dispatch_;
  PipelineState& pipeline_;
  std::uint32_t share_;
  bool bundles_;
  std::uint32_t waiting_ = 0;  // connections that wait for a stream or their share
  ConnectionList arming_;
  ConnectionList starved_;
  std::vector<ConnectionList> stalled_;  // by stream
  std::uint64_t starved_since_ns_ = 0;
  std::uint64_t refill_at_ns_ = 0;
  ReceiverCounters counters_;
};

}  // namespace sluice
