// What is done with work queues: pushing, leasing, finishing, giving back, giving up.
#include "ipc/work_queue.hpp"
#include "tests/verify/instructions/operation.hpp"

#include <algorithm>
#include <stdexcept>

namespace sluice::verify {

namespace {

constexpr std::string_view work_name = "work", next_name = "next";
constexpr std::uint64_t stocked = 3;
constexpr std::size_t sizes[] = {1000, 0, 20480, 500};  // of a message's block, by number

// The actor's ends; destroyed before its lanes by who sets them.
struct Ends {
  WorkQueue work, next;
  WorkLease lease;
};

QueueId queue(const Segment& segment, std::string_view name) { return must(find_queue(segment, name)); }

Message numbered(std::uint64_t number) {
  Message message{};
  message.kind = MessageKind::user;
  message.position = number;
  message.length = static_cast<std::uint32_t>(sizes[number]);
  return message;
}

Reference patterned(Lane& lane, std::uint64_t number) {
  const auto block = must(lane.heap().allocate(sizes[number]));
  test::fill_pattern(lane.heap().bytes(block).first(sizes[number]), number);
  return block;
}

void push(Lane& lane, WorkQueue& to, std::uint64_t number) {
  must(sizes[number] == 0 ? to.push(numbered(number)) : to.push(numbered(number), patterned(lane, number)));
}

// Some positions have passed, so that the ring goes round.
void stock(test::Survivor& survivor, const WorkOptions& options) {
  must(create_work_queue(*survivor.lane, next_name, {.capacity = 2}));
  const auto id = must(create_work_queue(*survivor.lane, work_name, options));
  auto work = must(WorkQueue::open(*survivor.lane, id));
  for (std::uint32_t i = 0; i + 1 < options.capacity; ++i) {
    push(*survivor.lane, work, 1);
    must(work.acknowledge(must(work.take())));
  }
  for (std::uint64_t i = 0; i < stocked; ++i) push(*survivor.lane, work, i);
}

std::uint64_t messages_in(const Segment& segment, std::string_view name) {
  const auto ring =
      sound_ring(segment, queue_row(segment, queue(segment, name).index), QueueKind::work).value();
  std::uint64_t count = 0;
  for (std::uint64_t i = 0; i < ring.capacity; ++i) {
    const auto state = work_word::state(ring.slots[i].stamp);
    count += state == WorkState::full || state == WorkState::leased ? 1 : 0;
  }
  return count;
}

// Nothing or one: of what lies between the two numbers of messages.
std::uint64_t once(std::uint64_t count) {
  if (count > 1) throw std::runtime_error("it has happened neither once nor never");
  return count;
}

// Take everything; each message is whole and they come in order. Returns their numbers.
std::vector<std::uint64_t> drain(const Recovered& recovered, std::string_view name,
                                 std::uint32_t deliveries_max) {
  auto work = must(WorkQueue::open(recovered.lane, queue(recovered.session.segment(), name)));
  std::vector<std::uint64_t> numbers;
  while (const auto lease = work.take()) {
    const auto number = work.message(*lease)->position;
    const auto bytes = work.bytes(*lease);
    recovered.expect(number < std::size(sizes) && bytes.size() == sizes[number], "a message is not whole");
    recovered.expect(test::has_pattern(bytes, number), "a message has other bytes");
    recovered.expect(numbers.empty() || numbers.back() < number, "messages are out of order");
    recovered.expect(lease->deliveries <= deliveries_max, "a message was delivered too often");
    numbers.push_back(number);
    must(work.acknowledge(*lease));
  }
  recovered.lane.heap().flush();
  return numbers;
}

std::function<void(const Recovered&)> all_but(std::uint64_t maybe_gone, std::uint64_t maybe_new = ~0ULL) {
  return [=](const Recovered& recovered) {
    const auto left = drain(recovered, work_name, 1);
    const auto moved = drain(recovered, next_name, 0);
    for (std::uint64_t i = 0; i < stocked; ++i)
      recovered.expect(i == maybe_gone || std::ranges::count(left, i) == 1, "a message is lost");
    recovered.expect(std::ranges::count(left, maybe_gone) + std::ranges::count(moved, maybe_gone) <= 1,
                     "a message is in both queues");
    for (const auto number : left)
      recovered.expect(number < stocked || number == maybe_new, "a message came from nowhere");
  };
}

Operation of_work(std::string_view name, std::function<void(Actor&, Ends&)> get_ready,
                  std::function<void(Actor&, Ends&)> act, const WorkOptions& options = {.capacity = 4}) {
  const auto ends = std::make_shared<Ends>();
  return {.name = name,
          .set_up =
              [=](Actor& self) {
                self.join();
                ends->work = must(WorkQueue::open(*self.lane, queue(self.session->segment(), work_name)));
                ends->next = must(WorkQueue::open(*self.lane, queue(self.session->segment(), next_name)));
                get_ready(self, *ends);
              },
          .act = [=](Actor& self) { act(self, *ends); },
          .prepare = [=](test::Survivor& survivor) { stock(survivor, options); },
          .units = 14};
}

Operation pushing(std::string_view name, std::uint64_t number, const WorkOptions& options = {.capacity = 4}) {
  auto operation = of_work(
      name,
      [=](Actor& self, Ends&) {
        self.message = numbered(number);
        if (sizes[number] != 0) self.held.push_back(patterned(*self.lane, number));
      },
      [=](Actor& self, Ends& ends) {
        must(sizes[number] == 0 ? ends.work.push(self.message)
                                : ends.work.push(self.message, self.held.front()));
      },
      options);
  operation.happens = 1;
  return operation;
}

Operation push_one() {
  auto operation = pushing("push into a work queue", 3);
  operation.happened = [](const Segment& segment) { return once(messages_in(segment, work_name) - stocked); };
  operation.check = all_but(~0ULL, 3);
  return operation;
}

Operation push_and_drop() {
  auto operation = pushing("push into a full work queue that drops", 3,
                           {.capacity = 4, .policy = QueuePolicy::drop_oldest});
  const auto prepare = operation.prepare;
  operation.prepare = [=](test::Survivor& survivor) {
    prepare(survivor);
    auto work = must(WorkQueue::open(*survivor.lane, queue(survivor.segment(), work_name)));
    must(work.push(numbered(1)));  // the fourth
  };
  // At most one of the old ones is gone; the new one is there if it has happened.
  operation.happened = [](const Segment& segment) -> std::uint64_t {
    const auto ring =
        sound_ring(segment, queue_row(segment, queue(segment, work_name).index), QueueKind::work).value();
    for (std::uint64_t i = 0; i < ring.capacity; ++i)
      if (work_word::state(ring.slots[i].stamp) == WorkState::full && ring.slots[i].position == 3) return 1;
    return 0;
  };
  operation.check = [](const Recovered& recovered) {
    auto work = must(WorkQueue::open(recovered.lane, queue(recovered.session.segment(), work_name)));
    std::uint64_t count = 0;
    for (; const auto lease = work.take(); ++count) must(work.acknowledge(*lease));
    recovered.expect(count == 3 || count == 4, "more than one message was dropped");
    recovered.lane.heap().flush();
  };
  return operation;
}

void nothing(Actor&, Ends&) {}
void lease_one(Actor&, Ends& ends) { ends.lease = must(ends.work.take()); }

// The lease is the message's `number`; those before it are leased too.
Operation finishing(std::string_view name, std::function<void(Actor&, Ends&)> act, std::uint64_t number = 0) {
  auto operation = of_work(
      name,
      [=](Actor& self, Ends& ends) {
        for (std::uint64_t i = 0; i <= number; ++i) lease_one(self, ends);
      },
      std::move(act));
  operation.happened = [](const Segment& segment) { return once(stocked - messages_in(segment, work_name)); };
  operation.happens = 1;
  operation.check = all_but(number);
  return operation;
}

Operation moving(std::string_view name, std::function<void(Actor&, Ends&)> get_ready,
                 std::function<void(Actor&, Ends&)> act, const WorkOptions& options = {.capacity = 4}) {
  auto operation = of_work(name, std::move(get_ready), std::move(act), options);
  operation.happened = [](const Segment& segment) { return once(messages_in(segment, next_name)); };
  operation.happens = 1;
  // Where the limit is one, what was leased when the actor died goes the same way once somebody looks.
  operation.check = [](const Recovered& recovered) {
    const auto left = drain(recovered, work_name, 1);
    const auto moved = drain(recovered, next_name, 0);
    for (std::uint64_t i = 0; i < stocked; ++i)
      recovered.expect(std::ranges::count(left, i) + std::ranges::count(moved, i) == 1,
                       "a message is in both queues, or in none");
  };
  return operation;
}

Operation unchanged(Operation operation) {
  operation.check = all_but(~0ULL);
  return operation;
}

}  // namespace

std::vector<Operation> work_operations() {
  return {
      {.name = "create a work queue",
       .set_up = [](Actor& self) { self.join(); },
       .act = [](Actor& self) { must(create_work_queue(*self.lane, "another", {.capacity = 8})); },
       .check =
           [](const Recovered& recovered) {
             const auto id = must(find_or_create_work_queue(recovered.lane, "another", {.capacity = 8}));
             auto work = must(WorkQueue::open(recovered.lane, id));
             recovered.expect(!work.has_message(), "a new work queue is not empty");
             must(work.push(numbered(1)));
             must(work.acknowledge(must(work.take())));
           }},
      push_one(),
      push_and_drop(),
      unchanged(of_work("lease", nothing, [](Actor&, Ends& ends) { ends.lease = must(ends.work.take()); })),
      unchanged(of_work("reject", lease_one, [](Actor&, Ends& ends) { must(ends.work.reject(ends.lease)); })),
      finishing("keep",
                [](Actor& self, Ends& ends) { self.held.push_back(must(ends.work.keep(ends.lease))); }),
      finishing(
          "acknowledge a lease",
          [](Actor& self, Ends& ends) { must(ends.work.acknowledge(ends.lease)), self.heap().flush(); }),
      finishing(
          "acknowledge a lease without a block",
          [](Actor&, Ends& ends) { must(ends.work.acknowledge(ends.lease)); }, 1),
      moving("send a message to the dead letters", lease_one,
             [](Actor&, Ends& ends) {
               must(ends.work.reject(ends.lease));
               must(ends.work.take());
             },
             {.capacity = 4, .deliveries_max = 1, .dead_letter = next_name}),
  };
}

}  // namespace sluice::verify
