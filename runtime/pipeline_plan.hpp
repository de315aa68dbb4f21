// What a pipeline consists of: queues, and stages of processes between them. Data, and what follows from how it is
// connected: who checks a configuration asks that, and the supervisor.
//
//   ingress, device ──> queue ──> stage ──> queue ──> stage
//                         └── delivered too often ──> queue of dead letters
//
// Queues and stages are named by their index in the plan. Thread safety: as any value.
#pragma once

#include "ipc/broadcast_layout.hpp"
#include "ipc/queue_layout.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sluice {

struct QueuePlan {
  std::string name;
  QueueKind kind = QueueKind::stream;  // stream, work or broadcast
  std::uint32_t capacity = 4096;       // messages, of what is created
  QueuePolicy policy = QueuePolicy::block;
  /// Of kind stream: one for each worker of the stage that takes from it, named NAME.0, NAME.1 …, and a flow keeps to
  /// one. 0: it is a single one, named NAME, which a block device publishes into.
  std::uint32_t streams = 1;
  bool mirrored = false;                        // a device's mirror takes from it
  std::uint32_t deliveries_max = 0;             // of work
  std::optional<std::size_t> dead_letter = {};  // of work: a queue
  std::uint32_t subscribers_max = 32;           // of broadcast
};

inline constexpr std::uint32_t stage_workers_max = 64;

struct StagePlan {
  std::string name;  // its processes are NAME-0, NAME-1 …
  std::uint32_t workers = 1;
  std::optional<std::size_t> from;                     // none: it makes messages
  std::optional<std::size_t> into;                     // none: they end here
  SubscriberPolicy lagging = SubscriberPolicy::block;  // from a broadcast

  std::string worker_name(std::uint32_t worker) const { return name + "-" + std::to_string(worker); }
};

struct PipelinePlan {
  std::vector<QueuePlan> queues;
  std::vector<StagePlan> stages;
  std::optional<std::size_t> ingress_into;  // none: there is no ingress
};

/// Where messages can get to, stage by stage.
class PipelineGraph {
 public:
  explicit PipelineGraph(const PipelinePlan& plan);

  /// A message of queue `from` can get into queue `to`, in one step or more.
  bool reaches(std::size_t from, std::size_t to) const noexcept { return reaches_[from * queues_ + to]; }
  /// Both are on one cycle, or are the same.
  bool same_cycle(std::size_t one, std::size_t other) const noexcept {
    return one == other || (reaches(one, other) && reaches(other, one));
  }
  /// The queues of the cycle that it is on, in order; empty if it is on none.
  std::vector<std::size_t> cycle_of(std::size_t queue) const;

 private:
  std::size_t queues_;
  std::vector<bool> reaches_;
};

}  // namespace sluice
