// How a pipeline ends: the drain, and what cuts it short.
#include "runtime/supervisor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <ranges>
#include <utility>

namespace sluice {

namespace {

// What a program that makes messages gets beyond the grace, to finish the one that it is at.
constexpr auto source_patience = std::chrono::seconds(1);

}  // namespace

// Whether no message moved for the grace and the patience together. What goes round a cycle moves for ever: where there is
// one, only that there are fewer than ever is progress, or that some came in.
bool Supervisor::stalled(Clock::time_point now) {
  const auto totals = queues_->totals();
  const bool has_cycle =
      std::ranges::any_of(std::views::iota(std::size_t{0}, options_.plan.queues.size()),
                          [this](std::size_t queue) { return graph_.reaches(queue, queue); });
  const auto seen = has_cycle ? totals.pushed : totals.moves;
  if (std::exchange(progress_seen_, seen) != seen || (has_cycle && totals.queued < fewest_queued_))
    progress_at_ = now;
  fewest_queued_ = std::min(fewest_queued_, totals.queued);
  return now - progress_at_ > options_.drain_grace + options_.drain_patience;
}

void Supervisor::begin_drain(SupervisorEnd end, std::string reason) {
  phase_ = Phase::draining;
  report_.end = end;
  report_.reason = std::move(reason);
  progress_at_ = drain_began_ = Clock::now();
  fewest_queued_ = ~std::uint64_t{0};
  next_tick_ = progress_at_;
  if (!report_.reason.empty())
    log(report_.reason + "; draining");
  else if (end == SupervisorEnd::drained)
    log("draining");
  for (auto& child : children_) {
    const auto rules = rules_of(child.role);
    if (!rules.ends_on_signal) continue;
    if (child.process) {
      child.process->send(SIGTERM);
    } else if (!rules.restarted_in_drain || end == SupervisorEnd::refused) {
      child.finished = true;
      child.start_at = Clock::time_point::max();
    }
  }
}

void Supervisor::tick_draining(Clock::time_point now) {
  const auto finished = [](const Child& child) { return child.finished; };
  end_queues();
  end_sources(now);
  // Who only consumes, and is between two lives, has nothing to come back for once there is nothing left for it.
  for (auto& child : children_)
    if (!rules_of(child.role).ends_on_signal && !child.process && input_finished(child))
      child.finished = true;
  if (std::ranges::all_of(children_, finished)) {
    recover();
    phase_ = Phase::over;
    return;
  }
  if (stalled(now)) {
    auto reason = report_.reason.empty() ? std::string() : report_.reason + "; ";
    reason += fmt::format("the drain made no progress for {} s, {} messages are left in the segment",
                          std::chrono::duration_cast<std::chrono::seconds>(now - progress_at_).count(),
                          queues_->totals().queued);
    for (const auto& child : children_)
      if (child.role == ChildRole::device && !child.finished)
        reason += fmt::format(", {} has not ended", child.name);
    finish(SupervisorEnd::stuck, std::move(reason));
  }
}

// A program that does not end when it is asked to goes on making messages, and the drain would have no end.
void Supervisor::end_sources(Clock::time_point now) {
  if (now - drain_began_ < options_.drain_grace + source_patience) return;
  for (auto& child : children_) {
    if (child.role != ChildRole::source || !child.process) continue;
    log(fmt::format("{} did not end; killed", child.name));
    child.process->send(SIGKILL);
  }
}

bool Supervisor::publishes_into(const Child& child, std::size_t queue) const {
  return child.into == queue || (child.from && options_.plan.queues[*child.from].dead_letter == queue);
}

bool Supervisor::producers_finished(std::size_t queue, std::span<const std::size_t> beside) const {
  return std::ranges::all_of(children_, [&](const Child& child) {
    return child.finished || !publishes_into(child, queue) ||
           (child.from && std::ranges::find(beside, *child.from) != beside.end());
  });
}

// On a cycle everybody waits for each other: there the end is when nobody brings anything in from beside it, and
// nothing is on its way round. One work queue that is closed then breaks it.
void Supervisor::end_queues() {
  const auto& queues = options_.plan.queues;
  for (std::size_t queue = 0; queue < queues.size(); ++queue) {
    if (producers_finished(queue, {})) {
      (void)queues_->close(queue);
      continue;
    }
    const auto cycle = graph_.cycle_of(queue);
    if (queues[queue].kind == QueueKind::work && !cycle.empty() &&
        std::ranges::all_of(cycle, [&](std::size_t on) { return producers_finished(on, cycle); }) &&
        queues_->at_rest(cycle))
      (void)queues_->close(queue);
  }
}

// Decides whether it is finished; else it is started again.
void Supervisor::handle_end_in_drain(Child& child, const ChildExit& exit, const std::string& line) {
  const auto now = Clock::now();
  next_tick_ = now;
  child.finished = !rules_of(child.role).restarted_in_drain || (exit.succeeded() && input_finished(child));
  if (child.role == ChildRole::ingress && !exit.succeeded() && child.ready) {
    log(line);
    if (report_.end == SupervisorEnd::drained) {
      report_.end = SupervisorEnd::failed;
      report_.reason = line + " while it drained";
    }
  }
  if (child.finished) progress_at_ = now;
  if (child.finished) return;
  const bool was_never_needed = report_.end == SupervisorEnd::refused && !child.ready;
  if (!was_never_needed && !refused(child, exit)) return;
  child.finished = true;
  if (report_.end == SupervisorEnd::refused) return;  // the first refusal is what there is to tell
  report_.end = SupervisorEnd::stuck;
  report_.reason =
      fmt::format("{}, {}", line,
                  child.role == ChildRole::device ? "its device may be left" : "its queues are not empty");
}

void Supervisor::finish(SupervisorEnd end, std::string reason) {
  kill_children();
  report_.end = end;
  report_.reason = std::move(reason);
  phase_ = Phase::over;
}

void Supervisor::kill_children() {
  bool any = false;
  for (auto& child : children_) {
    any = any || child.process.has_value();
    child.process.reset();
  }
  if (any) session_.recover_dead();
}

}  // namespace sluice
