// What is known of each message of a work queue.
#include "ipc/work_queue.hpp"
#include "tests/support/must.hpp"
#include "tests/verify/schedules/board.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace sluice::verify {

using test::must;

namespace {

const SlotView* find_slot(const std::vector<SlotView>& slots, std::uint64_t number) noexcept {
  const auto at = std::ranges::find_if(slots, [&](const SlotView& slot) {
    return slot.number == number && (slot.state == WorkState::full || slot.state == WorkState::leased);
  });
  return at == slots.end() ? nullptr : &*at;
}

bool is_in_queue(Stage stage) noexcept {
  return stage == Stage::waiting || stage == Stage::rejecting || stage == Stage::forwarding ||
         stage == Stage::returning;
}

}  // namespace

std::vector<SlotView> slots_of(const Segment& segment, QueueId queue) {
  std::vector<SlotView> slots;
  const auto ring = sound_ring(segment, queue_row(segment, queue.index), QueueKind::work);
  for (std::uint64_t i = 0; ring && i < ring->capacity; ++i) {
    const auto word = load(ring->slots[i].stamp, acquire);
    slots.push_back({.state = work_word::state(word),
                     .lane = work_word::Lane::get(word),
                     .deliveries = work_word::Deliveries::get(word),
                     .position = work_word::Base::get(word) + i,
                     .number = ring->slots[i].position,
                     .handle = ring->slots[i].handle});
  }
  return slots;
}

// A producer holds the block until the message is known to be there, but where it may be dropped at once.
void WorkModel::set(Board& board, std::uint64_t number, Stage stage, std::size_t actor) {
  move(board, number, messages[number].queue, messages[number].returns, stage, actor);
}

void WorkModel::move(Board& board, std::uint64_t number, std::uint32_t queue, std::uint32_t returns,
                     Stage stage, std::size_t actor) {
  auto& message = messages[number];
  const auto counts = [&](Stage which, std::uint32_t in) {
    const bool is_worked_on = which == Stage::leased || which == Stage::forwarding;
    return is_worked_on || (is_in_queue(which) && !queues[in].drops) ? 1 : 0;
  };
  if (message.handle != 0) {
    auto& holding = board.change(message.handle);
    if (message.stage == Stage::pushing && (is_in_queue(stage) || stage == Stage::leased) &&
        !queues[message.queue].drops)
      --holding.by_actor[message.actor];
    holding.by_work += counts(stage, queue) - counts(message.stage, message.queue);
    Board::settle(holding);
  }
  if (message.queue != queue) message.producer = actors_max;
  message.queue = queue;
  message.returns = returns;
  message.stage = stage;
  message.actor = actor;
  message.since = ++clock;
}

void WorkModel::died(Board& board, std::size_t actor, const Segment& segment) {
  std::array<std::vector<SlotView>, work_queues_max> slots;
  for (std::uint32_t i = 0; i < work_queues_max; ++i) {
    auto& queue = queues[i];
    if (queue.id.era == 0 && queue.id.index == 0) continue;
    slots[i] = slots_of(segment, queue.id);
    queue.is_closed = load(queue_row(segment, queue.id.index).closed, acquire) != 0;
    ++queue.closings;
  }
  const auto lane = board.actors[actor].lanes[0];
  std::set<std::uint64_t> known;  // to have been in its hands
  const auto comes_back = [&](std::uint64_t number) {
    known.insert(number);
    ++messages[number].returns;
    set(board, number, Stage::returning, actor);
  };
  for (std::uint64_t number = 1; number <= count; ++number) {
    auto& message = messages[number];
    if (message.actor != actor) continue;
    const auto* slot = find_slot(slots[message.queue], number);
    switch (message.stage) {
      case Stage::pushing:
        if (slot != nullptr)
          set(board, number, Stage::waiting, actor);
        else
          set(board, number, queues[message.queue].drops ? Stage::unsure : Stage::done, actor);
        break;
      case Stage::leased: comes_back(number); break;
      case Stage::ending:
        if (slot != nullptr && slot->state == WorkState::leased)
          comes_back(number);
        else
          set(board, number, Stage::done, actor);
        break;
      case Stage::returning:  // said before it left
        if (board.actors[actor].doing.act == Act::rejoin) known.insert(number);
        break;
      case Stage::rejecting:
        known.insert(number);
        set(board, number, Stage::returning, actor);
        break;
      case Stage::forwarding:
        if (find_slot(slots[message.target], number) != nullptr) {
          move(board, number, message.target, 0, Stage::waiting, actor);
        } else {
          comes_back(number);
        }
        break;
      default: break;
    }
  }
  // What it had leased and had not said yet.
  for (std::uint32_t i = 0; i < work_queues_max; ++i)
    for (const auto& slot : slots[i]) {
      if (slot.state != WorkState::leased || slot.lane != lane || lane == 0) continue;
      auto& message = messages[slot.number];
      if (known.contains(slot.number)) continue;
      // Forwarded or buried by this one, gone on from there, and on its way back: this is where it was before.
      const auto& last = board.actors[actor].doing;
      const bool was_moved_on =
          last.act == Act::work_forward && last.stream == i && last.position == slot.number;
      const bool is_too_old = queues[i].limit != 0 && slot.deliveries >= queues[i].limit;
      if (was_moved_on || (is_too_old && messages[slot.number].queue != i)) continue;
      const bool was_forwarded = message.stage == Stage::forwarding && message.target == i;
      const bool was_buried =
          message.queue != i && queues[message.queue].limit != 0 && queues[message.queue].dead_letter == i;
      if (was_forwarded || (was_buried && is_over_limit(message))) {
        move(board, slot.number, i, 0, Stage::waiting, actor);
      } else if (message.queue != i) {
        continue;  // it was forwarded away, and taken there
      } else if (queues[i].limit != 0 && find_slot(slots[queues[i].dead_letter], slot.number) != nullptr) {
        move(board, slot.number, queues[i].dead_letter, 0, Stage::waiting, actor);
        continue;
      }
      if (message.stage == Stage::leased || message.stage == Stage::ending)
        board.fail(fmt::format("actor {} died with message {} leased, which actor {} works on", actor,
                               slot.number, message.actor));
      if (message.stage != Stage::done) comes_back(slot.number);
    }
  const auto& doing = board.actors[actor].doing;
  if (doing.what[0] != '\0' && doing.act == Act::work_push) ++queues[doing.stream].deaths_in_push;
}

std::optional<std::uint32_t> WorkModel::deliverable(std::uint64_t number, std::uint32_t queue,
                                                    std::size_t to) const {
  if (number == 0 || number > count) return std::nullopt;
  const auto& message = messages[number];
  const bool is_others = message.actor != to;
  switch (message.stage) {
    case Stage::pushing:
      return message.queue == queue && is_others ? std::optional<std::uint32_t>(0) : std::nullopt;
    case Stage::forwarding:
      return message.target == queue && is_others ? std::optional<std::uint32_t>(0) : std::nullopt;
    case Stage::waiting:
    case Stage::returning:
    case Stage::rejecting:
      if (message.stage == Stage::rejecting && !is_others) return std::nullopt;
      if (message.queue == queue) return message.returns;
      if (is_over_limit(message) && queues[message.queue].dead_letter == queue) return 0;
      return std::nullopt;
    default: return std::nullopt;
  }
}

std::uint64_t WorkModel::passed_over(const Segment& segment, std::uint32_t queue, std::uint64_t since,
                                     std::uint64_t position) const {
  for (const auto& slot : slots_of(segment, queues[queue].id)) {
    if (slot.state != WorkState::full || slot.position >= position || slot.number > count) continue;
    const auto& message = messages[slot.number];
    // Given back meanwhile it would have been delivered more often.
    if (message.queue == queue && message.stage == Stage::waiting && message.since <= since &&
        slot.deliveries == message.returns && !is_over_limit(message))
      return slot.number;
  }
  return 0;
}

std::uint64_t WorkModel::overtaken(const Segment& segment, std::uint32_t queue, std::uint64_t number) const {
  for (const auto& slot : slots_of(segment, queues[queue].id)) {
    if (slot.state != WorkState::full || slot.deliveries != 0 || slot.number >= number) continue;
    const auto& message = messages[slot.number];
    if (message.queue == queue && message.producer != actors_max &&
        message.producer == messages[number].producer)
      return slot.number;
  }
  return 0;
}

void WorkModel::has_ended(std::uint32_t queue) {
  for (std::uint64_t number = 1; number <= count; ++number)
    if (auto& message = messages[number]; message.queue == queue && message.stage == Stage::pushing)
      message.ended = queues[queue].closings;
}

std::uint64_t WorkModel::unfinished(std::uint32_t queue, std::uint64_t since) const {
  for (std::uint64_t number = 1; number <= count; ++number) {
    const auto& message = messages[number];
    if (message.queue != queue || message.since > since) continue;
    if (message.stage == Stage::leased) return number;
    if (message.stage == Stage::waiting && !queues[queue].drops && !is_over_limit(message)) return number;
  }
  return 0;
}

void check_work(Board& board, std::uint32_t queue, const Segment& segment, test::Complaints& complaints) {
  auto& model = board.work;
  const auto& row = queue_row(segment, model.queues[queue].id.index);
  std::set<std::uint64_t> found;
  for (const auto& slot : slots_of(segment, model.queues[queue].id)) {
    if (slot.state == WorkState::empty) continue;
    const auto expected = model.deliverable(slot.number, queue, actors_max);
    if (slot.state != WorkState::full || !expected || slot.number > model.count ||
        slot.handle != model.messages[slot.number].handle || !found.insert(slot.number).second) {
      complaints.push_back(fmt::format("work {}: position {} has message {} in state {}, {}", queue,
                                       slot.position, slot.number, static_cast<int>(slot.state),
                                       expected ? "as another" : "which is not to be there"));
      continue;
    }
    if (slot.deliveries != *expected)
      complaints.push_back(fmt::format("work {}: message {} was delivered {} times, expected {}", queue,
                                       slot.number, slot.deliveries, *expected));
    if (model.messages[slot.number].queue != queue)  // buried
      model.move(board, slot.number, queue, 0, Stage::waiting, actors_max);
  }
  std::uint64_t missing = 0;
  std::uint64_t unsure = 0;
  for (std::uint64_t number = 1; number <= model.count; ++number) {
    const auto& message = model.messages[number];
    if (message.queue != queue || found.contains(number)) continue;
    if (message.stage == Stage::unsure) ++unsure;
    if (!is_in_queue(message.stage)) continue;
    ++missing;
    if (model.is_over_limit(message)) {
      const auto letters = slots_of(segment, model.queues[model.queues[queue].dead_letter].id);
      if (find_slot(letters, number) != nullptr) continue;
    }
    if (!model.queues[queue].drops)
      complaints.push_back(fmt::format("work {}: message {} is lost", queue, number));
  }
  if (!model.queues[queue].drops) return;
  const auto dropped = load(row.dropped, acquire);
  const auto most = missing + unsure + model.queues[queue].deaths_in_push;
  if (dropped < missing || dropped > most)
    complaints.push_back(fmt::format("work {}: {} messages are counted as dropped, expected {} to {}", queue,
                                     dropped, missing, most));
}

namespace {

// What waits is taken in order.
void take_all(WorkQueue& queue, const Segment& segment, test::Complaints& complaints) {
  std::uint64_t next = 0;
  while (const auto lease = queue.take()) {
    if (lease->position < next)
      complaints.push_back(fmt::format("queue {}: position {} came late", queue.id().index, lease->position));
    next = lease->position + 1;
    must(queue.acknowledge(*lease));
  }
  for (const auto& slot : slots_of(segment, queue.id()))
    if (slot.state != WorkState::empty)
      complaints.push_back(
          fmt::format("queue {}: position {} is not delivered", queue.id().index, slot.position));
}

}  // namespace

void drain_work(Board& board, Lane& lane, test::Complaints& complaints) {
  std::array<WorkQueue, work_queues_max> queues;
  for (std::uint32_t i = 0; i < work_queues_max; ++i) {
    queues[i] = must(WorkQueue::open(lane, board.work.queues[i].id));
    queues[i].reopen();
  }
  // The dead letters first: there has to be room for those that come.
  for (const auto i : {2U, 1U, 2U, 0U, 3U}) take_all(queues[i], lane.segment(), complaints);
  for (auto& queue : queues) {
    for (std::uint64_t i = 0; i < queue.capacity(); ++i)
      if (const auto status = queue.push(Message{}); status != Status::ok)
        complaints.push_back(
            fmt::format("queue {}: no room again: {}", queue.id().index, test::describe(status)));
    take_all(queue, lane.segment(), complaints);
  }
}

}  // namespace sluice::verify
