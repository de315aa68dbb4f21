// What a script does with work queues.
#include "tests/support/must.hpp"
#include "tests/verify/schedules/stepped.hpp"

#include <fmt/format.h>

namespace sluice::verify {

namespace {

constexpr std::size_t leases_max = 3;

}  // namespace

WorkQueue& Script::work(std::uint32_t queue) {
  if (!works_[queue])
    works_[queue] = stepped(fmt::format("opens work {}", queue), {.act = Act::flush}, [&] {
      return test::must(WorkQueue::open(*lane_, board_.work.queues[queue].id));
    });
  return works_[queue];
}

bool Script::others_push(std::uint32_t queue) const {
  for (std::size_t i = 0; i < actors_max; ++i)
    if (const auto& other = board_.actors[i]; i != self_ && other.state == ActorState::running &&
                                              other.doing.act == Act::work_push &&
                                              other.doing.stream == queue)
      return true;
  return false;
}

void Script::work_push() {
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.work_queues));
  auto& model = board_.work;
  auto& queue = work(index);
  const auto* picked = pick();
  const bool carries = picked != nullptr && picked->lane == lane_.get();
  const Held held = carries ? *picked : Held{};
  const auto handle = held.reference.handle.value;
  const auto number = ++model.count;
  if (number == model.messages.size()) throw std::runtime_error("the model of work is full");
  model.messages[number].handle = handle;
  model.messages[number].queue = index;
  model.messages[number].producer = self_;
  model.set(board_, number, Stage::pushing, self_);
  const bool drops = model.queues[index].drops;
  if (drops && handle != 0) board_.remove(self_, handle);  // others may drop it before this returns
  Message message{};
  message.kind = MessageKind::data;
  message.position = number;
  const auto& row = queue.row();
  const auto dropped = load(row.dropped, acquire);
  const auto pushes = ++model.queues[index].pushes;
  const bool was_closed = model.queues[index].is_closed;
  const auto closings = model.queues[index].closings;
  const Doing doing{.act = Act::work_push, .stream = index, .position = number, .handle = handle};
  const auto status = stepped(fmt::format("pushes {} ({:#x}) to work {}", number, handle, index), doing, [&] {
    return carries ? queue.push(message, held.reference) : queue.push(message);
  });
  const bool was_alone = ++model.queues[index].pushes == pushes + 1 && !others_push(index);
  const bool closed_all_the_time = was_closed && model.queues[index].closings == closings;
  const bool open_all_the_time = !was_closed && model.queues[index].closings == closings;
  const bool is_undecided = model.messages[number].stage == Stage::pushing;
  if (status == Status::ok) {
    if (carries) forget(*picked);
    expect(!is_undecided || !model.is_late(number),
           fmt::format("push: message {} came when work {} had ended", number, index));
    if (is_undecided) model.set(board_, number, Stage::waiting, self_);
    return expect(!closed_all_the_time, fmt::format("push: work {} is closed", index));
  }
  expect(is_undecided, fmt::format("push: message {} was refused and delivered", number));
  model.set(board_, number, Stage::done, self_);
  if (drops && handle != 0) ++board_.change(handle).by_actor[self_];
  expect(status == Status::full || status == Status::closed || status == Status::no_cell,
         "push: " + test::describe(status));
  expect(status != Status::full || !was_alone || load(row.dropped, acquire) == dropped,
         "push: full, although a message was dropped");
  expect(status != Status::closed || !open_all_the_time, fmt::format("push: work {} is open", index));
}

void Script::work_take() {
  if (leases_.size() == leases_max) return work_end();
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.work_queues));
  auto& queue = work(index);
  const auto since = board_.work.clock;
  const auto lease = stepped(fmt::format("takes from work {}", index),
                             {.act = Act::work_take, .stream = index}, [&] { return queue.take(); });
  if (lease) return check_taken(index, *lease, since);
  expect(lease.error() == Status::empty || lease.error() == Status::no_cell,
         "take: " + test::describe(lease.error()));
  if (lease.error() != Status::empty) return;
  const auto waits = board_.work.passed_over(session_->segment(), index, since, ~std::uint64_t{0});
  expect(waits == 0, fmt::format("take: work {} is empty, but message {} waits", index, waits));
  const auto before = board_.work.clock;
  const bool ended = stepped(fmt::format("asks whether work {} has ended", index), {.act = Act::flush},
                             [&] { return queue.ended(); });
  if (ended && !board_.work.queues[index].drops) board_.work.has_ended(index);
  const auto left = ended ? board_.work.unfinished(index, before) : 0;
  expect(left == 0, fmt::format("work {} has ended, but message {} is not done", index, left));
}

void Script::check_taken(std::uint32_t queue, const WorkLease& lease, std::uint64_t since) {
  auto& model = board_.work;
  const auto* message = works_[queue].message(lease);
  expect(message != nullptr, "take: the lease is not ours");
  if (board_.failed()) return;
  const auto number = message->position;
  const auto expected = model.deliverable(number, queue, self_);
  if (!expected) {
    const auto& found = model.messages[number % model.messages.size()];
    return expect(
        false, fmt::format("take: message {} from work {}: it is in stage {} at actor {} in work {}", number,
                           queue, static_cast<int>(found.stage), found.actor, found.queue));
  }
  auto& known = model.messages[number];
  expect(lease.deliveries == *expected, fmt::format("take: message {} was delivered {} times, expected {}",
                                                    number, lease.deliveries, *expected));
  const auto limit = model.queues[queue].limit;
  expect(limit == 0 || lease.deliveries < limit, fmt::format("take: message {} is over the limit", number));
  expect(message->handle == known.handle, fmt::format("take: message {} has another block", number));
  if (known.handle != 0) {
    const auto found = find_block(session_->segment(), Handle{known.handle});
    expect(found && is_marked(found->span(), known.handle), "take: the message's block has other bytes");
  }
  const auto passed = model.passed_over(session_->segment(), queue, since, lease.position);
  expect(passed == 0, fmt::format("take: message {} was taken before {}", number, passed));
  model.move(board_, number, queue, lease.deliveries, Stage::leased, self_);
  const auto overtaken = lease.deliveries == 0 ? model.overtaken(session_->segment(), queue, number) : 0;
  expect(overtaken == 0, fmt::format("take: message {} was taken before {}", number, overtaken));
  leases_.push_back({queue, lease, number});
}

void Script::work_end() {
  const auto* picked = pick_lease();
  if (picked == nullptr) return work_take();
  const auto [index, lease, number] = *picked;
  leases_.erase(leases_.begin() + (picked - leases_.data()));
  auto& queue = work(index);
  const auto handle = board_.work.messages[number].handle;
  board_.work.set(board_, number, Stage::ending, self_);
  const Doing doing{.act = Act::work_end, .stream = index, .position = number, .handle = handle};
  if (random_.one_in(3) && held_.size() < held_max) {
    const auto kept =
        stepped(fmt::format("keeps {} of work {}", number, index), doing, [&] { return queue.keep(lease); });
    expect(kept && kept->handle.value == handle, "keep: not the block that was leased");
    board_.work.set(board_, number, Stage::done, self_);
    if (!kept || !*kept) return;
    ++board_.change(handle).by_actor[self_];
    return hold(*lane_, *kept);
  }
  const auto status = stepped(fmt::format("acknowledges {} of work {}", number, index), doing,
                              [&] { return queue.acknowledge(lease); });
  expect(status == Status::ok, "acknowledge: " + test::describe(status));
  board_.work.set(board_, number, Stage::done, self_);
}

void Script::work_reject() {
  const auto* picked = pick_lease();
  if (picked == nullptr) return work_take();
  const auto [index, lease, number] = *picked;
  leases_.erase(leases_.begin() + (picked - leases_.data()));
  auto& model = board_.work;
  ++model.messages[number].returns;
  model.set(board_, number, Stage::rejecting, self_);
  const auto status = stepped(fmt::format("rejects {} of work {}", number, index),
                              {.act = Act::work_reject, .stream = index, .position = number},
                              [&] { return work(index).reject(lease); });
  expect(status == Status::ok, "reject: " + test::describe(status));
  if (const auto& message = model.messages[number];
      message.stage == Stage::rejecting && message.actor == self_)
    model.set(board_, number, Stage::waiting, self_);
}

void Script::work_forward() {
  const auto* picked = pick_lease();
  if (picked == nullptr) return work_take();
  const auto [from, lease, number] = *picked;
  const auto to = static_cast<std::uint32_t>(random_.below(plan_.work_queues));
  if (to == from || board_.work.queues[to].drops) return work_reject();
  auto& model = board_.work;
  auto& queue = work(from);
  auto& target = work(to);
  const auto* leased = queue.message(lease);
  expect(leased != nullptr, "forward: the lease is gone");
  if (board_.failed()) return;
  const auto message = *leased;
  const auto returns = model.messages[number].returns;
  model.messages[number].target = to;
  model.set(board_, number, Stage::forwarding, self_);
  const auto status = stepped(fmt::format("forwards {} of work {} to {}", number, from, to),
                              {.act = Act::work_forward, .stream = from, .position = number},
                              [&] { return queue.forward(lease, target, message); });
  auto& known = model.messages[number];
  const bool is_undecided = known.stage == Stage::forwarding && known.actor == self_;
  if (status == Status::ok) {
    leases_.erase(leases_.begin() + (picked - leases_.data()));
    if (!is_undecided) return;
    return model.move(board_, number, to, 0, Stage::waiting, self_);
  }
  expect(status == Status::full || status == Status::closed || status == Status::no_cell,
         "forward: " + test::describe(status));
  expect(is_undecided && known.returns == returns, "forward: refused and delivered");
  if (is_undecided) model.set(board_, number, Stage::leased, self_);
}

void Script::work_close() {
  const auto index = static_cast<std::uint32_t>(random_.below(plan_.work_queues));
  auto& model = board_.work.queues[index];
  auto& queue = work(index);
  const bool opens = model.is_closed;
  ++model.closings;
  stepped(fmt::format("{} work {}", opens ? "opens" : "closes", index),
          {.act = Act::work_close, .stream = index}, [&] {
            if (opens)
              queue.reopen();
            else
              queue.close();
          });
  ++model.closings;
  model.is_closed = queue.closed();
}

// Who has finished works on nothing.
void Script::end_leases() {
  while (!leases_.empty() && !board_.failed())
    if (random_.one_in(2))
      work_end();
    else
      work_reject();
}

}  // namespace sluice::verify
