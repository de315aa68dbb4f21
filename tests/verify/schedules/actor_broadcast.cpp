// What a script does with a broadcast: as its publisher, if nobody else is, and as one of its subscribers.
#include "tests/verify/schedules/stepped.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::verify {

// ---- Publishing

bool Script::claim_publisher() {
  if (publisher_) return true;
  auto& model = board_.broadcast;
  auto claimed = stepped("claims the publisher's role", {.act = Act::take_role},
                         [&] { return Publisher::claim(*lane_, model.id); });
  if (!claimed) {
    expect(claimed.error() == Status::busy, "claim: " + test::describe(claimed.error()));
    return false;
  }
  publisher_ = std::move(*claimed);
  expect(publisher_.tail() == model.published && publisher_.floor() == model.floor,
         fmt::format("claim: the broadcast keeps {} to {}, expected {} to {}", publisher_.floor(),
                     publisher_.tail(), model.floor, model.published));
  return true;
}

// Nobody who blocks was passed. One that reads may have gone one further than it has said.
void Script::check_publisher() {
  auto& model = board_.broadcast;
  model.dropped(board_, publisher_.floor());
  for (std::size_t i = 0; i < actors_max; ++i) {
    const auto& subscriber = model.subscribers[i];
    if (!subscriber.is_there || subscriber.policy != SubscriberPolicy::block) continue;
    const auto& doing = board_.actors[i].doing;
    const auto position = subscriber.position + (doing.what[0] != '\0' && doing.act == Act::read ? 1 : 0);
    expect(model.floor <= position,
           fmt::format("the floor is {}, and actor {} holds {}", model.floor, i, position));
  }
}

void Script::publish() {
  if (!claim_publisher()) return subscribe();
  auto& model = board_.broadcast;
  const auto* picked = pick();
  const bool carries = picked != nullptr && picked->lane == lane_.get();
  const Held held = carries ? *picked : Held{};
  const auto handle = held.reference.handle.value;
  const auto number = model.published;
  Message message{};
  message.kind = MessageKind::data;
  message.position = number;
  message.length = handle == 0 ? 0 : 64;
  if (carries) board_.change(handle).may_be_found = true;
  if (publisher_.tail() - publisher_.floor() == publisher_.capacity())
    model.give_up(board_, publisher_.floor() + 1);
  else
    model.give_up(board_, publisher_.floor());
  model.handle_of(number) = handle;
  const auto holders = model.holders;
  const Doing doing{.act = Act::publish, .position = number, .handle = handle};
  const auto status = stepped(fmt::format("publishes {} with {:#x}", number, handle), doing, [&] {
    return carries ? publisher_.push(message, held.reference) : publisher_.push(message);
  });
  if (status == Status::ok) {
    if (carries) {
      board_.find(handle)->findable = true;
      forget(*picked);
      --board_.find(handle)->by_actor[self_];
    }
    model.published_one(board_, handle);
  } else {
    expect(status == Status::full || status == Status::no_cell, "publish: " + test::describe(status));
    expect(status != Status::full || holders != 0 || model.holders != 0,
           "publish: full, and nobody ever held anything");
  }
  check_publisher();
}

void Script::trim() {
  if (!publisher_) return publish();
  auto& model = board_.broadcast;
  const auto keep = random_.below(publisher_.capacity());
  model.give_up(board_, publisher_.tail() - std::min(keep, publisher_.tail()));
  ++model.trims;
  const auto status =
      stepped(fmt::format("trims to {}", keep), {.act = Act::trim}, [&] { return publisher_.trim(keep); });
  expect(status == Status::ok || status == Status::full || status == Status::no_cell,
         "trim: " + test::describe(status));
  check_publisher();
}

// ---- Subscribing

void Script::subscribe() {
  if (subscriber_) return read();
  auto& model = board_.broadcast;
  const SubscriberPolicy policies[] = {SubscriberPolicy::block, SubscriberPolicy::block,
                                       SubscriberPolicy::lose_oldest, SubscriberPolicy::disconnect};
  policy_ = policies[random_.below(4)];
  const auto what = random_.below(3);
  const auto value = what == 1 ? random_.below(4) : random_.below(model.published + 2);
  const auto start = what == 0 ? Start::from_now() : what == 1 ? Start::last(value) : Start::at(value);
  const auto wanted = [&](std::uint64_t tail) {
    return what == 0 ? tail : what == 1 ? tail - std::min(tail, value) : std::min(tail, value);
  };
  const auto published = model.published;
  const auto floor = model.floor;
  ++model.holders;  // until its cursor is stored it holds everything
  auto joined =
      stepped(fmt::format("subscribes, policy {}", static_cast<int>(policy_)), {.act = Act::subscribe},
              [&] { return Subscriber::join(*lane_, model.id, {.policy = policy_, .start = start}); });
  if (!joined) return expect(joined.error() == Status::exhausted, "join: " + test::describe(joined.error()));
  subscriber_ = std::move(*joined);
  const auto& row = queue_row(session_->segment(), model.id.index);
  const auto tail = pushed_messages(session_->segment(), row);
  const auto asked = subscriber_.position() - subscriber_.missed();
  expect(asked >= wanted(published) && asked <= wanted(tail) && subscriber_.position() <= tail,
         fmt::format("join: asked for {} and up, begins at {}, missed {}", wanted(published),
                     subscriber_.position(), subscriber_.missed()));
  expect(subscriber_.position() >= floor, "join: begins before the floor");
  expect(policy_ != SubscriberPolicy::block || load(row.head, acquire) <= subscriber_.position(),
         "join: the floor has passed who blocks");
  model.subscribers[self_] = {.is_there = true, .policy = policy_, .position = subscriber_.position()};
}

// Message number `expected`, or one later that tells how many were lost.
void Script::judge_read(std::uint64_t published, const Message& message, std::uint64_t expected) {
  auto& model = board_.broadcast;
  const auto number = message.position;
  expect(number == expected && subscriber_.position() == number + 1,
         fmt::format("read: message {}, expected {}, and goes on at {}", number, expected,
                     subscriber_.position()));
  expect(number < std::max(published, pushed_messages(session_->segment(),
                                                      queue_row(session_->segment(), model.id.index))),
         "read: a message that was not published");
  expect(message.handle == model.handle_of(number),
         fmt::format("read: message {} has another block", number));
  model.subscribers[self_].position = subscriber_.position();
}

void Script::judge_nothing(std::uint64_t published, Status status) {
  auto& model = board_.broadcast;
  const auto position = subscriber_.position();
  const auto tail = pushed_messages(session_->segment(), queue_row(session_->segment(), model.id.index));
  switch (status) {
    case Status::closed: expect(model.closes != 0, "read: closed, and nobody has closed it"); [[fallthrough]];
    case Status::empty:
      return expect(published <= position,
                    fmt::format("read: nothing at {}, and {} were published", position, published));
    case Status::disconnected:
      expect(policy_ == SubscriberPolicy::disconnect, "read: disconnected, with another policy");
      expect(model.trims != 0 || tail + 1 - position >= plan_.capacity,
             fmt::format("read: disconnected at {} of {}", position, tail));
      model.subscribers[self_] = {};
      return stepped("leaves the broadcast", {.act = Act::leave_broadcast}, [&] { subscriber_.leave(); });
    case Status::no_cell:
    case Status::overflow: return;
    default: return expect(false, "read: " + test::describe(status));
  }
}

void Script::read() {
  if (!subscriber_) return subscribe();
  if (held_.size() == held_max) return release();
  if (policy_ == SubscriberPolicy::block && random_.one_in(3)) return read_in_place();
  const auto published = board_.broadcast.published;
  const auto position = subscriber_.position();
  const auto lost = subscriber_.lost();
  const auto taken =
      stepped(fmt::format("reads {}", position), {.act = Act::read}, [&] { return subscriber_.take(); });
  const auto lost_now = subscriber_.lost() - lost;
  const auto floor = load(queue_row(session_->segment(), board_.broadcast.id.index).head, acquire);
  expect(lost_now == 0 || (policy_ == SubscriberPolicy::lose_oldest && position + lost_now <= floor),
         fmt::format("read: {} from {} on are lost, and the floor is {}", lost_now, position, floor));
  if (!taken) return judge_nothing(published, taken.error());
  judge_read(published, taken->message, position + lost_now);
  const auto handle = taken->message.handle;
  expect(taken->reference.handle.value == handle, "read: the reference is to another block");
  if (handle == 0 || board_.failed()) return;
  const auto span = lane_->heap().bytes(taken->reference);
  expect(!span.empty() && is_marked(span, handle), fmt::format("read: {:#x} has other bytes", handle));
  if (board_.failed()) return;
  board_.add(self_, handle, static_cast<std::uint64_t>(span.data() - session_->segment().unit_address(0)),
             span.size());
  board_.find(handle)->may_be_found = board_.find(handle)->findable = true;
  hold(*lane_, taken->reference);
}

void Script::read_in_place() {
  const auto published = board_.broadcast.published;
  const auto position = subscriber_.position();
  const auto* message =
      stepped(fmt::format("looks at {}", position), {.act = Act::flush}, [&] { return subscriber_.peek(); });
  if (message == nullptr) return judge_nothing(published, Status::empty);
  const auto check = [&](std::string_view when) {
    expect(message->position == position && message->stamp == position + 1,
           fmt::format("read in place: message {} is {}, {}", position, message->position, when));
    if (message->handle == 0) return;
    const auto bytes = find_block(session_->segment(), Handle{message->handle});
    expect(bytes && is_marked(bytes->span(), message->handle),
           fmt::format("read in place: {:#x} has other bytes, {}", message->handle, when));
  };
  check("at first");
  stepped("looks on", {.act = Act::flush}, [&] { lane_->heap().flush(); });
  check("a while later");
  if (board_.failed()) return;
  const auto copy = *message;
  const auto status = stepped(fmt::format("goes on from {}", position), {.act = Act::read},
                              [&] { return subscriber_.advance(); });
  expect(status == Status::ok, "advance: " + test::describe(status));
  judge_read(published, copy, position);
}

void Script::leave_broadcast() {
  auto& model = board_.broadcast;
  if (publisher_ && random_.one_in(2)) {
    const bool closes = random_.one_in(2);
    model.closes += closes ? 1 : 0;
    return stepped("gives up the publisher's role", {.act = Act::give_role}, [&] {
      if (closes) publisher_.close();
      publisher_ = {};
    });
  }
  if (!subscriber_) return publish();
  model.subscribers[self_] = {};
  stepped("leaves the broadcast", {.act = Act::leave_broadcast}, [&] { subscriber_.leave(); });
}

}  // namespace sluice::verify
