#include "tests/verify/schedules/scheduler.hpp"

#include "ipc/processes.hpp"
#include "tests/verify/support/memory_operand.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

constexpr std::uint64_t operation_instructions_max = 2'000'000;
constexpr std::size_t trace_max = 80;
constexpr unsigned patience_s = 60;  // for 2^16 events

}  // namespace

Scheduler::Scheduler(Board& board, const Plan& plan, std::string path, const Segment& view, bool trace_wanted)
    : board_(board),
      plan_(plan),
      path_(std::move(path)),
      view_(view),
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
                       Script(board_, plan_, index, path_, marks).run(joined);
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

// Half of the deaths are of who was running, a few own stores further; the others of anybody, where it stands.
void Scheduler::kill_if_due() {
  while (!kill_at_.empty() && kill_at_.back() <= counts.events) {
    kill_at_.pop_back();
    std::vector<std::size_t> alive;
    for (std::size_t i = 0; i < actors_.size(); ++i)
      if (!is_over(i)) alive.push_back(i);
    if (alive.empty()) return;
    auto victim = alive[random_.below(alive.size())];
    if (random_.one_in(2) && !is_over(running_)) {
      victim = running_;
      advance(victim, random_.below(6));
      if (is_over(victim) || board_.failed()) return;
    }
    kill(victim);
    if (actors_.size() + replacements_due_ < actors_max && random_.below(4) != 0) ++replacements_due_;
  }
}

void Scheduler::kill(std::size_t index) {
  auto& stepper = *actors_[index].stepper;
  note(index, stepper.next_address(), 0, "killed before");
  stepper.kill();
  board_.died(index, view_);
  ++counts.kills;
}

void Scheduler::kill_all() {
  for (std::size_t i = 0; i < actors_.size(); ++i) {
    actors_[i].stepper->kill();
    if (board_.actors[i].state != ActorState::dead) board_.died(i, view_);
  }
}

// Past the mark behind its operation; what it did goes on the board; then past the mark before the next one.
bool Scheduler::begin_operation(std::size_t index) {
  auto& actor = actors_[index];
  if (!actor.stepper->run_to_mark() || !actor.stepper->run_to_mark()) {
    board_.fail(fmt::format("actor {} ended by itself: {}", index, actor.stepper->how_it_ended()));
    return false;
  }
  actor.instructions = 0;
  note(index, 0, 0, is_over(index) ? "has finished" : board_.actors[index].doing.what);
  return true;
}

// One event. Or stop before own word number `own_max` of the segment, if that comes first.
void Scheduler::advance(std::size_t index, std::uint64_t own_max) {
  auto& actor = actors_[index];
  auto& stepper = *actor.stepper;
  ++counts.events;
  for (bool first = true;; first = false) {
    const auto registers = stepper.registers();
    if (is_mark(registers)) {
      begin_operation(index);
      return;
    }
    if (!first) {
      std::uint64_t offset = 0;
      const auto touched = touch(index, registers, offset);
      if (touched == Touch::shared) return note(index, registers.rip, offset, {});
      if (touched == Touch::own && own_max-- == 0) return;
    }
    const bool in_library = !is_in_program(registers.rip);
    if (in_library) look_at_call(index, registers);
    if (!(in_library ? stepper.run_to_return() : stepper.step())) {
      board_.fail(fmt::format("actor {} ended by itself: {}", index, stepper.how_it_ended()));
      return;
    }
    ++counts.instructions;
    ++actor.instructions;
    if (actor.yields) return;
    if (actor.instructions > operation_instructions_max) {
      board_.fail(
          fmt::format("actor {} does not come to an end: it {}", index, board_.actors[index].doing.what));
      return;
    }
  }
}

// A library's function is entered: it runs as one instruction, for it does not know the words that are shared.
void Scheduler::look_at_call(std::size_t index, const user_regs_struct& registers) {
  const auto is = [&](auto* function) { return registers.rip == reinterpret_cast<std::uint64_t>(function); };
  if (is(&::sched_yield)) actors_[index].yields = true;
  if (is(&::syscall) && registers.rdi == SYS_futex &&
      (static_cast<int>(registers.rdx) & FUTEX_CMD_MASK) == FUTEX_WAIT)
    board_.fail(
        fmt::format("actor {} waits for a futex while it {}", index, board_.actors[index].doing.what));
}

// --- what an instruction touches --------------------------------------------------------------------------

Scheduler::Touch Scheduler::touch(std::size_t index, const user_regs_struct& registers,
                                  std::uint64_t& offset) const {
  const auto address = memory_operand(registers);
  const auto base = board_.actors[index].base;
  if (!address || base == 0 || *address < base) return Touch::none;
  offset = *address - base;
  return offset < view_.geometry().mapped_bytes ? touch_of(offset) : Touch::none;
}

Scheduler::Touch Scheduler::touch_of(std::uint64_t offset) const {
  const auto& geometry = view_.geometry();
  for (std::uint32_t i = region_kinds; i > 0; --i) {
    const auto& region = geometry.regions[i];
    if (region.stride == 0 || offset < region.offset ||
        offset >= region.offset + region.count * region.stride)
      continue;
    const auto within = (offset - region.offset) % region.stride;
    switch (static_cast<RegionKind>(i)) {
      case RegionKind::control:
      case RegionKind::seen:
      case RegionKind::queues:
      case RegionKind::units:
      case RegionKind::remote_bits:
      case RegionKind::truth: return Touch::shared;
      case RegionKind::processes: return within < sizeof(std::uint64_t) ? Touch::shared : Touch::own;
      case RegionKind::lanes:
        return within < offsetof(LaneRow, sequence) || within == offsetof(LaneRow, remote_classes)
                   ? Touch::shared
                   : Touch::own;
      case RegionKind::payload: {
        const auto unit = (offset - region.offset) / unit_bytes;
        const auto word = load(view_.unit(unit).word, acquire);
        return unit_word::state(word) == UnitState::storage ? Touch::shared : Touch::own;
      }
      default: return Touch::own;
    }
  }
  return Touch::none;
}

std::string Scheduler::place(std::uint64_t offset) const {
  static constexpr const char* names[] = {"",          "header", "identity",    "control", "runtime",
                                          "processes", "lanes",  "seen",        "epochs",  "queues",
                                          "ledgers",   "units",  "remote_bits", "truth",   "payload"};
  const auto& geometry = view_.geometry();
  for (std::uint32_t i = 1; i <= region_kinds; ++i) {
    const auto& region = geometry.regions[i];
    if (region.stride != 0 && offset >= region.offset &&
        offset < region.offset + region.count * region.stride)
      return fmt::format("{}[{}]+{}", names[i], (offset - region.offset) / region.stride,
                         (offset - region.offset) % region.stride);
  }
  return "?";
}

void Scheduler::note(std::size_t index, std::uint64_t address, std::uint64_t offset, std::string what) {
  hash = Random(hash ^ offset ^ (std::uint64_t{index} << 56)).next();
  if (!tracing_) return;
  if (what.empty()) what = place(offset);
  trace.push_back({index, address, std::move(what)});
  if (trace.size() > trace_max) trace.pop_front();
}

}  // namespace sluice::verify
