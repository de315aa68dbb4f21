// Who holds which block: every cell of every ledger and every message of every queue, by handle.
#pragma once

#include "shm/segment.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::tools {

/// One place that names a block.
struct Holder {
  std::uint64_t handle = 0;
  std::uint64_t place = 0;  // cell in the ledger, or position in the queue
  std::uint32_t owner = 0;  // lane, or index of the queue
  bool in_queue = false;
  std::uint8_t moving = 0;      // of a cell: cell_aux kind, 0 at rest
  std::uint32_t leased_by = 0;  // of a work queue's message: the lane; 0: it waits
};

class HolderIndex {
 public:
  /// One pass over a segment that may be live: a reference that moves meanwhile can be missed, or seen twice.
  static HolderIndex read(const Segment& segment, const std::vector<QueueEntry>& queues);

  std::span<const Holder> of(Handle handle) const noexcept;

 private:
  std::vector<Holder> holders_;  // by handle
};

/// "lane 3 cell 17", "lane 3 cell 17 (push)", "queue worker-0 @1234", "… (leased by lane 3)"
std::string describe_holder(const Holder& holder, const std::vector<QueueEntry>& queues);

std::string_view moving_name(std::uint64_t aux_kind) noexcept;

}  // namespace sluice::tools
