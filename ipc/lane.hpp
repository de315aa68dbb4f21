// A lane: one thread's participation in a segment. It owns a row, a ledger and a heap; everything the thread
// allocates, holds or moves is recorded under the lane's name, so that others can finish for it.
//
// Thread safety: a Lane belongs to one thread at a time.
#pragma once

#include "ipc/processes.hpp"
#include "ipc/spin.hpp"
#include "shm/heap.hpp"

#include <cstdint>
#include <memory>
#include <string_view>

#include <unistd.h>

namespace sluice {

struct LaneOptions {
  std::uint32_t cells = 1024;  // references it can hold at once; [64, header.cells_per_lane]
  std::string_view name = {};  // for people; NOLINT(readability-redundant-member-init): gcc asks for it
};

class Lane {
 public:
  /// errors  exhausted     all lanes are taken, or no room for the ledger
  ///         bad_argument  cells out of range
  static Expected<std::unique_ptr<Lane>> claim(const Segment& segment, const Membership& process,
                                               const LaneOptions& options = {});
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  /// Releases the lane by the steps of recovery: what it still holds is dropped, its slabs become adoptable.
  ~Lane();

  LaneId id() const noexcept { return view_.id; }
  /// false in a child made by fork, whose copies of this must do nothing: it does not have this mapping.
  bool is_ours() const noexcept { return owner_ == this_process(); }
  std::uint64_t incarnation() const noexcept { return view_.incarnation; }
  Heap& heap() noexcept { return *heap_; }
  /// How long it looks before it sleeps.
  Spin& spin() noexcept { return spin_; }
  const LaneView& view() const noexcept { return view_; }
  const Segment& segment() const noexcept { return *view_.segment; }
  LaneRow& row() const noexcept { return *view_.row; }
  LaneCounters& counters() const noexcept { return view_.row->counters; }

 private:
  explicit Lane(const LaneView& view);
  LaneView view_;
  std::unique_ptr<Heap> heap_;
  Spin spin_;
  ProcessToken owner_ = this_process();
};

/// What was found and repaired in one dead lane.
struct LaneRecovery {
  bool operation_open = false;
  std::uint32_t moves = 0;       // cells in the middle of a push or pop
  std::uint32_t references = 0;  // dropped
  std::uint32_t roles = 0;       // of queues, given up
};

/// Run recovery as the lane, steps 1 to 5 of docs/recovery.md; the lane is free afterwards. The caller has
/// claimed the lane's process (or is the lane). Repeatable at every step.
LaneRecovery recover_lane(const Segment& segment, LaneId id) noexcept;

}  // namespace sluice
