// Messages that go on from one queue to another, for every pair of kinds between which that is one step; and from a
// broadcast, where it is two.
#include "runtime/consumer.hpp"
#include "tests/support/stages.hpp"
#include "tests/verify/instructions/operation.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace sluice::verify {

namespace {

using test::from_name, test::to_name;

constexpr std::uint64_t stocked = 3;

std::uint64_t forwarded(const Segment& segment) {
  const auto count = test::staged_in(segment, to_name);
  if (count > 1) throw std::runtime_error("it has happened neither once nor never");
  return count;
}

std::uint64_t count(const std::vector<test::StagedMessage>& found, std::uint64_t number) {
  return static_cast<std::uint64_t>(
      std::ranges::count_if(found, [&](const auto& message) { return message.number == number; }));
}

void check_each_once(const Recovered& recovered) {
  const auto moved = test::drain_stage(recovered.lane, to_name);
  const auto left = test::drain_stage(recovered.lane, from_name);
  for (const auto* queue : {&moved, &left})
    for (const auto& message : *queue) recovered.expect(message.is_whole, "a message is not whole");
  for (std::uint64_t i = 0; i < stocked; ++i)
    recovered.expect(count(moved, i) + count(left, i) == 1, "a message is in both queues, or in none");
  recovered.expect(moved.size() + left.size() == stocked, "a message came from nowhere");
  for (std::size_t i = 1; i < left.size(); ++i)
    recovered.expect(left[i - 1].number < left[i].number, "messages are out of order");
}

Operation forwarding(const test::StagePair& pair, std::string_view name, bool drops) {
  return {.name = name,
          .set_up =
              [=](Actor& self) {
                self.join();
                const auto forwarder = std::make_shared<test::Forwarder>(*self.lane, pair);
                forwarder->take();
                self.ends = forwarder;
              },
          .act = [](Actor& self) { must(static_cast<test::Forwarder*>(self.ends.get())->forward_next()); },
          .prepare =
              [=](test::Survivor& survivor) {
                test::make_stages(*survivor.lane, pair, stocked);
                if (!drops) return;
                // Two more of the older ones, so that the oldest must go.
                auto publisher =
                    must(Publisher::claim(*survivor.lane, must(find_queue(survivor.segment(), to_name))));
                for (int i = 0; i < 2; ++i) must(publisher.push(Message{.position = 1000}));
              },
          .happened = forwarded,
          .happens = 1,
          .check = check_each_once,
          .units = 18};
}

struct Ends {
  Consumer from;
  Producer to;
  std::optional<Received> received;
};

// Published and then passed: the ring keeps the message, whatever becomes of its subscriber.
Operation forward_from_broadcast() {
  return {.name = "forward from a broadcast into a stream",
          .set_up =
              [](Actor& self) {
                self.join();
                const auto ends = std::make_shared<Ends>(
                    must(Consumer::open(*self.lane, from_name, {.start = Start::at(0)})),
                    must(Producer::open(*self.lane, to_name)));
                ends->received.emplace(must(ends->from.try_receive()));
                self.ends = ends;
              },
          .act =
              [](Actor& self) {
                must(static_cast<Ends*>(self.ends.get())
                         ->received->forward(static_cast<Ends*>(self.ends.get())->to, {}));
              },
          .prepare =
              [](test::Survivor& survivor) {
                test::make_stages(*survivor.lane, {QueueKind::broadcast, QueueKind::stream, {}}, stocked);
              },
          .happened = forwarded,
          .happens = 1,
          .check =
              [](const Recovered& recovered) {
                const auto moved = test::drain_stage(recovered.lane, to_name);
                for (const auto& message : moved)
                  recovered.expect(message.number == 0 && message.is_whole, "a message is not whole");
                const auto left = test::drain_stage(recovered.lane, from_name);
                recovered.expect(left.size() == stocked, "the ring has not all of its messages");
              },
          .units = 18};
}

}  // namespace

std::vector<Operation> forward_operations() {
  std::vector<Operation> operations;
  for (const auto& pair : test::stage_pairs) operations.push_back(forwarding(pair, pair.name, false));
  operations.push_back(
      forwarding(test::stage_pairs[2], "forward from a stream over the oldest of a broadcast", true));
  operations.push_back(forward_from_broadcast());
  return operations;
}

}  // namespace sluice::verify
