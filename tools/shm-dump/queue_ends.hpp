// Who is at the ends of a queue, in words.
#pragma once

#include "tools/shm-dump/lane_table.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::tools {

/// A segment's queues, and the tables that say whose a lane is. Read in this order: who holds an end that was read
/// is in the lanes that are read after it.
struct QueueView {
  std::vector<QueueEntry> queues;
  std::vector<LaneEntry> lanes;
  std::vector<ProcessEntry> processes;

  static QueueView read(const Segment& segment);

  /// By row; null: there is none.
  const QueueEntry* queue(std::uint64_t index) const noexcept;
  /// "jobs", or "queue 7 (no such queue)".
  std::string queue_title(std::uint64_t index) const;

  // Ends in few words, for a column: "ingress 25289", "worker-0 25291 (dead)", "3 leased by 2 lanes, 1 dead".
  std::string producer_of(const QueueEntry& queue) const;
  std::string consumer_of(const QueueEntry& queue) const;
  // And in full: "lane 3 (pid 25289 ingress)".
  std::string describe(std::uint64_t claim) const { return describe_role(lanes, processes, claim); }
  std::string lane_title(std::uint64_t lane) const { return tools::lane_title(lanes, processes, lane); }
  /// What holds up a work queue that is full although there is less in it: "@12 is leased by lane 3 (…)"; and a
  /// broadcast that is full: "audit: parked", "lane 3 (…)". Else "".
  std::string holdup_of(const QueueEntry& queue) const;
  /// The process that changes a map; "-": none.
  std::string writer_of(const QueueEntry& queue) const;

  /// "audit: lane 3 (pid 25289 ingress)", "audit: parked", or without a name.
  std::string subscriber_title(const SubscriberEntry& subscriber) const;

  /// Whether the process of a lane is there and not dead.
  bool is_served(std::uint64_t lane) const noexcept;
  /// The lanes that sleep and have left one of these marks (waiting.hpp).
  std::vector<std::uint64_t> asleep(std::uint64_t marks) const;

 private:
  const ProcessEntry* process_of(std::uint64_t lane) const noexcept;
  std::string brief(std::uint64_t lane) const;
  std::string brief_role(std::uint64_t claim) const;
};

}  // namespace sluice::tools
