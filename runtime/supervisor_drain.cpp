// How a pipeline ends: the drain, and what cuts it short.
#include "runtime/supervisor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <utility>

namespace sluice {

// Whether no message moved for the grace and the patience together.
bool Supervisor::stalled(Clock::time_point now) {
  const auto totals = streams_->totals();
  const auto moves = totals.pushed + totals.taken;
  if (std::exchange(progress_seen_, moves) != moves) progress_at_ = now;
  return now - progress_at_ > options_.drain_grace + options_.drain_patience;
}

void Supervisor::begin_drain(SupervisorEnd end, std::string reason) {
  phase_ = Phase::draining;
  report_.end = end;
  report_.reason = std::move(reason);
  progress_at_ = Clock::now();
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
  for (const auto& child : children_) {
    if (!child.finished) continue;
    if (child.role == ChildRole::ingress) streams_->end(0);
    if (child.role == ChildRole::device) streams_->close_published(options_.devices[child.index].stream);
  }
  // Who only consumes, and is between two lives, has nothing to come back for once its streams are empty.
  for (auto& child : children_)
    if (!rules_of(child.role).ends_on_signal && !child.process && streams_finished(child))
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
                          streams_->totals().queued());
    for (const auto& child : children_)
      if (child.role == ChildRole::device && !child.finished)
        reason += fmt::format(", {} has not ended", child.name);
    finish(SupervisorEnd::stuck, std::move(reason));
  }
}

bool Supervisor::streams_finished(const Child& child) const {
  switch (child.role) {
    case ChildRole::worker: return streams_->finished(child.index);
    case ChildRole::mirror: return streams_->published_finished(options_.devices[child.index].stream);
    case ChildRole::ingress:
    case ChildRole::device: break;
  }
  return true;
}

// Decides whether it is finished; else it is started again.
void Supervisor::handle_end_in_drain(Child& child, const ChildExit& exit, const std::string& line) {
  const auto now = Clock::now();
  next_tick_ = now;
  child.finished = !rules_of(child.role).restarted_in_drain || (exit.succeeded() && streams_finished(child));
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
                  child.role == ChildRole::device ? "its device may be left" : "its streams are not empty");
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
