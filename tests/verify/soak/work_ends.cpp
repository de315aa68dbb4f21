#include "tests/verify/soak/work_ends.hpp"

#include "tests/support/must.hpp"
#include "tests/verify/soak/content.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace sluice::verify {

namespace {

using test::must;

constexpr std::uint64_t drop_tickets = std::uint64_t{1} << 30;  // of numbers: those of the queue that drops

template <class... Args>
[[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

std::uint32_t check_of(const Message& message) noexcept {
  return static_cast<std::uint32_t>(
      mix(message.flow * 131 + message.length, message.position ^ message.reserved ^ message.receive_ns) >>
      9);
}

std::string describe(std::uint64_t word) {
  return fmt::format("in stage {} in work {}, came back {} times, with slot {} in life {}",
                     ticket_word::Stage::get(word), ticket_word::Queue::get(word),
                     ticket_word::Returns::get(word), ticket_word::Slot::get(word),
                     ticket_word::Life::get(word));
}

bool is_refusal(Status status) noexcept {
  return status == Status::full || status == Status::closed || status == Status::no_cell;
}

}  // namespace

WitnessedWork::WitnessedWork(Lane& lane, Witness& witness, std::uint32_t slot)
    : lane_(lane),
      witness_(witness),
      slot_(slot),
      life_(life_word::Life::get(witness.actors[slot].life)),
      last_{} {}

bool WitnessedWork::open() {
  if (is_open_) return true;
  const auto create = [&](std::uint32_t index, const WorkOptions& options) {
    const auto found = find_or_create_work_queue(lane_, work_name_of(index), options);
    if (!found) {
      if (found.error().status == Status::exhausted || found.error().status == Status::busy) return false;
      wrong("work {}: {}", index, found.error().message);
    }
    queues_[index] = must(WorkQueue::open(lane_, *found));
    return true;
  };
  const auto dead_letter = work_name_of(work_dead_letters);
  is_open_ =
      create(0, {.capacity = work_capacities[0], .policy = QueuePolicy::fail}) &&
      create(work_dead_letters, {.capacity = work_capacities[work_dead_letters]}) &&
      create(work_limited, {.capacity = work_capacities[work_limited],
                            .deliveries_max = work_limit,
                            .dead_letter = dead_letter}) &&
      create(work_dropping, {.capacity = work_capacities[work_dropping], .policy = QueuePolicy::drop_oldest});
  return is_open_;
}

// ---- Tickets ---------------------------------------------------------------------------------------------

bool WitnessedWork::is_alive(std::uint64_t word) const noexcept {
  const auto life = witness_.actors[ticket_word::Slot::get(word)].life.load();
  return life_word::Life::get(life) == ticket_word::Life::get(word) && life_word::Doomed::get(life) == 0;
}

// Of the queue that drops: so many later pushes of one producer have come all round the ring, so the message is gone.
bool WitnessedWork::may_reuse(Ticket& ticket) {
  const auto word = ticket.word.load();
  const auto stage = ticket_word::stage(word);
  if (stage == TicketStage::free || stage == TicketStage::done) return true;
  if (hands().drop_pushes - ticket.pushed_as <= work_capacities[work_dropping]) return false;
  const bool is_worked_on = stage != TicketStage::waiting && is_alive(word);
  if (is_worked_on && stage == TicketStage::taken && ticket.word == word)
    wrong("work {}: a message was overwritten {}", work_dropping, describe(word));
  if (is_worked_on) return false;
  auto& journal = witness_.work[work_dropping];
  // First: who dies before it is counted is one of deaths_in_push.
  note(ticket.word, ticket_word::set_stage(word, TicketStage::free));
  const bool is_sure = stage != TicketStage::pushing && stage != TicketStage::ending;
  ++(is_sure ? journal.dropped : journal.maybe_dropped);
  return true;
}

Ticket* WitnessedWork::next_ticket(std::uint32_t queue, std::uint32_t& index) {
  const bool drops = queue == work_dropping;
  const auto count = drops ? drop_tickets_per_slot : tickets_per_slot;
  for (std::uint32_t left = drops ? 1 : count; left != 0; --left) {
    index = next_ticket_++ % count;
    auto& ticket = drops ? hands().drop_tickets[index] : hands().tickets[index];
    const auto stage = ticket_word::stage(ticket.word);
    if (drops ? may_reuse(ticket) : stage == TicketStage::free || stage == TicketStage::done) return &ticket;
  }
  return nullptr;
}

Ticket& WitnessedWork::ticket_of(const Message& message, std::uint32_t queue) {
  const auto number = message.position & 0xffffffff;
  const auto slot = number >> 16 & 0xff;
  const auto index = number & 0xffff;
  const bool drops = (number & drop_tickets) != 0;
  if (message.detail != check_of(message) || message.kind != MessageKind::user || slot >= slots_max ||
      index >= (drops ? drop_tickets_per_slot : tickets_per_slot))
    wrong("work {}: a message that nobody pushed: {:#x}, of queue {}", queue, message.position, message.flow);
  return drops ? witness_.hands[slot].drop_tickets[index] : witness_.hands[slot].tickets[index];
}

Message WitnessedWork::message_for(std::uint32_t queue, std::uint64_t ticket, std::uint64_t bytes) {
  Message message{};
  message.kind = MessageKind::user;
  message.flow = queue;
  message.position = ticket;
  message.length = static_cast<std::uint32_t>(bytes);
  message.receive_ns = hands().numbers + 1;
  note(hands().numbers, message.receive_ns);
  message.reserved = std::uint64_t{slot_} << 32 | life_;
  message.detail = check_of(message);
  return message;
}

// ---- Producing -------------------------------------------------------------------------------------------

bool WitnessedWork::push(std::uint32_t queue, Reference reference, std::uint64_t bytes) {
  note(hands().pushing_to, queue + 1);
  std::uint32_t index = 0;
  auto* ticket = next_ticket(queue, index);
  if (ticket == nullptr) {
    note(hands().pushing_to, 0U);
    return false;
  }
  const auto turn = (ticket_word::Turn::get(ticket->word) + 1) & ticket_word::Turn::max;
  const auto number = std::uint64_t{slot_} << 16 | index | (queue == work_dropping ? drop_tickets : 0);
  const auto message = message_for(queue, number | turn << 32, bytes);
  auto word = ticket_word::Queue::make(queue) | ticket_word::Slot::make(slot_) |
              ticket_word::Life::make(life_) | ticket_word::Turn::make(turn);
  word = ticket_word::set_stage(word, TicketStage::pushing);
  note(ticket->handle, reference.handle.value);
  note(ticket->pushed_as, hands().drop_pushes.load());
  note(ticket->word, word);
  const auto status = reference ? queues_[queue].push(message, reference) : queues_[queue].push(message);
  if (status == Status::ok && queue == work_dropping) note(hands().drop_pushes, hands().drop_pushes + 1);
  const auto after = status == Status::ok ? TicketStage::waiting : TicketStage::free;
  const bool was_untouched = ticket->word.compare_exchange_strong(word, ticket_word::set_stage(word, after));
  note(hands().pushing_to, 0U);
  if (status == Status::ok) return true;
  if (!is_refusal(status)) wrong("work {}: push: {}", queue, to_string(status));
  if (!was_untouched) wrong("work {}: a message was refused ({}) and delivered", queue, to_string(status));
  if (status == Status::closed && witness_.work[queue].ever_closed == 0)
    wrong("work {}: closed by nobody", queue);
  return false;
}

void WitnessedWork::turn(std::uint32_t queue) {
  if (queues_[queue].closed()) return queues_[queue].reopen();
  witness_.work[queue].ever_closed = 1;
  queues_[queue].close();
  for (const auto& lease : leases_)
    if (lease.queue == queue && queues_[queue].ended())
      wrong("work {}: ended while a message is worked on", queue);
}

// ---- Consuming -------------------------------------------------------------------------------------------

// How often a message must have been delivered before, as its ticket is now; nothing if it may not be delivered.
std::optional<WitnessedWork::Expected> WitnessedWork::expect(std::uint64_t word, const Message& message,
                                                             std::uint32_t queue) const {
  if (ticket_word::Turn::get(word) != message.position >> 32) return std::nullopt;
  const auto is_in = ticket_word::Queue::get(word);
  auto returns = ticket_word::Returns::get(word);
  switch (ticket_word::stage(word)) {
    case TicketStage::pushing:
    case TicketStage::waiting:
    case TicketStage::rejecting: break;
    case TicketStage::forwarding:
      if (is_in != queue && message.flow == queue) return Expected{0, 0};
      [[fallthrough]];
    case TicketStage::taken:
    case TicketStage::ending:
      if (is_alive(word)) return std::nullopt;
      ++returns;
      break;
    default: return std::nullopt;
  }
  const bool is_dead_letter = queue == work_dead_letters && message.flow == work_limited;
  if (!is_dead_letter && message.flow != queue) return std::nullopt;
  if (is_in == queue) return Expected{std::min<std::uint64_t>(returns, 255), 0};
  if (!is_dead_letter || is_in != work_limited) return std::nullopt;
  return Expected{0, work_limit - std::min<std::uint64_t>(returns, work_limit)};
}

bool WitnessedWork::take(std::uint32_t queue) {
  note(hands().taking_from, queue + 1);
  const auto lease = queues_[queue].take();
  if (!lease) {
    note(hands().taking_from, 0U);
    if (lease.error() != Status::empty && lease.error() != Status::no_cell)
      wrong("work {}: take: {}", queue, to_string(lease.error()));
    return false;
  }
  const auto* message = queues_[queue].message(*lease);
  if (message == nullptr) wrong("work {}: position {} is leased, and is not", queue, lease->position);
  auto& ticket = ticket_of(*message, queue);
  auto word = ticket.word.load();
  for (;;) {
    const auto expected = expect(word, *message, queue);
    if (!expected || lease->deliveries < expected->returns) {
      if (const auto now = ticket.word.load(); now != word) {
        word = now;
        continue;
      }
      wrong(
          "work {}: position {}, delivered {} times before, is message {:#x} of queue {}, which is {}, turn {}",
          queue, lease->position, lease->deliveries, message->position, message->flow, describe(word),
          ticket_word::Turn::get(word));
    }
    auto taken = ticket_word::Queue::make(queue) | ticket_word::Returns::make(lease->deliveries) |
                 ticket_word::Slot::make(slot_) | ticket_word::Life::make(life_) |
                 ticket_word::Turn::make(ticket_word::Turn::get(word));
    taken = ticket_word::set_stage(taken, TicketStage::taken);
    if (!ticket.word.compare_exchange_strong(word, taken)) continue;
    witness_.work[queue].unexplained += lease->deliveries - expected->returns;
    witness_.work[work_limited].unexplained += expected->unexplained;
    word = taken;
    break;
  }
  note(hands().taking_from, 0U);
  if (queue == work_limited && lease->deliveries >= work_limit)
    wrong("work {}: delivered {} times, which is over the limit", queue, lease->deliveries);
  if (lease->deliveries == 0 && message->flow == queue) check_order(*message, queue);
  if (lease->deliveries != 0) ++witness_.work[queue].came_back;
  check_contents(*message, ticket, queue);
  leases_.push_back({queue, *lease, &ticket, word});
  return true;
}

// What nobody had before comes in the order in which its producer pushed it.
void WitnessedWork::check_order(const Message& message, std::uint32_t queue) {
  auto& last = last_[queue][message.reserved >> 32 & (slots_max - 1)];
  if (last.producer == message.reserved && message.receive_ns <= last.number)
    wrong("work {}: message {:#x} of slot {} comes after {:#x}", queue, message.receive_ns,
          message.reserved >> 32, last.number);
  last = {message.reserved, message.receive_ns};
}

void WitnessedWork::check_contents(const Message& message, const Ticket& ticket, std::uint32_t queue) const {
  if (message.handle != ticket.handle)
    wrong("work {}: handle {:#x}, expected {:#x}", queue, message.handle, ticket.handle.load());
  if (message.handle == 0) return;
  const auto block = find_block(lane_.segment(), Handle{message.handle});
  if (!block) wrong("work {}: the block {:#x} is not live", queue, message.handle);
  if (!read_block(block->span(), Handle{message.handle}))
    wrong("work {}: the block {:#x} has other bytes", queue, message.handle);
}

// ---- Leases ----------------------------------------------------------------------------------------------

WitnessedWork::Lease WitnessedWork::remove(std::size_t lease) {
  const auto removed = leases_[lease];
  leases_[lease] = leases_.back();
  leases_.pop_back();
  return removed;
}

// Say what becomes of it; nobody else may have said anything since.
std::uint64_t WitnessedWork::begin(Lease& lease, TicketStage stage, std::uint64_t returns) {
  const auto word = ticket_word::Returns::set(ticket_word::set_stage(lease.word, stage), returns);
  if (!lease.ticket->word.compare_exchange_strong(lease.word, word))
    wrong("work {}: what slot {} works on is {}", lease.queue, slot_, describe(lease.word));
  return word;
}

Reference WitnessedWork::keep(std::size_t index) {
  auto lease = remove(index);
  auto word = begin(lease, TicketStage::ending, ticket_word::Returns::get(lease.word));
  const auto kept = queues_[lease.queue].keep(lease.lease);
  if (!kept || kept->handle.value != lease.ticket->handle)
    wrong("work {}: keep of position {}: {}", lease.queue, lease.lease.position,
          kept ? "another block" : to_string(kept.error()));
  if (!lease.ticket->word.compare_exchange_strong(word, ticket_word::set_stage(word, TicketStage::done)))
    wrong("work {}: position {} was delivered while it was kept", lease.queue, lease.lease.position);
  ++witness_.work[lease.queue].done;
  return *kept;
}

void WitnessedWork::acknowledge(std::size_t index) {
  auto lease = remove(index);
  auto word = begin(lease, TicketStage::ending, ticket_word::Returns::get(lease.word));
  const auto status = queues_[lease.queue].acknowledge(lease.lease);
  if (status != Status::ok)
    wrong("work {}: acknowledge of position {}: {}", lease.queue, lease.lease.position, to_string(status));
  if (!lease.ticket->word.compare_exchange_strong(word, ticket_word::set_stage(word, TicketStage::done)))
    wrong("work {}: position {} was delivered while it was acknowledged", lease.queue, lease.lease.position);
  ++witness_.work[lease.queue].done;
}

void WitnessedWork::reject(std::size_t index) {
  auto lease = remove(index);
  auto word = begin(lease, TicketStage::rejecting,
                    std::min<std::uint64_t>(ticket_word::Returns::get(lease.word) + 1, 255));
  const auto status = queues_[lease.queue].reject(lease.lease);
  if (status != Status::ok)
    wrong("work {}: reject of position {}: {}", lease.queue, lease.lease.position, to_string(status));
  lease.ticket->word.compare_exchange_strong(word, ticket_word::set_stage(word, TicketStage::waiting));
}

bool WitnessedWork::forward(std::size_t index, std::uint32_t to) {
  auto& lease = leases_[index];
  if (to == lease.queue || lease.queue == work_dropping)
    return false;  // its tickets are given out again by its rules
  const auto* leased = queues_[lease.queue].message(lease.lease);
  if (leased == nullptr)
    wrong("work {}: the lease of position {} is gone", lease.queue, lease.lease.position);
  const auto message = message_for(to, leased->position, leased->length);
  auto word = begin(lease, TicketStage::forwarding, ticket_word::Returns::get(lease.word));
  const auto status = queues_[lease.queue].forward(lease.lease, queues_[to], message);
  if (status == Status::ok) {
    const auto there = ticket_word::Queue::set(ticket_word::Returns::set(word, 0), to);
    lease.ticket->word.compare_exchange_strong(word, ticket_word::set_stage(there, TicketStage::waiting));
    remove(index);
    return true;
  }
  if (!is_refusal(status)) wrong("work {}: forward: {}", lease.queue, to_string(status));
  if (!lease.ticket->word.compare_exchange_strong(word, lease.word))
    wrong("work {}: a forward was refused and delivered", lease.queue);
  return false;
}

void WitnessedWork::forget_leases() {
  while (!leases_.empty()) {
    auto lease = remove(0);
    begin(lease, TicketStage::rejecting,
          std::min<std::uint64_t>(ticket_word::Returns::get(lease.word) + 1, 255));
  }
}

}  // namespace sluice::verify
