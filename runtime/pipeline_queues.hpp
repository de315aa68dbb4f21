// The pipeline's queues as the supervisor sees them: creating them, opening them for a new run, counting, and ending
// those whose producers will not.
//
// Of a queue of streams worker i of N serves stream i, and every stream j with j % N == i that a run with more workers
// left behind.
// Thread safety: none; the lane's own thread.
#pragma once

#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"
#include "runtime/pipeline_plan.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Sums since the segment was created.
struct PipelineTotals {
  // Of the queues that messages come into from outside: of the ingress, devices, and stages that make messages.
  std::uint64_t pushed = 0;
  std::uint64_t taken = 0;
  std::uint64_t bytes = 0;  // pushed
  // Of all queues.
  std::uint64_t redelivered = 0;   // messages delivered again after a death
  std::uint64_t moves = 0;         // messages pushed, and messages taken
  std::uint64_t queued = 0;        // messages now, but those of the next
  std::uint64_t dead_letters = 0;  // messages now, in queues of dead letters that no stage takes from
};

class PipelineQueues {
 public:
  /// Find or create the plan's queues, and find the streams that earlier runs with more workers left.
  /// errors  exhausted, busy, bad_argument  as those of the kinds: of a queue that is there and is another
  ///         busy  messages are on their way through another number of streams
  static Expected<PipelineQueues> open(Lane& lane, const PipelinePlan& plan);

  /// What is given to who publishes into a queue: of streams all if it is alone, else its own.
  std::vector<std::string> names_into(std::size_t queue, std::uint32_t worker, std::uint32_t workers) const;
  /// What is given to who takes from it.
  std::vector<std::string> names_from(std::size_t queue, std::uint32_t worker) const;

  /// Who holds a role of a stream or broadcast, or is a process with the name of one of ours: "worker-0 (pid 1234)";
  /// empty: nobody.
  std::string holder() const;
  /// Take back the end of all queues. Nobody may hold a role.
  Status reopen();
  /// Make the subscriptions of the stages' workers, end those of other runs.  Returns what there is to tell, a line each
  /// errors  exhausted, incompatible  as ensure_subscription()
  Expected<std::vector<std::string>> subscribe();
  /// End a queue whose producers have finished: flows in streams that have not ended never will. False: not yet, there
  /// is a producer, or no room for the word.
  bool close(std::size_t queue);
  /// The same for streams that earlier runs left.
  void end_left_over();

  /// A queue is closed, and what worker `worker` gets of it is done; `name` is what it subscribes as.
  bool finished(std::size_t queue, std::uint32_t worker, std::string_view name) const;
  /// Nothing is in these queues, nor on its way from one to another.
  bool at_rest(std::span<const std::size_t> queues) const;
  PipelineTotals totals() const;

 private:
  struct Ring {  // one queue of the directory
    std::string name;
    QueueId id;
  };
  struct Queue {
    std::vector<Ring> rings;     // several of kind stream
    WorkQueue work;              // of kind work
    bool is_taken_from = false;  // by a stage
    bool from_outside = false;
    bool is_dead_letter = false;
    bool is_passed_on = false;  // by a stage, into it or from it
    std::uint32_t found = 0;    // streams that were there before
  };

  explicit PipelineQueues(Lane& lane, const PipelinePlan& plan) : lane_(&lane), plan_(&plan) {}
  Expected<void> open(std::size_t queue);
  Expected<void> find_streams(std::size_t queue);
  Expected<void> create_streams(std::size_t queue);
  void connect();
  void note_others(std::size_t queue, std::vector<std::string>& notes) const;
  std::optional<QueueId> find_stream(const std::string& name) const;
  Expected<void> check_numbers() const;
  QueueRow& row(const Ring& ring) const noexcept { return queue_row(lane_->segment(), ring.id.index); }
  bool is_closed(const Ring& ring) const noexcept { return load(row(ring).closed, acquire) != 0; }
  bool is_empty(std::size_t queue, const Ring& ring) const noexcept;
  bool end_stream(const Ring& ring, std::uint64_t over_below);
  std::uint64_t moves(std::span<const std::size_t> queues) const noexcept;

  Lane* lane_;
  const PipelinePlan* plan_;
  std::vector<Queue> queues_;     // as in the plan
  std::uint64_t first_flow_ = 0;  // of this run
};

}  // namespace sluice
