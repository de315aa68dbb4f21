// What is known of a broadcast.
#include "ipc/broadcast.hpp"
#include "tests/support/must.hpp"
#include "tests/verify/schedules/board.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::verify {

using test::must;

void BroadcastModel::give_up(Board& board, std::uint64_t position) {
  for (given_up = floor; given_up < position; ++given_up)
    if (const auto handle = handle_of(given_up); handle != 0) {
      auto& holding = board.change(handle);
      --holding.by_broadcast;
      Board::settle(holding);
    }
}

void BroadcastModel::dropped(Board& board, std::uint64_t position) {
  if (position < floor || position > std::max(given_up, floor))
    board.fail(fmt::format("the floor is at {}, expected {} to {}", position, floor, given_up));
  for (auto kept = std::max(position, floor); kept < given_up; ++kept)
    if (const auto handle = handle_of(kept); handle != 0) ++board.change(handle).by_broadcast;
  floor = given_up = position;
}

void BroadcastModel::published_one(Board& board, std::uint64_t handle) {
  ++published;
  if (handle != 0) ++board.change(handle).by_broadcast;
}

void BroadcastModel::died(Board& board, std::size_t actor, const Segment& segment) {
  subscribers[actor] = {};
  const auto& doing = board.actors[actor].doing;
  if (doing.what[0] == '\0' || (doing.act != Act::publish && doing.act != Act::trim)) return;
  const auto& row = queue_row(segment, id.index);
  dropped(board, load(row.head, acquire));
  if (doing.act == Act::publish && pushed_messages(segment, row) > doing.position)
    published_one(board, doing.handle);
}

void check_broadcast(Board& board, const Segment& segment, test::Complaints& complaints) {
  auto& model = board.broadcast;
  const auto& row = queue_row(segment, model.id.index);
  const auto tail = pushed_messages(segment, row);
  const auto floor = load(row.head, acquire);
  if (tail != model.published || floor != model.floor) {
    complaints.push_back(fmt::format("the broadcast keeps {} to {}, expected {} to {}", floor, tail,
                                     model.floor, model.published));
    return;
  }
  for (auto number = floor; number < tail; ++number) {
    const auto& message = message_slot(segment, row, number);
    if (message.position != number || message.handle != model.handle_of(number))
      complaints.push_back(fmt::format("message {} of the broadcast is another", number));
  }
}

void drain_broadcast(Board& board, Lane& lane, test::Complaints& complaints) {
  check_broadcast(board, lane.segment(), complaints);
  auto& model = board.broadcast;
  auto publisher = must(Publisher::claim(lane, model.id));
  {
    auto subscriber = must(Subscriber::join(lane, model.id, {.start = Start::at(0)}));
    if (subscriber.position() != model.floor || subscriber.missed() != model.floor)
      complaints.push_back(fmt::format("who joins at 0 begins at {}", subscriber.position()));
    for (auto number = model.floor; number < model.published; ++number) {
      const auto taken = subscriber.take();
      if (!taken || taken->message.position != number) {
        complaints.push_back(fmt::format("message {} of the broadcast cannot be read", number));
        break;
      }
      if (taken->reference) must(lane.heap().release(taken->reference));
    }
  }
  for (std::uint64_t i = 0; i < publisher.capacity(); ++i)
    if (const auto status = publisher.push(Message{}); status != Status::ok)
      complaints.push_back(fmt::format("nobody subscribes, and no room: {}", test::describe(status)));
  must(publisher.trim(0));
}

}  // namespace sluice::verify
