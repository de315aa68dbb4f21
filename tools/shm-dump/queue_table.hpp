// The directory of queues as values: each row read once, checked, and made printable.
#pragma once

#include "ipc/broadcast_layout.hpp"
#include "ipc/queue_layout.hpp"
#include "shm/segment.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// A row of a broadcast that somebody has claimed.
struct SubscriberEntry {
  std::uint64_t claim = 0;   // lane_claim
  std::uint32_t policy = 0;  // SubscriberPolicy, unchecked
  bool is_joining = false;   // or leaving: it has no position
  bool is_disconnected = false;
  std::uint64_t position = 0;  // of the message that it reads next
  std::uint64_t lag = 0;       // messages published and not read
  std::uint64_t lost = 0;
  std::uint64_t received = 0;
};

struct QueueEntry {
  std::uint64_t index = 0;
  QueueState state = QueueState::free;
  std::uint64_t era = 0;
  std::uint32_t kind = 0;      // QueueKind, unchecked
  std::string name;            // escaped
  std::uint32_t capacity = 0;  // messages; of a map pages
  std::uint32_t first_unit = 0;
  std::uint32_t unit_count = 0;
  std::uint64_t producer = 0;  // lane_claim
  std::uint64_t consumer = 0;
  std::uint64_t head = 0;
  std::uint64_t tail = 0;
  std::uint64_t delivered = 0;
  std::uint64_t bytes_in = 0;
  std::uint64_t redelivered = 0;
  std::uint64_t extents = 0;  // blocks in a map
  std::uint64_t writer = 0;   // process_claim, of a map
  std::uint64_t told = 0;     // row + 1 of the stream that a map's changes are told to; 0: none
  bool closed = false;
  std::uint32_t subscribers_max = 0;  // of a broadcast
  std::vector<SubscriberEntry> subscribers;
  std::string broken;  // why its messages cannot be read; empty: they can

  bool is_map() const noexcept { return kind == static_cast<std::uint32_t>(QueueKind::extents); }
  bool is_broadcast() const noexcept { return kind == static_cast<std::uint32_t>(QueueKind::broadcast); }
  std::uint64_t depth() const noexcept { return is_map() ? extents : tail - head; }
};

/// The rows that are in use.
std::vector<QueueEntry> read_queue_table(const Segment& segment);

/// A message that carries a block, or a place of a map that holds one.
struct QueuedBlock {
  std::uint64_t position = 0;
  std::uint64_t handle = 0;
  std::uint64_t receive_ns = 0;  // CLOCK_MONOTONIC of the boot that it was received in; 0: not told
};

/// Call `visit` for each message that carries a block, from head to tail, and for the one at tail that its
/// producer has published but not counted yet; of a map for each block in it; none if the queue is broken.
void visit_blocks(const Segment& segment, const QueueEntry& queue,
                  const std::function<void(const QueuedBlock&)>& visit);

std::string_view to_string(QueueState state) noexcept;
std::string_view queue_kind_name(std::uint32_t kind) noexcept;
std::string_view subscriber_policy_name(std::uint32_t policy) noexcept;

}  // namespace sluice::tools
