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
// What a driver takes longer for than this deserves a word, and again after twice the time.
constexpr auto device_patience = std::chrono::seconds(2);

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
  child.patient_until = child.started + device_patience;
  child.ready = false;
  child.ready_text.clear();
  auto started = [&]() -> Expected<ChildProcess> {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("pipe2");
    child.ready_fd.reset(ends[0]);
    const UniqueFd write_end(ends[1]);
    return ChildProcess::start(options_.program, arguments_of(child, write_end.get()), write_end.get(),
                               rules_of(child.role).death_signal);
  }();
  if (started) {
    child.process.emplace(std::move(*started));
    return;
  }
  const auto wait = child.backoff.next(Backoff::Duration::zero());
  log(fmt::format("{} could not be started: {}", child.name, started.error().message));
  child.start_at = child.started + wait;
}

std::vector<std::string> Supervisor::arguments_of(const Child& child, int ready_fd) const {
  switch (child.role) {
    case ChildRole::ingress: return options_.ingress_arguments(streams_->produced(), child.address, ready_fd);
    case ChildRole::worker:
      return options_.worker_arguments(child.name, streams_->served_by(child.index), ready_fd);
    case ChildRole::device: return options_.devices[child.index].arguments(ready_fd);
    case ChildRole::mirror: return options_.devices[child.index].mirror_arguments(ready_fd);
  }
  return {};
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
    const auto before = std::exchange(child.address, child.ready_text.substr(0, end));
    if (child.role == ChildRole::device && announced_ && before != child.address)
      log(fmt::format("{} is {} now, no longer {}", child.name, child.address, before));
    // Started again in a drain, to end in order.
    if (phase_ == Phase::draining && rules_of(child.role).ends_on_signal) child.process->send(SIGTERM);
    announce_ready();
  }
  // Nothing follows the line; the end of the pipe without one is the end of the process, or soon will be.
  if (got <= 0 || end != std::string::npos || child.ready_text.size() > ready_text_max)
    child.ready_fd.reset();
}

void Supervisor::announce_ready() {
  if (announced_ || phase_ != Phase::serving) return;
  PipelineAddresses addresses;
  for (const auto& child : children_) {
    if (!child.ready) return;
    if (child.role == ChildRole::ingress) addresses.ingress = child.address;
    if (child.role == ChildRole::device) addresses.devices.push_back(child.address);
  }
  announced_ = true;
  options_.ready(addresses);
}

void Supervisor::report_slow_device(Child& child, Clock::time_point now) {
  const bool starting = child.process && !child.ready && phase_ != Phase::draining;
  if (child.role != ChildRole::device || !starting || now < child.patient_until) return;
  const auto waited = now - child.started;
  child.patient_until = now + waited;
  log(fmt::format("{}: starting, waiting for the driver ({} s)", child.name,
                  std::chrono::duration_cast<std::chrono::seconds>(waited).count()));
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
    handle_end_in_drain(child, *exit, line);
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
