#include "ipc/work_audit.hpp"

#include "ipc/forward.hpp"
#include "ipc/work_queue.hpp"
#include "shm/block.hpp"

#include <fmt/format.h>

namespace sluice {

WorkClaims::WorkClaims(const Segment& segment) {
  for (LaneId lane = 1; lane < segment.lane_count(); ++lane) gather(segment, lane);
}

WorkClaims::WorkClaims(const Segment& segment, LaneId lane) {
  if (lane != 0 && lane < segment.lane_count()) gather(segment, lane);
}

void WorkClaims::gather(const Segment& segment, LaneId id) {
  if (lane_word::Active::get(load(segment.lane_row(id).word, acquire)) == 0) return;
  const auto lane = lane_view(segment, id);
  const bool published = has_published(lane);
  for (std::uint32_t i = 0; i < lane.cell_count; ++i) {
    const auto aux = load(lane.cells[i].aux, acquire);
    const auto kind = cell_aux::Kind::get(aux);
    if (kind < cell_aux::claim || kind > cell_aux::forwarded) continue;
    const auto queue = static_cast<std::uint32_t>(cell_aux::Queue::get(aux));
    claims_[{queue, cell_aux::Position::get(aux), id}] = {kind == cell_aux::forwarded ||
                                                          (kind == cell_aux::forward && published)};
  }
}

const WorkClaims::Claim* WorkClaims::find(std::uint32_t queue, std::uint64_t position,
                                          LaneId lane) const noexcept {
  const auto found = claims_.find({queue, position, lane});
  return found == claims_.end() ? nullptr : &found->second;
}

namespace {

// One queue's walk. It may be in use: each finding is looked at again before it is told.
class WorkWalk {
 public:
  WorkWalk(const Segment& segment, std::uint32_t index, const StreamRing& ring, const WorkClaims& claims,
           const std::function<void(std::string)>& violation)
      : segment_(segment),
        row_(queue_row(segment, index)),
        index_(index),
        ring_(ring),
        claims_(claims),
        violation_(violation) {}

  std::uint64_t run(const std::function<void(Handle)>& reference) {
    check_row();
    std::uint64_t messages = 0;
    for (std::uint64_t i = 0; i < ring_.capacity; ++i) {
      const auto tail = load(row_.tail, acquire);
      const auto front = load(row_.head, acquire);
      const auto word = load(ring_.slots[i].stamp, acquire);
      const Handle handle{load(ring_.slots[i].handle, relaxed)};
      if (!is_sound(i, word, tail)) continue;
      const auto state = work_word::state(word);
      if (state == WorkState::empty) continue;
      const bool has_moved_on = !check_claim(i, word);
      if (state == WorkState::writing) continue;
      check_front(i, word, front);
      ++messages;
      if (handle && !has_moved_on) reference(handle);
    }
    return messages;
  }

 private:
  template <class... Args>
  void tell(fmt::format_string<Args...> format, Args&&... args) {
    violation_(fmt::format("queue {}: ", index_) + fmt::format(format, std::forward<Args>(args)...));
  }

  // The lower positions of a full window, or the highest one that a slot can be for; modulo 2^40.
  bool is_within(std::uint64_t position, std::uint64_t first, std::uint64_t last) const noexcept {
    return ((position - first) & work_word::Base::max) <= last - first;
  }

  void check_row() {
    const auto front = load(row_.head, acquire);
    // Tail is behind by one at most, where somebody died between a claim and that.
    if (const auto tail = load(row_.tail, acquire); front > tail + 1) tell("front {}, tail {}", front, tail);
    const auto told = load(row_.dead_letter, relaxed) & 0xffffffff;
    if (told > segment_.header().queue_count)
      tell("dead letters go to queue {}, expected below {}", told - 1, segment_.header().queue_count);
  }

  bool is_sound(std::uint64_t slot, std::uint64_t word, std::uint64_t tail) {
    const auto base = work_word::Base::get(word);
    const auto state = work_word::State::get(word);
    if (state > static_cast<std::uint64_t>(WorkState::leased) || base % ring_.capacity != 0) {
      tell("slot {} says state {}, base {}, of {} slots", slot, state, base, ring_.capacity);
      return false;
    }
    const auto last = load(row_.tail, acquire) + ring_.capacity;
    if (is_within(base + slot, tail - ring_.capacity, last)) return true;
    tell("slot {} is for position {}, tail is {}", slot, base + slot, tail);
    return false;
  }

  // Whether the slot holds its message still: false for one that was forwarded.
  bool check_claim(std::uint64_t slot, std::uint64_t word) {
    if (work_word::state(word) == WorkState::full) return true;
    const auto lane = static_cast<LaneId>(work_word::Lane::get(word));
    const auto position = work_word::Base::get(word) + slot;
    if (const auto* claim = claims_.find(index_, position, lane)) return !claim->has_moved_on;
    // Made since the claims were gathered? A cell says so before the slot, and for longer.
    if (looks_left_ == 0) return true;
    --looks_left_;
    const WorkClaims now(segment_, lane);
    if (const auto* claim = now.find(index_, position, lane)) return !claim->has_moved_on;
    if (load(ring_.slots[slot].stamp, acquire) == word)
      tell("slot {} is claimed by lane {}, which does not know", slot, lane);
    return true;
  }

  void check_front(std::uint64_t slot, std::uint64_t word, std::uint64_t front) {
    if (work_word::state(word) != WorkState::full) return;
    const auto is_passed = [&](std::uint64_t by) {
      const auto behind = (by - work_word::Base::get(word) - slot) & work_word::Base::max;
      return behind != 0 && behind <= ring_.capacity;
    };
    const auto again = load(row_.head, acquire);
    if (is_passed(front) && is_passed(again) && load(ring_.slots[slot].stamp, acquire) == word)
      tell("the message in slot {} waits before the front, {}", slot, again);
  }

  const Segment& segment_;
  const QueueRow& row_;
  std::uint32_t index_;
  const StreamRing& ring_;
  const WorkClaims& claims_;
  const std::function<void(std::string)>& violation_;
  std::uint32_t looks_left_ = 64;  // each reads a lane's ledger, and the file may be hostile
};

}  // namespace

std::uint64_t audit_work_queue(const Segment& segment, std::uint32_t index, const StreamRing& ring,
                               const WorkClaims& claims, const std::function<void(std::string)>& violation,
                               const std::function<void(Handle)>& reference) {
  return WorkWalk(segment, index, ring, claims, violation).run(reference);
}

}  // namespace sluice
