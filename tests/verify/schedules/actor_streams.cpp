// What a script does with streams: numbered messages, one producer and one consumer at a time.
#include "tests/verify/schedules/stepped.hpp"

#include <fmt/format.h>

namespace sluice::verify {

void Script::take_role() {
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.streams));
  const auto& model = board_.streams[index];
  if (random_.one_in(2)) {
    if (producers_[index]) return;
    auto end = stepped(fmt::format("claims producer {}", index), {.act = Act::take_role},
                       [&] { return StreamProducer::claim(*lane_, model.id); });
    if (!end) return expect(end.error() == Status::busy, "claim: " + test::describe(end.error()));
    producers_[index] = std::move(*end);
    expect(producers_[index].tail() == model.pushed, "claim: the tail is not where the model has it");
    return;
  }
  if (consumers_[index]) return;
  auto end = stepped(fmt::format("claims consumer {}", index), {.act = Act::take_role},
                     [&] { return StreamConsumer::claim(*lane_, model.id); });
  if (!end) return expect(end.error() == Status::busy, "claim: " + test::describe(end.error()));
  consumers_[index] = std::move(*end);
  shown_here_[index] = 0;
}

void Script::give_role() {
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.streams));
  stepped(fmt::format("gives up its ends of {}", index), {.act = Act::give_role}, [&] {
    producers_[index] = {};
    consumers_[index] = {};
  });
}

void Script::push() {
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.streams));
  auto& producer = producers_[index];
  if (!producer) return take_role();
  auto& model = board_.streams[index];
  Message message{};
  message.kind = MessageKind::data;
  message.position = model.pushed;
  expect(producer.tail() == model.pushed, "the tail is not where the model has it");
  const auto* picked = pick();
  const bool carries = picked != nullptr && picked->lane == lane_.get();
  const Held held = carries ? *picked : Held{};
  const auto handle = held.reference.handle.value;
  const Doing doing{.act = Act::push, .stream = index, .position = model.pushed, .handle = handle};
  model.handles[model.pushed % model.handles.size()] = handle;
  const auto status = stepped(fmt::format("pushes {:#x} to {}", handle, index), doing, [&] {
    return carries ? producer.push(message, held.reference) : producer.push(message);
  });
  if (status == Status::full) return;
  expect(status == Status::ok, "push: " + test::describe(status));
  if (carries) forget(*picked);
  board_.push_done(self_, index, handle);
}

void Script::pop(bool acknowledges) {
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.streams));
  auto& consumer = consumers_[index];
  if (!consumer) return take_role();
  auto& model = board_.streams[index];
  const auto number = model.popped;
  const auto* message =
      stepped(fmt::format("peeks at {}", index), {.act = Act::flush}, [&] { return consumer.peek(); });
  if (message == nullptr)
    return expect(model.pushed <= number, "peek: a message that was pushed is not there");
  const auto handle = message->handle;
  expect(message->position == number,
         fmt::format("peek: message {}, expected {}", message->position, number));
  expect(handle == model.handles[number % model.handles.size()], "peek: not the message that was pushed");
  expect(number >= model.shown || consumer.redelivered() || shown_here_[index] > number,
         "peek: not told that it was shown before");
  shown_here_[index] = model.shown = std::max(model.shown, number + 1);
  if (const Handle block{handle}; block) {
    const auto found = find_block(session_->segment(), block);
    expect(found && is_marked(found->span(), handle), "peek: the message's block has other bytes");
  }
  const Doing doing{.act = acknowledges ? Act::acknowledge : Act::pop,
                    .stream = index,
                    .position = number,
                    .handle = handle};
  if (acknowledges) {
    // The block may be another's before this returns.
    if (handle != 0) board_.unqueue(index, handle);
    const auto status =
        stepped(fmt::format("acknowledges {:#x}", handle), doing, [&] { return consumer.acknowledge(); });
    if (status == Status::ok) return board_.pop_done(self_, index, 0);
    expect(status == Status::no_cell, "acknowledge: " + test::describe(status));
    if (handle != 0) ++board_.find(handle)->by_stream[index];
    return;
  }
  const auto reference = stepped(fmt::format("pops {:#x}", handle), doing, [&] { return consumer.pop(); });
  if (!reference)
    return expect(reference.error() == Status::no_cell, "pop: " + test::describe(reference.error()));
  expect(reference->handle.value == handle, "pop: not the message that was shown");
  board_.pop_done(self_, index, handle);
  if (handle != 0) hold(*lane_, *reference);
}

}  // namespace sluice::verify
