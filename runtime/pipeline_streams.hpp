// The pipeline's streams, `ingress.0` to `ingress.N-1` and those that block devices publish into, as the supervisor
// sees them: creating them, opening them for a new run, counting, and ending those whose producer will not.
//
// Worker i of N serves stream i, and every stream j with j % N == i that a run with more workers left behind.
// Thread safety: none; the lane's own thread.
#pragma once

#include "ipc/stream.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Sums over all streams since the segment was created.
struct PipelineTotals {
  std::uint64_t pushed = 0;
  std::uint64_t taken = 0;
  std::uint64_t bytes = 0;        // pushed
  std::uint64_t redelivered = 0;  // messages shown again after a death

  std::uint64_t queued() const noexcept { return pushed - taken; }
};

/// A stream that a block device publishes into.
struct PublishedStream {
  std::string name;
  bool mirrored = false;  // a child consumes it; else whoever wants to
};

class PipelineStreams {
 public:
  /// Find or create the streams of `workers` workers and those published, and find those that earlier runs with
  /// workers left.
  /// errors  exhausted, busy, bad_argument  as create_stream
  static Expected<PipelineStreams> open(Lane& lane, std::uint32_t workers, std::uint32_t capacity,
                                        const std::vector<PublishedStream>& published = {});

  /// Names of the streams that this run's ingress fills.
  std::vector<std::string> produced() const;
  /// Names of the streams that worker `worker` serves.
  std::vector<std::string> served_by(std::uint32_t worker) const;

  /// Who holds a role of a stream: "worker-0 (pid 1234)", empty if nobody does.
  std::string holder() const;
  /// Take back the end of this run's streams. Nobody may hold a role.
  Status reopen();
  /// End the streams that nobody produces into, from `first` on: their flows that have not ended never will.
  /// Returns whether all of them are closed now; one that is full or has a producer is not.
  bool end(std::uint32_t first);
  /// Every stream of the worker is closed and empty.
  bool finished(std::uint32_t worker) const;
  /// Close a published stream if nobody produces into it.
  void close_published(std::string_view name);
  /// A published stream is closed and empty.
  bool published_finished(std::string_view name) const;
  PipelineTotals totals() const;

  std::uint32_t workers() const noexcept { return workers_; }

 private:
  struct Stream {
    std::string name;
    QueueId id;
    bool consumer_is_ours = true;
  };
  bool closed_and_empty(const Stream& stream) const;
  const Stream* find_published(std::string_view name) const noexcept;
  PipelineStreams(Lane& lane, std::uint32_t workers) : lane_(&lane), workers_(workers) {}
  QueueRow& row(const Stream& stream) const noexcept { return queue_row(lane_->segment(), stream.id.index); }

  Lane* lane_;
  std::uint32_t workers_;
  std::vector<Stream> streams_;    // the ingress's
  std::vector<Stream> published_;  // the devices'
};

}  // namespace sluice
