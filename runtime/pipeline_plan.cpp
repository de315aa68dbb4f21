#include "runtime/pipeline_plan.hpp"

namespace sluice {

// The transitive closure of the steps.  source: Warshall 1962
PipelineGraph::PipelineGraph(const PipelinePlan& plan)
    : queues_(plan.queues.size()), reaches_(queues_ * queues_, false) {
  for (const auto& stage : plan.stages)
    if (stage.from && stage.into) reaches_[*stage.from * queues_ + *stage.into] = true;
  for (std::size_t i = 0; i < queues_; ++i)
    if (plan.queues[i].dead_letter) reaches_[i * queues_ + *plan.queues[i].dead_letter] = true;
  for (std::size_t over = 0; over < queues_; ++over)
    for (std::size_t from = 0; from < queues_; ++from)
      for (std::size_t to = 0; to < queues_ && reaches(from, over); ++to)
        if (reaches(over, to)) reaches_[from * queues_ + to] = true;
}

std::vector<std::size_t> PipelineGraph::cycle_of(std::size_t queue) const {
  std::vector<std::size_t> cycle;
  for (std::size_t other = 0; other < queues_ && reaches(queue, queue); ++other)
    if (same_cycle(queue, other)) cycle.push_back(other);
  return cycle;
}

}  // namespace sluice
