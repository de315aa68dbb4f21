// The directory of queues as values: each row read once, checked, and made printable.
#pragma once

#include "ipc/broadcast_layout.hpp"
#include "ipc/queue_layout.hpp"
#include "shm/segment.hpp"
#include "tools/shm-dump/work_slots.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// A row of a broadcast that somebody has claimed.
struct SubscriberEntry {
  std::uint64_t claim = 0;   // lane_claim; of a parked one nobody's
  std::string name;          // escaped; empty: it is not durable
  bool is_parked = false;    // durable, and no lane has it
  std::uint32_t policy = 0;  // SubscriberPolicy, unchecked
  bool is_joining = false;   // or leaving: it has no position
  bool is_disconnected = false;
  std::uint64_t position = 0;  // of the message that it reads next
  std::uint64_t lag = 0;       // messages published and not read
  std::uint64_t lost = 0;
  std::uint64_t received = 0;
  std::uint64_t redelivered = 0;  // of those, shown to an earlier subscriber of the name too
};

/// What a queue has counted since it was made. What its kind does not count stays 0.
struct QueueCounters {
  std::uint64_t messages_in = 0;
  std::uint64_t messages_out = 0;  // done, dropped or given up
  std::uint64_t bytes_in = 0;      // of payload
  std::uint64_t bytes_out = 0;     // a consumer counts them up to 16 messages late
  std::uint64_t high_water = 0;    // most messages at once that anybody saw in it
  std::uint64_t push_waits = 0;    // sleeps for room
  std::uint64_t take_waits = 0;    // sleeps for a message
  std::uint64_t redelivered = 0;
  std::uint64_t refused = 0;  // pushes
  std::uint64_t dropped = 0;  // of a broadcast: by its subscribers missed
  std::uint64_t dead_lettered = 0;
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
  QueueCounters counters;
  std::uint32_t policy = 0;             // QueuePolicy, unchecked
  std::uint32_t deliveries_max = 0;     // of work; 0: no limit
  std::uint64_t dead_letter = 0;        // of work: row + 1 of where messages over the limit go; 0: nowhere
  std::uint64_t consumers_waiting = 0;  // marks of sleeping lanes, as waiting.hpp has them
  std::uint64_t producers_waiting = 0;
  WorkSlots work;
  std::uint64_t extents = 0;  // blocks in a map
  std::uint64_t writer = 0;   // process_claim, of a map
  std::uint64_t told = 0;     // row + 1 of the stream that a map's changes are told to; 0: none
  bool closed = false;
  std::uint32_t subscribers_max = 0;  // of a broadcast
  std::vector<SubscriberEntry> subscribers;
  std::string broken;  // why its messages cannot be read; empty: they can

  bool is_map() const noexcept { return kind == static_cast<std::uint32_t>(QueueKind::extents); }
  bool is_broadcast() const noexcept { return kind == static_cast<std::uint32_t>(QueueKind::broadcast); }
  bool is_work() const noexcept { return kind == static_cast<std::uint32_t>(QueueKind::work); }
  /// Messages in it: of work those that wait, are worked on or are being written.
  std::uint64_t depth() const noexcept {
    if (is_work()) return work.in_use();
    return is_map() ? extents : tail - head;
  }
  /// Of a broadcast: the subscriber that has most to read yet; null: there is none.
  const SubscriberEntry* slowest() const noexcept {
    const auto found = std::ranges::max_element(subscribers, {}, &SubscriberEntry::lag);
    return found == subscribers.end() ? nullptr : &*found;
  }
  /// Of a broadcast: the subscriber with the policy block that is a whole ring behind; null: there is none. One that is
  /// parked goes before others: nobody reads for it.
  const SubscriberEntry* holder() const noexcept {
    const SubscriberEntry* found = nullptr;
    for (const auto& subscriber : subscribers)
      if (subscriber.policy == static_cast<std::uint32_t>(SubscriberPolicy::block) &&
          !subscriber.is_joining && !subscriber.is_disconnected && subscriber.lag >= capacity &&
          (found == nullptr || (subscriber.is_parked && !found->is_parked)))
        found = &subscriber;
    return found;
  }
  /// The name of a parked subscription that keeps a broadcast full; empty: none does.
  std::string_view parked_holder() const noexcept {
    const auto* found = holder();
    return found != nullptr && found->is_parked ? std::string_view(found->name) : std::string_view{};
  }
  /// The next push finds no room. Of work that may be for one message alone that is held for long: the ring has gone
  /// round to it. Of a broadcast for a subscriber with the policy block: it keeps messages that all have read.
  bool is_full() const noexcept {
    if (state != QueueState::ready || is_map() || !broken.empty()) return false;
    if (is_broadcast()) return holder() != nullptr;
    return is_work() ? work.span >= capacity : depth() >= capacity;
  }
  /// The counter, or what is there now if that is more: it is counted from time to time only. Of a broadcast the
  /// counter alone.
  std::uint64_t high_water() const noexcept {
    if (is_broadcast()) return counters.high_water;
    return depth() <= capacity && depth() > counters.high_water ? depth() : counters.high_water;
  }
};

/// The rows that are in use.
std::vector<QueueEntry> read_queue_table(const Segment& segment);

/// A message that carries a block, or a place of a map that holds one.
struct QueuedBlock {
  std::uint64_t position = 0;
  std::uint64_t handle = 0;
  std::uint64_t receive_ns = 0;  // CLOCK_MONOTONIC of the boot that it was received in; 0: not told
  std::uint64_t lane = 0;        // of work: that has leased it; 0: it waits
  std::uint64_t deliveries = 0;  // of work: times that it was delivered before
};

/// Call `visit` for each message that carries a block, by position: of a stream from head to tail, and the one at
/// tail that its producer has published but not counted yet; of work those that wait or are leased, unless the lease
/// has moved its block on already; of a map each block in it. None of a queue that is broken.
void visit_blocks(const Segment& segment, const std::vector<QueueEntry>& queues,
                  const std::function<void(const QueueEntry&, const QueuedBlock&)>& visit);

std::string_view to_string(QueueState state) noexcept;
std::string_view queue_kind_name(std::uint32_t kind) noexcept;
std::string_view subscriber_policy_name(std::uint32_t policy) noexcept;
std::string_view queue_policy_name(std::uint32_t policy) noexcept;

}  // namespace sluice::tools
