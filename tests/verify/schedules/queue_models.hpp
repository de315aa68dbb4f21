// The model of a schedule's work queues and broadcast. It says before an operation what is given up by it, after it
// what it was given; who looks in between sees the message on its way. What a death in between has left is read from
// the slots, not from the cells that recovery goes by.
#pragma once

#include "ipc/broadcast_layout.hpp"
#include "ipc/queues.hpp"
#include "ipc/work_layout.hpp"
#include "tests/support/model.hpp"
#include "tests/verify/schedules/plan.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace sluice::verify {

class Board;

inline constexpr std::size_t actors_max = 12;  // ever, in one schedule

/// What is known of a message. Whoever is in the middle of something with it is `actor`.
enum class Stage : std::uint8_t {
  none,
  pushing,
  waiting,
  leased,
  ending,  // is acknowledged, or kept
  rejecting,
  forwarding,
  returning,  // its consumer died: it waits, or will once that one is recovered
  done,
  unsure,  // its producer died, and it is not there: never pushed, or dropped since
};

struct WorkMessage {
  std::uint64_t handle = 0;
  std::uint64_t since = 0;  // WorkModel::clock, of its stage
  std::uint32_t queue = 0, target = 0;
  std::uint32_t returns = 0;  // times that it came back
  Stage stage = Stage::none;
  std::size_t actor = 0;
  std::uint64_t ended = 0;   // not 0: its queue had ended while it was pushed, at those closings
  std::size_t producer = 0;  // who pushed it into this queue, by numbers; actors_max: it came otherwise
};

struct WorkQueueModel {
  QueueId id;
  std::uint32_t limit = 0;  // of deliveries
  std::uint32_t dead_letter = 0;
  bool drops = false;
  bool is_closed = false;
  std::uint64_t closings = 0;  // counts both ways, when it begins and when it has ended
  std::uint64_t pushes = 0;    // likewise; of those that end in a death the beginning only
  std::uint32_t deaths_in_push = 0;
};

/// One slot of a work queue, as it is.
struct SlotView {
  WorkState state;
  std::uint64_t lane, deliveries, position;
  std::uint64_t number;  // of the message in the model
  std::uint64_t handle;
};

struct WorkModel {
  std::array<WorkQueueModel, work_queues_max> queues;
  std::array<WorkMessage, 1024> messages;  // number 0 is nobody's
  std::uint64_t count = 0;
  std::uint64_t clock = 0;

  /// Change what is known of a message; its reference changes hands with that.
  void set(Board& board, std::uint64_t number, Stage stage, std::size_t actor);
  void move(Board& board, std::uint64_t number, std::uint32_t queue, std::uint32_t returns, Stage stage,
            std::size_t actor);
  void died(Board& board, std::size_t actor, const Segment& segment);

  /// How often the message was delivered before, if it may be delivered from that queue at this moment.
  std::optional<std::uint32_t> deliverable(std::uint64_t number, std::uint32_t queue, std::size_t to) const;
  /// A message that waits since before `since`, in front of `position`: it should have been taken. 0: none.
  std::uint64_t passed_over(const Segment& segment, std::uint32_t queue, std::uint64_t since,
                            std::uint64_t position) const;
  /// A message that its producer had pushed before that one, and that waits: nobody had either before. 0: none.
  std::uint64_t overtaken(const Segment& segment, std::uint32_t queue, std::uint64_t number) const;
  /// The queue has ended, as somebody sees: what is being pushed comes too late, unless it is opened again.
  void has_ended(std::uint32_t queue);
  bool is_late(std::uint64_t number) const {
    return messages[number].ended != 0 && messages[number].ended == queues[messages[number].queue].closings;
  }
  /// A message that has kept the queue from having ended since before `since`. 0: none.
  std::uint64_t unfinished(std::uint32_t queue, std::uint64_t since) const;
  bool is_over_limit(const WorkMessage& message) const {
    const auto limit = queues[message.queue].limit;
    return limit != 0 && message.returns >= limit;
  }
};

std::vector<SlotView> slots_of(const Segment& segment, QueueId queue);

/// Nobody is inside an operation, and all dead are recovered: what waits is what the model has, each delivered as often,
/// and what is missing was dropped.
void check_work(Board& board, std::uint32_t queue, const Segment& segment, test::Complaints& complaints);
/// Take all of it, and use every queue once around.
void drain_work(Board& board, Lane& lane, test::Complaints& complaints);

struct SubscriberModel {
  bool is_there = false;  // has joined, and does not leave
  SubscriberPolicy policy = SubscriberPolicy::block;
  std::uint64_t position = 0;
};

struct BroadcastModel {
  QueueId id;
  std::uint64_t published = 0, floor = 0;
  std::uint64_t given_up = 0;               // below it the publisher may drop what it drops
  std::array<std::uint64_t, 64> handles{};  // of message number % 64
  std::uint32_t trims = 0, closes = 0;
  std::uint32_t holders = 0;  // subscriptions that hold, or held and died
  std::array<SubscriberModel, actors_max> subscribers{};

  std::uint64_t& handle_of(std::uint64_t number) { return handles[number % handles.size()]; }
  /// The publisher may drop all below `position` from now on.
  void give_up(Board& board, std::uint64_t position);
  /// It has dropped all below `position`, and nothing else.
  void dropped(Board& board, std::uint64_t position);
  void published_one(Board& board, std::uint64_t handle);
  void died(Board& board, std::size_t actor, const Segment& segment);
};

void check_broadcast(Board& board, const Segment& segment, test::Complaints& complaints);
/// Read it from its floor on as a subscriber, publish once around, drop all.
void drain_broadcast(Board& board, Lane& lane, test::Complaints& complaints);

}  // namespace sluice::verify
