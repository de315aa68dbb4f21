// The supervisor's children: their start, their readiness and their end.
#include "runtime/supervisor.hpp"

#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace sluice {

namespace {

constexpr std::uint32_t refusals_max = 3;
constexpr std::size_t ready_text_max = 256;

}  // namespace

void Supervisor::start_due(Clock::time_point now) {
  for (auto& child : children_) {
    if (child.process || child.finished || child.start_at > now) continue;
    child.start_at = Clock::time_point::max();
    start(child);
  }
}

void Supervisor::start(Child& child) {
  child.started = Clock::now();
  child.ready = false;
  child.ready_text.clear();
  auto started = [&]() -> Expected<ChildProcess> {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe2");
    child.ready_fd.reset(ends[0]);
    const UniqueFd write_end(ends[1]);
    const auto arguments =
        is_ingress(child)
            ? options_.ingress_arguments(streams_->produced(), address_, write_end.get())
            : options_.worker_arguments(child.name, streams_->served_by(worker_of(child)), write_end.get());
    return ChildProcess::start(options_.program, arguments, write_end.get());
  }();
  if (started) {
    child.process.emplace(std::move(*started));
    return;
  }
  const auto wait = child.backoff.next(Backoff::Duration::zero());
  log(fmt::format("{} could not be started: {}", child.name, started.error().message));
  child.start_at = child.started + wait;
}

void Supervisor::read_ready(Child& child) {
  char buffer[ready_text_max];
  const auto got = ::read(child.ready_fd.get(), buffer, sizeof buffer);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) child.ready_text.append(buffer, static_cast<std::size_t>(got));
  const auto end = child.ready_text.find('\n');
  if (end != std::string::npos) {
    child.ready = true;
    child.refusals = 0;
    if (is_ingress(child)) address_ = child.ready_text.substr(0, end);
    announce_ready();
  }
  // Nothing follows the line; the end of the pipe without one is the end of the process, or soon will be.
  if (got <= 0 || end != std::string::npos || child.ready_text.size() > ready_text_max)
    child.ready_fd.reset();
}

void Supervisor::announce_ready() {
  if (announced_ || phase_ != Phase::serving) return;
  for (const auto& child : children_)
    if (!child.ready) return;
  announced_ = true;
  options_.ready(address_);
}

bool Supervisor::refused(Child& child, const ChildExit& exit) const {
  if (child.ready || exit.killed || exit.value == 0) return false;
  // Before the pipeline has ever worked, whatever keeps a child from starting is for the user to mend.
  if (!announced_) return true;
  if (!options_.is_refusal(exit.value)) return false;
  return ++child.refusals >= refusals_max;
}

void Supervisor::handle_end(Child& child) {
  const auto pid = child.process->pid();
  const auto exit = child.process->reap();
  if (!exit) return;
  child.process.reset();
  child.ready_fd.reset();
  const auto now = Clock::now();
  const auto line = fmt::format("{} (pid {}) {}", child.name, pid, exit->describe());

  if (phase_ == Phase::draining) {
    next_tick_ = now;
    child.finished = is_ingress(child) || (exit->succeeded() && streams_->finished(worker_of(child)));
    if (is_ingress(child) && !exit->succeeded() && child.ready) {
      log(line);
      if (report_.end == SupervisorEnd::drained) {
        report_.end = SupervisorEnd::failed;
        report_.reason = line + " while it drained";
      }
    }
    if (!child.finished && refused(child, *exit)) {
      child.finished = true;
      report_.end = SupervisorEnd::stuck;
      report_.reason = fmt::format("{}, its streams are not empty", line);
    }
    if (child.finished) return recover();
  } else if (refused(child, *exit)) {
    report_.child_exit_code = exit->value;
    child.finished = true;
    recover();
    return begin_drain(SupervisorEnd::refused, announced_ ? line : "");
  }
  const auto wait = child.backoff.next(now - child.started);
  log(fmt::format(
      "{}; starting it again {}", line,
      wait == Backoff::Duration::zero()
          ? "now"
          : fmt::format("in {} ms", std::chrono::duration_cast<std::chrono::milliseconds>(wait).count())));
  recover();
  ++report_.restarts;
  child.start_at = now + wait;
}

std::string Supervisor::status_line(Clock::time_point now) {
  const auto totals = streams_->totals();
  const auto flows = load(pipeline_state(session_.segment()).next_flow, relaxed);
  const double seconds = std::chrono::duration<double>(now - status_at_).count();
  const auto bytes = totals.bytes - totals_before_.bytes;
  const double rate =
      seconds > 0 ? static_cast<double>(bytes - status_bytes_) / seconds / (1024.0 * 1024.0) : 0;
  status_bytes_ = bytes;
  status_at_ = now;
  constexpr const char* phases[] = {"waiting", "serving", "draining", "over"};
  auto line = fmt::format(
      "status: phase={} next_flow={} bytes={} rate={:.1f}MiB/s queued={} redelivered={} restarts={}",
      phases[static_cast<int>(phase_)], flows, bytes, rate, totals.queued(),
      totals.redelivered - totals_before_.redelivered, report_.restarts);
  for (const auto& child : children_)
    line += fmt::format(" {}={}", child.name, child.process ? fmt::to_string(child.process->pid()) : "-");
  return line;
}

}  // namespace sluice
