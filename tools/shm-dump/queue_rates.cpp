#include "tools/shm-dump/queue_rates.hpp"

#include <algorithm>
#include <array>

namespace sluice::tools {

std::vector<QueueChange> compare_looks(const std::vector<QueueEntry>& before,
                                       const std::vector<QueueEntry>& after, double seconds) {
  constexpr std::array growing = {&QueueCounters::messages_in, &QueueCounters::messages_out,
                                  &QueueCounters::bytes_in,    &QueueCounters::bytes_out,
                                  &QueueCounters::push_waits,  &QueueCounters::take_waits,
                                  &QueueCounters::redelivered, &QueueCounters::refused,
                                  &QueueCounters::dropped,     &QueueCounters::dead_lettered};
  static_assert(sizeof(QueueCounters) == (growing.size() + 1) * sizeof(std::uint64_t), "all but high_water");
  std::vector<QueueChange> changes;
  for (const auto& queue : after) {
    const auto found = std::ranges::find_if(before, [&](const QueueEntry& other) {
      return other.index == queue.index && other.era == queue.era && other.broken.empty();
    });
    QueueChange change{queue, {}, seconds};
    change.grown.high_water = queue.high_water();
    for (const auto counter : growing) {
      const auto now = queue.counters.*counter;
      const auto then = found == before.end() ? 0 : found->counters.*counter;
      change.grown.*counter = now > then ? now - then : 0;
    }
    changes.push_back(std::move(change));
  }
  return changes;
}

}  // namespace sluice::tools
