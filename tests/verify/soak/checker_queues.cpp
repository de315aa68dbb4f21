#include "tests/verify/soak/checker_queues.hpp"

#include "ipc/work_layout.hpp"
#include "tests/verify/soak/broadcast_ends.hpp"
#include "tests/verify/soak/work_ends.hpp"

#include <fmt/format.h>

#include <string_view>

namespace sluice::verify {

namespace {

template <class Body>
void for_each_queue(const Segment& segment, Body&& body) {
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index)
    if (const auto& row = queue_row(segment, index);
        queue_word::state(load(row.word, acquire)) == QueueState::ready)
      body(index, row);
}

void check_counts(const WorkJournal& journal, std::uint32_t queue, Complaints& complaints) {
  const auto deaths = journal.deaths_in_take + (queue == work_dropping ? journal.deaths_in_push.load() : 0);
  if (journal.unexplained > deaths)
    complaints.push_back(
        fmt::format("work {}: {} deliveries more than anybody has caused, and {} died in a take", queue,
                    journal.unexplained.load(), deaths));
}

// Every queue is empty now: what is not done is lost, or was dropped.
void account(Ticket& ticket, std::uint32_t index, Witness& witness, bool drops, Complaints& complaints) {
  const auto word = ticket.word.load();
  const auto stage = ticket_word::stage(word);
  const auto queue = ticket_word::Queue::get(word);
  auto& journal = witness.work[work_dropping];
  const bool is_unsure = stage == TicketStage::pushing || stage == TicketStage::ending;
  if (stage != TicketStage::free && stage != TicketStage::done) {
    if (drops)
      ++(is_unsure ? journal.maybe_dropped : journal.dropped);
    else if (!is_unsure)
      complaints.push_back(fmt::format("work {}: ticket {} of slot {} is lost in stage {}", queue, index,
                                       ticket_word::Slot::get(word), ticket_word::Stage::get(word)));
  }
  ticket.word = ticket_word::set_stage(word, TicketStage::free);
}

void account_for_all(Lane& lane, Witness& witness, const QueueRow& dropping, Complaints& complaints) {
  for (auto& hands : witness.hands) {
    for (std::uint32_t i = 0; i < tickets_per_slot; ++i)
      account(hands.tickets[i], i, witness, false, complaints);
    for (std::uint32_t i = 0; i < drop_tickets_per_slot; ++i)
      account(hands.drop_tickets[i], i, witness, true, complaints);
  }
  const auto& journal = witness.work[work_dropping];
  const auto counted = load(dropping.dropped, acquire);
  const auto most = journal.dropped + journal.maybe_dropped + journal.deaths_in_push;
  if (counted < journal.dropped || counted > most)
    complaints.push_back(fmt::format("work {}: {} messages are counted as dropped, expected {} to {}",
                                     work_dropping, counted, journal.dropped.load(), most));
  for (std::uint32_t i = 0; i < work_queues; ++i)
    for (std::uint64_t slot = 0; slot < work_capacities[i]; ++slot) {
      const auto found = find_queue(lane.segment(), work_name_of(i));
      const auto word =
          load(message_slot(lane.segment(), queue_row(lane.segment(), found->index), slot).stamp, acquire);
      if (work_word::state(word) != WorkState::empty)
        complaints.push_back(
            fmt::format("work {}: slot {} is not taken, state {}", i, slot, work_word::State::get(word)));
    }
}

void take_all(WitnessedWork& work, std::uint32_t queue) {
  while (work.take(queue)) work.acknowledge(0);
}

void check_broadcast(Lane& lane, QueueId queue, std::uint32_t index, BroadcastJournal& journal,
                     bool is_thorough, Complaints& complaints) {
  const auto ring = sound_ring(lane.segment(), queue_row(lane.segment(), queue.index));
  for (const auto& subscriber : ring->subscribers)
    if (load(subscriber.claim, acquire) != 0)
      complaints.push_back(fmt::format("broadcast {}: a subscriber is left", index));
  WitnessedPublisher publisher;
  if (!publisher.claim(lane, queue, index, journal)) {
    complaints.push_back(fmt::format("broadcast {}: the publisher's role is held", index));
    return;
  }
  WitnessedSubscriber subscriber;
  subscriber.join(lane, queue, index, journal, {.start = Start::at(0)});
  const auto read_all = [&] {
    while (const auto taken = subscriber.take())
      if (*taken) test::must(lane.heap().release(*taken));
    if (subscriber.next() != publisher.next())
      complaints.push_back(
          fmt::format("broadcast {}: {} read of {}", index, subscriber.next(), publisher.next()));
  };
  if (subscriber.next() != publisher.floor())
    complaints.push_back(fmt::format("broadcast {}: who joins at 0 begins at {}, the floor is {}", index,
                                     subscriber.next(), publisher.floor()));
  read_all();
  for (std::uint64_t left = is_thorough ? publisher.capacity() : 1; left != 0; --left)
    if (!publisher.publish({}, 0)) complaints.push_back(fmt::format("broadcast {}: no room", index));
  if (is_thorough && publisher.publish({}, 0))
    complaints.push_back(fmt::format("broadcast {}: who blocks was passed", index));
  read_all();
  subscriber.leave();
  if (is_thorough) publisher.trim(0);
  if (is_thorough && publisher.floor() != publisher.next())
    complaints.push_back(fmt::format("broadcast {}: something is left", index));
  publisher.rest();
}

}  // namespace

void check_work(Lane& lane, Witness& witness, bool is_thorough, Complaints& complaints) {
  const auto& segment = lane.segment();
  for (std::uint32_t i = 0; i < work_queues; ++i) check_counts(witness.work[i], i, complaints);
  std::uint32_t there = 0;
  for (std::uint32_t i = 0; i < work_queues; ++i) there += find_queue(segment, work_name_of(i)) ? 1U : 0U;
  if (there != work_queues) return;  // nobody has pushed
  begin_life(witness.actors[checker_slot]);
  WitnessedWork work(lane, witness, checker_slot);
  if (!work.open()) return (void)complaints.emplace_back("a work queue cannot be opened");
  for (std::uint32_t i = 0; i < work_queues; ++i) work.queue(i).reopen();
  // The dead letters first: there has to be room for those that come.
  take_all(work, work_dead_letters);
  if (is_thorough) {
    for (const auto i : {work_limited, work_dead_letters, 0U, work_dropping}) take_all(work, i);
    account_for_all(lane, witness, queue_row(segment, work.queue(work_dropping).id().index), complaints);
  }
  for (std::uint32_t i = 0; i < work_queues; ++i) {
    const bool is_pushed = work.push(i, {}, 0);
    if (!is_pushed && work.take(i)) work.acknowledge(0);
    if (!is_pushed && !work.push(i, {}, 0))
      complaints.push_back(fmt::format("work {}: no room, and none is made by taking one", i));
    if (is_thorough) take_all(work, i);
  }
}

void check_broadcasts(Lane& lane, Witness& witness, bool is_thorough, Complaints& complaints) {
  for (std::uint32_t i = 0; i < broadcasts; ++i) {
    const auto found = find_queue(lane.segment(), broadcast_name_of(i));
    if (found) check_broadcast(lane, *found, i, witness.broadcast[i], is_thorough, complaints);
    if (!found && witness.broadcast[i].publishing != 0)
      complaints.push_back(fmt::format("broadcast {} is gone", i));
  }
}

std::uint64_t count_leases_in(const Segment& segment, test::Census& census) {
  std::uint64_t leases = 0;
  for_each_queue(segment, [&](std::uint32_t, const QueueRow& row) {
    const auto ring = sound_ring(segment, row, QueueKind::work);
    for (std::uint64_t i = 0; ring && i < ring->capacity; ++i) {
      if (work_word::state(load(ring->slots[i].stamp, acquire)) != WorkState::leased) continue;
      ++leases;
      if (ring->slots[i].handle != 0) ++census.references[ring->slots[i].handle];
    }
  });
  // Two that it finds of each: a cell that says so, and a slot.
  std::uint64_t told = 0;
  std::erase_if(census.faults, [&](std::string_view fault) {
    const bool is_lease = fault.ends_with("is claimed") || fault.find(" moves: ") != std::string_view::npos;
    told += is_lease ? 1U : 0U;
    return is_lease;
  });
  if (told != 2 * leases)
    census.faults.push_back(fmt::format("{} leases, but {} cells and slots tell of some", leases, told));
  return leases;
}

std::uint64_t blocks_in_queues(const Segment& segment) {
  std::uint64_t sum = 0;
  for_each_queue(segment, [&](std::uint32_t index, const QueueRow& row) {
    const auto ring = sound_ring(segment, row, QueueKind::work);
    if (!ring) sum += test::count_blocks_in_stream(segment, {index, 0});
    for (std::uint64_t i = 0; ring && i < ring->capacity; ++i) {
      const auto state = work_word::state(load(ring->slots[i].stamp, acquire));
      sum += (state == WorkState::full || state == WorkState::leased) && ring->slots[i].handle != 0 ? 1U : 0U;
    }
  });
  return sum;
}

}  // namespace sluice::verify
