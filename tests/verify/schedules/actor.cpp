#include "tests/verify/schedules/actor.hpp"

#include "tests/support/must.hpp"
#include "tests/verify/schedules/stepped.hpp"

#include <fmt/format.h>

#include <numeric>

namespace {
bool stops_in_yield = false;  // in actors
}

// Instead of the C library's, for all of this program.
extern "C" int sched_yield() noexcept {
  if (stops_in_yield) {
    asm volatile(".global sluice_yield_mark\nsluice_yield_mark: int3" ::: "memory");
  }
  return 0;
}
extern "C" const char sluice_yield_mark;

namespace sluice::verify {

std::uint64_t yield_address() noexcept { return reinterpret_cast<std::uint64_t>(&sluice_yield_mark); }

using test::must;

namespace {

constexpr std::uint32_t cells = 64;

}  // namespace

Script::Script(Board& board, const Plan& plan, std::size_t actor, std::string path, const Traps& traps,
               const StepMarks& marks)
    : board_(board),
      plan_(plan),
      self_(actor),
      path_(std::move(path)),
      traps_(traps),
      marks_(marks),
      random_((plan.seed << 8) + actor) {}

void Script::run(bool joined) {
  stops_in_yield = true;
  board_.actors[self_].state = ActorState::running;
  join(!joined);
  traps_.plant();  // before the first mark nothing of the library runs any more
  for (std::uint32_t i = 0; i < plan_.acts && !board_.failed(); ++i) act(choose());
  end_leases();
  if (random_.one_in(4))
    leave();
  else  // a census counts what is given up, told to its owner or not, as nobody's
    stepped("flushes in the end", {.act = Act::flush}, [&] {
      lane_->heap().flush();
      if (second_) second_->heap().flush();
    });
  board_.actors[self_].state = ActorState::finished;
  for (;;) marks_.mark();
}

void Script::join(bool is_stepped) {
  auto segment = must(Segment::open(path_));
  board_.actors[self_].base = reinterpret_cast<std::uint64_t>(segment.base());
  const LaneOptions options{.cells = cells, .name = "actor"};
  if (!is_stepped) {
    session_ = std::make_unique<Session>(must(Session::join(std::move(segment), "actor")));
    lane_ = must(session_->claim_lane(options));
    board_.actors[self_].lanes[0] = lane_->id();
    return;
  }
  traps_.plant();
  deaths_seen_ = board_.deaths;
  stepped("joins", {.act = Act::rejoin}, [&] {
    session_ = std::make_unique<Session>(must(Session::join(std::move(segment), "actor")));
    lane_ = must(session_->claim_lane(options));
  });
  board_.actors[self_].lanes[0] = lane_->id();
}

// A lane that ends drops what it holds.
void Script::leave() {
  for (const auto& held : held_) board_.remove(self_, held.reference.handle.value);
  held_.clear();
  for (const auto& lease : leases_) {
    ++board_.work.messages[lease.number].returns;
    board_.work.set(board_, lease.number, Stage::returning, self_);
  }
  leases_.clear();
  board_.broadcast.subscribers[self_] = {};
  stepped("leaves", {.act = Act::rejoin}, [&] {
    publisher_ = {};
    subscriber_.leave();
    works_ = {};
    for (auto& producer : producers_) producer = {};
    for (auto& consumer : consumers_) consumer = {};
    second_.reset();
    lane_.reset();
    session_.reset();
  });
  board_.actors[self_].base = 0;
  board_.actors[self_].lanes = {};
}

Act Script::choose() {
  if (board_.deaths != deaths_seen_ && !random_.one_in(4)) return Act::recover;
  const auto total = std::accumulate(plan_.weights.begin(), plan_.weights.end(), 0U);
  auto at = random_.below(total);
  for (std::size_t i = 0; i < act_count; ++i) {
    if (at < plan_.weights[i]) return static_cast<Act>(i);
    at -= plan_.weights[i];
  }
  return Act::flush;
}

void Script::act(Act act) {
  switch (act) {
    case Act::allocate: return allocate(plan_.bytes[random_.below(plan_.bytes.size())]);
    case Act::allocate_run: return allocate((1 + random_.below(3)) * unit_bytes);
    case Act::release: return release();
    case Act::clone: return clone();
    case Act::share: return share();
    case Act::look_up: return look_up();
    case Act::resize: return resize();
    case Act::flush: return stepped("flushes", {.act = act}, [&] { lane_->heap().flush(); });
    case Act::push: return push();
    case Act::pop: return pop(false);
    case Act::acknowledge: return pop(true);
    case Act::take_role: return take_role();
    case Act::give_role: return give_role();
    case Act::second_lane: return second_lane();
    case Act::rejoin: leave(); return join(true);
    case Act::recover: return recover();
    case Act::work_push: return work_push();
    case Act::work_take: return work_take();
    case Act::work_end: return work_end();
    case Act::work_reject: return work_reject();
    case Act::work_forward: return work_forward();
    case Act::work_close: return work_close();
    case Act::publish: return publish();
    case Act::trim: return trim();
    case Act::subscribe: return subscribe();
    case Act::read: return read();
    case Act::leave_broadcast: return leave_broadcast();
  }
}

void Script::hold(Lane& lane, Reference reference) { held_.push_back({reference, &lane}); }

Script::Held* Script::pick() { return held_.empty() ? nullptr : &held_[random_.below(held_.size())]; }

void Script::forget(const Held& held) { held_.erase(held_.begin() + (&held - held_.data())); }

Lane& Script::any_lane() { return second_ && random_.one_in(2) ? *second_ : *lane_; }

void Script::expect(bool holds, std::string_view what) {
  if (!holds) board_.fail(fmt::format("actor {}: {}", self_, what));
}

void Script::check_bytes(Lane& lane, Reference reference, std::string_view when) {
  const auto bytes = lane.heap().bytes(reference);
  expect(!bytes.empty(), fmt::format("{}: block {:#x} is held but stale", when, reference.handle.value));
  expect(bytes.empty() || is_marked(bytes, reference.handle.value),
         fmt::format("{}: block {:#x} has other bytes", when, reference.handle.value));
}

// --- blocks that one lane holds ---------------------------------------------------------------------------

void Script::allocate(std::size_t bytes) {
  if (held_.size() == held_max) return release();
  auto& lane = any_lane();
  const auto reference = stepped(fmt::format("allocates {}", bytes), {.act = Act::allocate},
                                 [&] { return lane.heap().allocate(bytes); });
  if (!reference) {
    const auto why = reference.error();
    return expect(why == Status::exhausted || why == Status::no_cell, "allocate: " + test::describe(why));
  }
  const auto span = lane.heap().bytes(*reference);
  expect(span.size() >= bytes, "allocate: the block is not live, or smaller than was asked for");
  if (board_.failed()) return;
  board_.add(self_, reference->handle.value,
             static_cast<std::uint64_t>(span.data() - session_->segment().unit_address(0)), span.size());
  mark_block(span, reference->handle.value);
  hold(lane, *reference);
}

void Script::release() {
  const auto* picked = pick();
  if (picked == nullptr) return allocate(plan_.bytes[0]);
  const auto held = *picked;
  forget(*picked);
  check_bytes(*held.lane, held.reference, "before its release");
  board_.remove(self_, held.reference.handle.value);
  const auto status =
      stepped(fmt::format("releases {:#x}", held.reference.handle.value), {.act = Act::release},
              [&] { return held.lane->heap().release(held.reference); });
  expect(status == Status::ok, "release: " + test::describe(status));
}

void Script::resize() {
  const auto* picked = pick();
  if (picked == nullptr) return allocate(plan_.bytes[0]);
  const auto held = *picked;
  const auto bytes = plan_.bytes[random_.below(plan_.bytes.size())];
  const auto old = held.reference.handle.value;
  check_bytes(*held.lane, held.reference, "before its resize");
  board_.remove(self_, old);  // its bytes may be another's before this returns
  const auto moved = stepped(fmt::format("resizes {:#x} to {}", old, bytes), {.act = Act::resize},
                             [&] { return held.lane->heap().resize(held.reference, bytes); });
  if (!moved || moved->handle == held.reference.handle) ++board_.find(old)->by_actor[self_];
  if (!moved) {
    const auto why = moved.error();
    return expect(why == Status::exhausted || why == Status::no_cell || why == Status::shared,
                  "resize: " + test::describe(why));
  }
  if (moved->handle == held.reference.handle) return;
  const auto* others = board_.find(old);
  expect(others == nullptr || others->total() <= 0, "resize moved a block that others hold");
  forget(*picked);
  const auto span = held.lane->heap().bytes(*moved);
  expect(span.size() >= bytes && begins_marked(span, old), "resize: the contents were not kept");
  if (board_.failed()) return;
  board_.add(self_, moved->handle.value,
             static_cast<std::uint64_t>(span.data() - session_->segment().unit_address(0)), span.size());
  mark_block(span, moved->handle.value);
  hold(*held.lane, *moved);
}

// --- blocks that several hold -----------------------------------------------------------------------------

void Script::clone() {
  const auto* picked = pick();
  if (picked == nullptr) return look_up();
  if (held_.size() == held_max) return release();
  const auto held = *picked;
  const auto second = stepped(fmt::format("clones {:#x}", held.reference.handle.value), {.act = Act::clone},
                              [&] { return held.lane->heap().clone(held.reference); });
  if (!second) return expect(second.error() == Status::no_cell, "clone: " + test::describe(second.error()));
  ++board_.find(held.reference.handle.value)->by_actor[self_];
  hold(*held.lane, *second);
}

void Script::share() {
  const auto* picked = pick();
  if (picked == nullptr) return allocate(plan_.bytes[0]);
  const auto held = *picked;
  const auto handle = held.reference.handle.value;
  board_.find(handle)->may_be_found = true;
  const auto status = stepped(fmt::format("makes {:#x} findable", handle), {.act = Act::share},
                              [&] { return held.lane->heap().make_findable(held.reference); });
  expect(status == Status::ok, "make_findable: " + test::describe(status));
  board_.find(handle)->findable = true;
  board_.posted[random_.below(plan_.posts)] = handle;
}

void Script::look_up() {
  // Now and then a block that nobody has made findable: it must not be found.
  auto handle = board_.posted[random_.below(plan_.posts)];
  if (random_.one_in(8)) handle = board_.holdings[random_.below(16)].handle;
  if (held_.size() == held_max) return release();
  if (handle == 0 || random_.one_in(8)) return share();
  auto& lane = any_lane();
  const auto* holding = board_.find(handle);
  const bool was_findable = holding != nullptr && holding->findable;
  const bool was_held = was_findable && holding->total() > 0;
  const auto gaps = holding == nullptr ? 0 : holding->gaps;
  const auto found = stepped(fmt::format("looks up {:#x}", handle), {.act = Act::look_up},
                             [&] { return lane.heap().look_up(Handle{handle}); });
  holding = board_.find(handle);
  if (!found) {
    expect(found.error() == Status::stale || found.error() == Status::no_cell,
           "look_up: " + test::describe(found.error()));
    const bool held_all_the_time = was_held && holding != nullptr && holding->gaps == gaps;
    return expect(!(found.error() == Status::stale && held_all_the_time),
                  fmt::format("look_up: block {:#x} is held and findable, and was not found", handle));
  }
  const auto span = lane.heap().bytes(*found);
  expect(!span.empty() && is_marked(span, handle), fmt::format("look_up: {:#x} is not that block", handle));
  expect(holding == nullptr || holding->may_be_found,
         fmt::format("look_up: block {:#x} was found, and is not findable", handle));
  if (board_.failed()) return;
  board_.add(self_, handle, static_cast<std::uint64_t>(span.data() - session_->segment().unit_address(0)),
             span.size());
  board_.find(handle)->findable = board_.find(handle)->may_be_found = true;
  hold(lane, *found);
}

// --- lanes, processes -------------------------------------------------------------------------------------

void Script::second_lane() {
  if (!second_) {
    auto claimed = stepped("claims a second lane", {.act = Act::second_lane},
                           [&] { return session_->claim_lane({.cells = cells, .name = "second"}); });
    if (!claimed) return expect(false, "claim_lane: no lane");
    second_ = std::move(*claimed);
    board_.actors[self_].lanes[1] = second_->id();
    return;
  }
  std::erase_if(held_, [&](const Held& held) {
    if (held.lane != second_.get()) return false;
    board_.remove(self_, held.reference.handle.value);
    return true;
  });
  board_.actors[self_].lanes[1] = 0;
  stepped("releases its second lane", {.act = Act::second_lane}, [&] { second_.reset(); });
}

void Script::recover() {
  deaths_seen_ = board_.deaths;
  const auto report = stepped("recovers", {.act = Act::recover}, [&] { return session_->recover_dead(); });
  for (const auto& line : report.disagreements) expect(false, "recover_dead: disagreement: " + line);
}

}  // namespace sluice::verify
