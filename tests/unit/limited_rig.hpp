// A work queue with a limit of deliveries, as shm-dump reads it.
#pragma once

#include "tests/unit/work_rig.hpp"
#include "tools/shm-dump/queue_json.hpp"

#include <algorithm>

namespace sluice::test {

using namespace sluice::tools;

// A work queue "w" with a dead letter queue "dead" of two messages; two lanes at "w".
struct LimitedRig : Rig {
  LimitedRig()
      : other(another_lane()),
        dead(must(create_work_queue(*lane, "dead", {.capacity = 2}))),
        id(must(create_work_queue(*lane, "w", {.capacity = 8, .deliveries_max = 2, .dead_letter = "dead"}))),
        queue(must(WorkQueue::open(*lane, id))),
        peer(must(WorkQueue::open(*other, id))) {}

  Handle push(std::uint64_t number, std::uint32_t bytes = 100) {
    const auto block = must(heap().allocate(bytes));
    REQUIRE(queue.push(work_message(number, bytes), block) == Status::ok);
    return block.handle;
  }
  QueueEntry entry(QueueId of) const {
    const auto queues = read_queue_table(segment());
    return *std::ranges::find(queues, of.index, &QueueEntry::index);
  }
  QueueEntry entry() const { return entry(id); }
  Json json() const { return queue_json(entry(), QueueView::read(segment())); }

  std::unique_ptr<Lane> other;
  QueueId dead;
  QueueId id;
  WorkQueue queue;
  WorkQueue peer;
};

}  // namespace sluice::test
