#include "ipc/lane.hpp"

#include "ipc/doorbell.hpp"
#include "ipc/forward.hpp"
#include "ipc/queues.hpp"
#include "ipc/waiting.hpp"
#include "ipc/work_queue.hpp"
#include "shm/crash_point.hpp"
#include "shm/operation_log.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include <unistd.h>

namespace sluice {

namespace {

void wake_owner(LaneRow& owner) noexcept { ring(owner.doorbell); }

// Free the row: with the incarnation moved on, the lane's slabs are adoptable at once.
void release_row(const Segment& segment, const LaneView& lane) noexcept {
  const auto next = (lane.incarnation + 1) & lane_word::Incarnation::max;
  store(lane.row->word, lane_word::make(false, 0, next), release);  // O2 -> O1 (Heap::orphaned)
  fetch_add(segment.control().orphan_generation, 1, release);
}

}  // namespace

Lane::Lane(const LaneView& view) : view_(view), heap_(std::make_unique<Heap>(view)) {
  heap_->set_waker(&wake_owner);
}

Lane::~Lane() {
  // As recovery would, so that there is one way in which a lane ends. A child made by fork has no mapping.
  if (is_ours()) recover_lane(*view_.segment, view_.id);
}

Expected<std::unique_ptr<Lane>> Lane::claim(const Segment& segment, const Membership& process,
                                            const LaneOptions& options) {
  if (options.cells < 64 || options.cells > segment.header().cells_per_lane)
    return fail(Status::bad_argument, fmt::format("cells of a lane: found {}, expected 64 to {}",
                                                  options.cells, segment.header().cells_per_lane));
  if (!process.joined() || process.is_recoverer())
    return fail(Status::bad_argument,
                fmt::format("{}: only a process that joined as a member can claim a lane", segment.path()));
  for (LaneId id = 1; id < segment.lane_count(); ++id) {
    auto& row = segment.lane_row(id);
    auto word = load(row.word, acquire);
    if (lane_word::Active::get(word) != 0) continue;
    const auto incarnation = lane_word::Incarnation::get(word);
    if (!cas(row.word, word, lane_word::make(true, process.row(), incarnation), acq_rel)) continue;
    crash_point("lane.claim.claimed");  // recovery: nothing open, no cells, the row is freed
    store(row.sequence, std::max<std::uint64_t>(load(row.sequence, relaxed), 1),
          relaxed);  // 0 is never a sequence
    if (segment.commit_lane(id, options.cells) != Status::ok) {
      release_row(segment, lane_view(segment, id));
      return fail(Status::exhausted,
                  fmt::format("{}: no room for a ledger of {} cells", segment.path(), options.cells));
    }
    store(row.cell_count, options.cells, release);
    store(row.thread, static_cast<std::uint64_t>(::gettid()), relaxed);
    std::memset(row.name, 0, sizeof row.name);
    options.name.copy(row.name, sizeof row.name - 1);
    store(row.doorbell.interrupt, 0, relaxed);
    try {
      return std::unique_ptr<Lane>(new Lane(lane_view(segment, id)));
    } catch (const std::bad_alloc&) {
      release_row(segment, lane_view(segment, id));
      return fail(Status::exhausted, "no memory for a lane's private tables");
    }
  }
  return fail(Status::exhausted,
              fmt::format("{}: all {} lanes are taken", segment.path(), segment.header().lane_count - 1));
}

LaneRecovery recover_lane(const Segment& segment, LaneId id) noexcept {
  LaneRecovery report;
  const auto lane = lane_view(segment, id);

  // 1: the open operation.
  report.operation_open = open_sequence(*lane.row) != 0;
  finish_operation(lane, &storage_published);
  crash_point("recover.lane.operation");

  settle_forwards(lane);
  // 2: moving cells. Each comes to rest where the queue's position says that the reference is.
  for (std::uint32_t i = 0; i < lane.cell_count; ++i) {
    auto& cell = lane.cells[i];
    const auto aux = load(cell.aux, acquire);
    if (aux == cell_aux::at_rest) continue;
    const auto kind = cell_aux::Kind::get(aux);
    if (kind == cell_aux::push || kind == cell_aux::pop || kind == cell_aux::extent) {
      ++report.moves;
      if (!moving_cell_holds(segment, {load(cell.handle, relaxed)}, aux)) store(cell.handle, 0, release);
    } else if (kind == cell_aux::forward || kind == cell_aux::forwarded) {
      ++report.moves;
      settle_forward(lane, cell);
    } else if (kind >= cell_aux::claim && kind <= cell_aux::acknowledge) {
      ++report.moves;
      settle_work_cell(lane, cell);
    }
    store(cell.aux, cell_aux::at_rest, release);
    crash_point("recover.lane.moves");
  }

  // 3: the ledger.
  for (std::uint32_t i = 0; i < lane.cell_count; ++i) {
    if (load(lane.cells[i].handle, relaxed) == 0) continue;
    drop_reference(lane, i);
    ++report.references;
    crash_point("recover.lane.ledger");
  }

  // 4: roles and claims. Who waited for this lane looks again.
  report.roles = release_roles(segment, lane);
  forget_marks(segment, lane.id);
  for (auto* claim : {&segment.control().run_claimer, &segment.control().quarantine_lifter}) {
    auto self = lane_claim::make(lane.id, lane.incarnation);
    cas(*claim, self, 0, acq_rel);
  }
  for (LaneId other = 1; other < segment.lane_count(); ++other)
    ring(segment.lane_row(other).doorbell);  // blocks may have come back to any
  crash_point("recover.lane.roles");

  // 5: its slabs become adoptable.
  release_row(segment, lane);
  crash_point("recover.lane.released");
  return report;
}

}  // namespace sluice
