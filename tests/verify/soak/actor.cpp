#include "tests/verify/soak/actor.hpp"

#include "tests/support/must.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <ctime>
#include <stdexcept>

#include <sys/prctl.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

// Both may be full of those who are stopped or dead, or somebody may be in the way for a moment.
bool is_temporary(Status status) noexcept { return status == Status::exhausted || status == Status::busy; }

void sleep_us(long us) {
  const timespec time{.tv_sec = 0, .tv_nsec = us * 1000};
  ::nanosleep(&time, nullptr);
}

}  // namespace

std::string_view to_string(Role role) noexcept {
  constexpr std::string_view names[role_count] = {"producer", "consumer",  "worker",    "caster",
                                                  "sharer",   "allocator", "recoverer", "looper"};
  return names[static_cast<std::uint32_t>(role)];
}

Actor::Actor(const Stage& stage, std::uint32_t slot, Role role, std::uint64_t seed)
    : stage_(stage), slot_(slot), role_(role), random_(seed) {}

void Actor::run() {
  install_fork_handler(stage_, slot_);
  try {
    for (;;) live();
  } catch (const std::exception& error) {
    journal().life |= life_word::Doomed::make(1);  // what it worked on comes back: that is no second failure
    journal().fail(error.what());
  }
  ::_exit(exit_failed);
}

// From joining to leaving in order, which few come to.
void Actor::live() {
  while (!join() || !claim_lanes()) {
    obey();
    if (session_) recover();
    sleep_us(500);
  }
  journal().phase = Phase::working;
  const auto steps = 1000 + random_() % 100'000;
  for (std::uint64_t i = 0; i < steps && first_lane_; ++i) act();
  leave();
}

bool Actor::join() {
  count_one(journal().steps);
  if (session_) return true;
  auto opened = Session::open(stage_.path, to_string(role_));
  if (!opened) {
    if (is_temporary(opened.error().status)) return false;
    throw std::runtime_error("open: " + opened.error().message);
  }
  session_.emplace(std::move(*opened));
  return true;
}

bool Actor::claim_lanes() {
  constexpr struct {
    std::uint32_t cells;
    std::size_t held;
  } sizes[] = {{64, 12}, {256, 24}, {2048, 24}, {16384, 200}};

  const auto claim = [&](std::unique_ptr<Lane>& lane, std::optional<Holdings>& holdings) {
    if (lane) return true;
    const auto& size = sizes[random_() % std::size(sizes)];
    auto claimed = session_->claim_lane({.cells = size.cells, .name = to_string(role_)});
    if (!claimed && !is_temporary(claimed.error().status))
      throw std::runtime_error("claim a lane: " + claimed.error().message);
    if (!claimed) return false;
    lane = std::move(*claimed);
    holdings.emplace(*lane, journal(), random_(), size.held);
    return true;
  };
  if (!claim(first_lane_, first_)) return false;
  if (role_ == Role::allocator) claim(second_lane_, second_);  // content with one
  streams_.assign(stage_.streams, std::nullopt);
  return true;
}

void Actor::find_streams() {
  const auto stream = static_cast<std::uint32_t>(random_() % stage_.streams);
  if (streams_[stream]) return;
  const auto found = find_or_create_stream(*first_lane_, stream_name_of(stream), stream_capacity_of(stream));
  if (found)
    streams_[stream] = *found;
  else if (!is_temporary(found.error().status))
    throw std::runtime_error("stream: " + found.error().message);
}

void Actor::act() {
  count_one(journal().steps);
  obey();
  if (!first_lane_) return;
  if (chance(512)) recover();
  if (chance(256)) pause();
  if (chance(64)) find_streams();
  // Now and then out of the role, so that everybody holds everything.
  work_in(chance(16) ? static_cast<Role>(random_() % role_count) : role_);
}

void Actor::work_in(Role role) {
  auto& holdings = some_holdings();
  const auto what = random_() % 8;
  switch (role) {
    case Role::looper: return loop();
    case Role::producer: return produce();
    case Role::consumer: return consume();
    case Role::worker: return work();
    case Role::caster: return cast();
    case Role::sharer:
      if (chance(8)) return holdings.churn_references(50 + random_() % 400);
      if (what < 3) return holdings.clone_one();
      if (what < 5) return holdings.release_one();
      if (what == 5) return holdings.publish_one(*stage_.witness);
      if (what == 6) return holdings.look_up_one(*stage_.witness);
      if (holdings.count() < 4) holdings.allocate();
      return;
    case Role::allocator:
      if (chance(16)) return holdings.churn_blocks(50 + random_() % 200);
      if (what < 4) {
        holdings.allocate();
        return;
      }
      if (what < 6) return holdings.release_one();
      if (what == 6) return holdings.rewrite_one();
      return holdings.check_one();
    case Role::recoverer:
      if (what < 2) return recover();
      if (what == 2) return holdings.look_up_one(*stage_.witness);
      if (what == 3) return holdings.release_one();
      if (what == 4) holdings.allocate();
      return;
  }
}

void Actor::produce() {
  if (!producer_ && !claim_end(producer_, false)) return work_in(Role::sharer);
  if (chance(2000)) return producer_.rest();
  if (chance(10)) {
    producer_.push({}, 0, false);
    return;
  }
  const bool is_fresh = !chance(3);
  const auto reference =
      is_fresh ? first_->fresh(seed_of(producer_.stream(), producer_.next())) : first_->give();
  if (!reference) return;
  if (chance(8)) {  // found by others as well, before it is sent
    first_->give_back(reference);
    first_->publish_one(*stage_.witness);
    return;
  }
  if (!producer_.push(reference, first_->bytes_of(reference), is_fresh)) first_->give_back(reference);
}

void Actor::consume() {
  if (!consumer_ && !claim_end(consumer_, false)) return work_in(Role::sharer);
  if (chance(2000)) return consumer_.rest();
  const auto taken = consumer_.take(chance(100) ? static_cast<long>(1 + random_() % 500) : 0);
  if (taken && *taken) first_->keep(*taken);
  if (!taken || chance(2)) first_->release_one();
}

// Both ends in one hand, many small messages: more pushes and pops in its time than between two processes.
void Actor::loop() {
  if (!producer_ && !claim_end(producer_, true)) return work_in(Role::sharer);
  if (!consumer_ && !claim_end(consumer_, true)) return work_in(Role::sharer);
  for (auto left = random_() % 64; left != 0; --left) {
    const auto reference = first_->another_small();
    if (!reference) break;
    if (producer_.push(reference, 64, false)) continue;
    test::must(first_lane_->heap().release(reference));
    break;
  }
  for (auto left = random_() % 64; left != 0; --left) {
    const auto taken = consumer_.take();
    if (!taken) break;
    if (*taken) test::must(first_lane_->heap().release(*taken));
  }
  if (chance(300)) producer_.rest();
  if (chance(300)) consumer_.rest();
}

// An end of one of the streams that are for that, at random: false if it has an owner or is not there yet.
template <class End>
bool Actor::claim_end(End& end, bool is_loop) {
  const auto pairs = (stage_.streams + (is_loop ? 0 : 1)) / 2;
  const auto stream = static_cast<std::uint32_t>(random_() % pairs * 2 + (is_loop ? 1 : 0));
  if (!streams_[stream]) {
    find_streams();
    return false;
  }
  return end.claim(*first_lane_, *streams_[stream], stream, stage_.witness->streams[stream]);
}

void Actor::recover() {
  const auto before = journal().phase.exchange(Phase::recovering);
  const auto report = session_->recover_dead();
  journal().phase = before;
  if (!report.disagreements.empty())
    throw std::runtime_error("disagreement: " + report.disagreements.front());
  for (std::uint32_t i = 0; i < report.processes; ++i) count_one(journal().recovered);
}

void Actor::pause() {
  if (first_lane_) first_lane_->heap().flush();
  sleep_us(static_cast<long>(random_() % 200));
}

void Actor::obey() {
  if (journal().fork_into.load() < slots_max && journal().fork_in_handler.load() == 0) fork_here();
  switch (journal().order.load()) {
    case Order::run: return;
    case Order::hold: return hold_still();
    case Order::leave: leave(); ::_exit(0);
  }
}

void Actor::hold_still() {
  if (first_lane_ && chance(2)) first_lane_->heap().flush();
  if (work_ && chance(2))
    while (work_->leases() != 0) end_lease();
  journal().leases = work_ ? work_->leases() : 0;
  journal().held = (first_ ? first_->count() : 0) + (second_ ? second_->count() : 0);
  const auto before = journal().phase.exchange(Phase::holding);
  while (journal().order == Order::hold) sleep_us(200);
  journal().phase = before;
  obey();
}

// Half of them give everything back first, the others leave that to the end of their lanes.
void Actor::leave() {
  producer_.rest();
  consumer_.rest();
  publisher_.rest();
  if (work_) {
    while (work_->leases() != 0 && chance(2)) end_lease();
    work_->forget_leases();
  }
  if (chance(2)) {
    if (first_) first_->release_all();
    if (second_) second_->release_all();
  }
  forget_everything();
}

void Actor::forget_everything() {
  producer_ = {};
  consumer_ = {};
  work_.reset();
  publisher_ = {};
  subscriber_ = {};
  first_.reset();
  second_.reset();
  second_lane_.reset();
  first_lane_.reset();
  session_.reset();
}

// The child drops its copies of all that the parent has, which must do nothing, and goes its own way.
void Actor::fork_here() {
  const auto into = journal().fork_into.load();
  const auto seed = random_();
  const auto pid = fork_sibling(stage_.witness->actors[into].pid);
  if (pid != 0) {
    journal().fork_into = no_fork;
    if (pid < 0) throw std::runtime_error(fmt::format("fork: errno {}", errno));
    return;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != stage_.driver) ::_exit(0);
  slot_ = into;
  install_fork_handler(stage_, slot_);
  random_.seed(seed);
  forget_everything();
  // Whatever the parent was doing, this one begins anew. Frames above belong to the parent's life, and only return.
}

}  // namespace sluice::verify
