#include "tests/verify/schedules/scheduler.hpp"

#include "shm/operation_log.hpp"
#include "tests/verify/schedules/touch.hpp"
#include "tests/verify/support/memory_operand.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include <unistd.h>

namespace sluice::verify {

namespace {

constexpr std::uint64_t operation_instructions_max = 500'000;
constexpr std::size_t trace_max = 80;
constexpr unsigned patience_s = 60;  // for 2^16 events

}  // namespace

Scheduler::Scheduler(Board& board, const Plan& plan, std::string path, const Segment& view,
                     const Traps& traps, bool trace_wanted)
    : board_(board),
      plan_(plan),
      path_(std::move(path)),
      view_(view),
      traps_(traps),
      tracing_(trace_wanted),
      random_(plan.seed * 2) {
  for (std::uint32_t i = 0; i < plan.change_points; ++i) change_at_.push_back(random_.below(plan.events));
  for (std::uint32_t i = 0; i < plan.kills; ++i) kill_at_.push_back(random_.below(plan.events));
  std::ranges::sort(change_at_, std::greater{});
  std::ranges::sort(kill_at_, std::greater{});
  actors_.reserve(actors_max);
  for (std::uint32_t i = 0; i < plan.lanes; ++i) start(true);
}

void Scheduler::start(bool joined) {
  const auto index = actors_.size();
  actors_.push_back({.stepper = std::make_unique<Stepper>([&, index, joined](const StepMarks& marks) {
                       Script(board_, plan_, index, path_, traps_, marks).run(joined);
                     }),
                     .priority = static_cast<std::int64_t>(1 + random_.below(1U << 20))});
  note(index, 0, 0, fmt::format("{}; {}", joined ? "is there" : "starts", board_.actors[index].doing.what));
}

bool Scheduler::is_over(std::size_t index) const { return board_.actors[index].state != ActorState::running; }

void Scheduler::run() {
  while (!board_.failed()) {
    if (counts.events % (1U << 16) == 0) ::alarm(patience_s);
    change_if_due();
    kill_if_due();
    if (replacements_due_ != 0 && random_.one_in(32)) {
      --replacements_due_;
      start(false);
    }
    const auto next = choose();
    if (next == actors_.size()) {
      if (replacements_due_ == 0) return;
      continue;
    }
    if (next != running_ && !is_over(running_)) ++counts.preemptions;
    running_ = next;
    advance(next);
  }
}

// Who runs the next event; the number of actors if nobody is left.
std::size_t Scheduler::choose() {
  const auto nobody = actors_.size();
  std::vector<std::size_t> able;
  for (std::size_t i = 0; i < nobody; ++i)
    if (!is_over(i) && !actors_[i].frozen) able.push_back(i);
  if (able.empty()) {
    for (auto& actor : actors_) actor.frozen = false;
    for (std::size_t i = 0; i < nobody; ++i)
      if (!is_over(i)) return i;
    return nobody;
  }
  const bool goes_on = std::ranges::find(able, running_) != able.end();
  const bool gives_way = goes_on && actors_[running_].yields && able.size() > 1;
  if (goes_on) actors_[running_].yields = false;
  if (gives_way) {
    actors_[running_].priority = --lowest_;
    std::erase(able, running_);
  }
  // What a recovery decides by is what others change meanwhile; and who has changed one word of two is to be met
  // like that.
  const auto act = board_.actors[running_].doing.act;
  const bool recovers = act == Act::recover || act == Act::rejoin;
  if (goes_on && !gives_way && able.size() > 1 &&
      ((recovers && random_.one_in(10)) ||
       (actors_[running_].changed && random_.one_in(plan_.after_change)))) {
    actors_[running_].changed = false;
    actors_[running_].priority = --lowest_;
    std::erase(able, running_);
    return able[random_.below(able.size())];
  }
  if (plan_.change_points != 0)
    return *std::ranges::max_element(able, {}, [&](std::size_t i) { return actors_[i].priority; });
  if (goes_on && !gives_way && !random_.one_in(plan_.walk)) return running_;
  return able[random_.below(able.size())];
}

void Scheduler::change_if_due() {
  while (!change_at_.empty() && change_at_.back() <= counts.events) {
    change_at_.pop_back();
    auto& actor = actors_[running_];
    actor.priority = --lowest_;
    actor.frozen = plan_.freezes;
  }
}

// Its log is open, a reference moves, or a block that it gave up is still in its cell: who recovers it must decide. Who
// only has a lease is in the middle of nothing, but while it takes it.
bool Scheduler::is_in_the_middle(std::size_t index) const {
  const bool takes = board_.actors[index].doing.act == Act::work_take;
  const auto is_open = [&](const LaneView& lane) {
    return open_sequence(*lane.row) != 0 ||
           std::any_of(lane.cells, lane.cells + lane.cell_count, [&](const Cell& cell) {
             const auto kind = cell_aux::Kind::get(load(cell.aux, acquire));
             if (kind == cell_aux::lease) return takes;
             if (kind != cell_aux::at_rest) return true;
             const Handle handle{load(cell.handle, acquire)};
             const auto& split = view_.split();
             return handle && split.unit(handle) < view_.units_committed() &&
                    truth::state(load(view_.truth_word(split.unit(handle), split.slot(handle)).low,
                                      acquire)) == BlockState::freeing;
           });
  };
  return std::ranges::any_of(board_.actors[index].lanes, [&](std::uint16_t lane) {
    return lane != 0 && is_open(lane_view(view_, lane));
  });
}

// Some deaths are of who is running, a few own stores further; some of anybody, where it stands; and most of who is
// in the middle of something, after it has stood there while the others went on.
void Scheduler::kill_if_due() {
  while (!kill_at_.empty() && kill_at_.back() <= counts.events) {
    kill_at_.pop_back();
    std::vector<std::size_t> alive;
    for (std::size_t i = 0; i < actors_.size(); ++i)
      if (!is_over(i)) alive.push_back(i);
    if (alive.empty()) return;
    const auto kind = random_.below(4);
    if (kind < 2) {
      wants_victim_ = true;
      continue;
    }
    auto victim = alive[random_.below(alive.size())];
    if (kind == 2 && !is_over(running_)) {
      victim = running_;
      advance(victim, random_.below(6));
      if (is_over(victim) || board_.failed()) return;
    }
    kill(victim);
  }
  if (wants_victim_ && !is_over(running_) && is_in_the_middle(running_)) {
    // The change that others see, and some of the lane's own stores behind it, but not all.
    advance(running_, random_.below(3));
    if (board_.failed() || is_over(running_) || !is_in_the_middle(running_)) return;  // too far
    if (!random_.one_in(actors_[running_].changed ? 2 : 16)) return;
    wants_victim_ = false;
    actors_[running_].doomed_at = counts.events + 1 + random_.below(96);
    actors_[running_].frozen = true;
  }
  for (std::size_t i = 0; i < actors_.size(); ++i)
    if (!is_over(i) && actors_[i].doomed_at != 0 &&
        (actors_[i].doomed_at <= counts.events || !actors_[i].frozen))
      kill(i);
}

void Scheduler::kill(std::size_t index) {
  auto& stepper = *actors_[index].stepper;
  note(index, actors_[index].at, 0, "killed before");
  stepper.kill();
  board_.died(index, view_);
  ++counts.kills;
  if (actors_.size() + replacements_due_ < actors_max && random_.below(4) != 0) ++replacements_due_;
}

void Scheduler::kill_all() {
  for (std::size_t i = 0; i < actors_.size(); ++i) {
    actors_[i].stepper->kill();
    if (board_.actors[i].state != ActorState::dead) board_.died(i, view_);
  }
}

// To behind the next mark or breakpoint. An instruction with a breakpoint is executed from its copy.
bool Scheduler::run_on(std::size_t index) {
  auto& actor = actors_[index];
  if (const auto copy = traps_.copy_of(actor.at)) actor.stepper->move_to(*copy);
  if (!actor.stepper->run_to_mark()) {
    board_.fail(fmt::format("actor {} ended by itself: {}", index, actor.stepper->how_it_ended()));
    return false;
  }
  actor.at = actor.stepper->next_address() - 1;  // a breakpoint's one byte has been executed
  return true;
}

// Its operation has ended: what it did goes on the board, without steps, up to the mark before the next one.
void Scheduler::begin_operation(std::size_t index) {
  auto& actor = actors_[index];
  do
    if (!run_on(index)) return;
  while (traps_.copy_of(actor.at));
  actor.instructions = 0;
  note(index, 0, 0, is_over(index) ? "has finished" : board_.actors[index].doing.what);
}

// One event. Or stop before own word number `own_max` of the segment, if that comes first.
void Scheduler::advance(std::size_t index, std::uint64_t own_max) {
  auto& actor = actors_[index];
  ++counts.events;
  const auto pending = std::exchange(actor.pending, 0);
  const auto before = word_at(pending);
  actor.changed = false;
  for (bool first = true;; first = false) {
    if (!run_on(index)) return;
    if (first && pending != 0) actor.changed = word_at(pending) != before;
    if (actor.at == yield_address()) {
      actor.yields = true;
      return;
    }
    if (!traps_.copy_of(actor.at)) return begin_operation(index);
    ++counts.instructions;
    if (++actor.instructions > operation_instructions_max)
      return board_.fail(
          fmt::format("actor {} does not come to an end: it {}", index, board_.actors[index].doing.what));
    auto registers = actor.stepper->registers();
    registers.rip = actor.at;
    std::uint64_t offset = 0;
    const auto touched = touch(index, registers, offset);
    if (touched == Touch::shared) {
      actor.pending = offset;
      return note(index, registers.rip, offset, tracing_ ? describe_offset(view_, offset) : std::string());
    }
    if (touched == Touch::own && own_max-- == 0) return;
  }
}

std::uint64_t Scheduler::word_at(std::uint64_t offset) const {
  const auto aligned = offset & ~std::uint64_t{7};
  return offset == 0 ? 0 : load(*reinterpret_cast<const std::uint64_t*>(view_.base() + aligned), acquire);
}

Touch Scheduler::touch(std::size_t index, const user_regs_struct& registers, std::uint64_t& offset) const {
  const auto address = memory_operand(registers);
  const auto base = board_.actors[index].base;
  if (!address || base == 0 || *address < base) return Touch::none;
  offset = *address - base;
  return offset < view_.geometry().mapped_bytes ? touch_of(view_, offset) : Touch::none;
}

void Scheduler::note(std::size_t index, std::uint64_t address, std::uint64_t offset, std::string what) {
  hash = Random(hash ^ offset ^ (std::uint64_t{index} << 56)).next();
  if (!tracing_) return;
  trace.push_back({index, address, std::move(what)});
  if (trace.size() > trace_max) trace.pop_front();
}

}  // namespace sluice::verify
