// The supervisor's children: their start, their readiness and their end.
#include "runtime/supervisor.hpp"

#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
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
    const auto command = command_of(child, write_end.get());
    return ChildProcess::start(command.program.empty() ? options_.program : command.program,
                               command.arguments, write_end.get(), rules_of(child.role).death_signal,
                               command.environment);
  }();
  if (started) {
    child.process.emplace(std::move(*started));
    return;
  }
  auto reason = fmt::format("{} could not be started: {}", child.name, started.error().message);
  const bool is_missing =
      started.error().status == Status::not_found || started.error().status == Status::permission;
  if (!announced_ && is_missing) return finish(SupervisorEnd::failed, std::move(reason));
  const auto wait = child.backoff.next(Backoff::Duration::zero());
  log(reason);
  child.start_at = child.started + wait;
}

WorkerCommand Supervisor::command_of(const Child& child, int ready_fd) const {
  WorkerCommand command;
  const auto names_into = [&](std::uint32_t workers) {
    return child.into ? queues_->names_into(*child.into, child.worker, workers) : std::vector<std::string>{};
  };
  switch (child.role) {
    case ChildRole::ingress:
      command.arguments = options_.ingress_arguments(names_into(1), child.address, ready_fd);
      break;
    case ChildRole::source:
    case ChildRole::worker:
      return options_.worker_command(
          {.stage = child.group,
           .name = child.name,
           .from = child.from ? queues_->names_from(*child.from, child.worker) : std::vector<std::string>{},
           .into = names_into(options_.plan.stages[child.group].workers),
           .fed_by = feeders_of(child),
           .ready_fd = ready_fd});
    case ChildRole::device: command.arguments = options_.devices[child.group].arguments(ready_fd); break;
    case ChildRole::mirror:
      command.arguments = options_.devices[child.group].mirror_arguments(ready_fd);
      break;
  }
  return command;
}

// Those that this child itself feeds, round a cycle, would wait for it as it would for them.
std::vector<std::string> Supervisor::feeders_of(const Child& child) const {
  std::vector<std::string> names;
  for (const auto& other : children_)
    if (child.from && publishes_into(other, *child.from) &&
        !(other.from && graph_.reaches(*child.from, *other.from)))
      names.push_back(other.name);
  return names;
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
    if (!child.ready && !child.finished) return;
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
  // A program that ends in order without a word, before the pipeline has ever worked, is not one that serves.
  if (child.ready || exit.killed || (exit.value == 0 && (announced_ || child.role != ChildRole::worker)))
    return false;
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
  } else if (child.role == ChildRole::source && exit->succeeded()) {
    child.finished = true;
    log(line + ", it has made all its messages");
    recover();
    announce_ready();  // it may be the last that was waited for
    if (std::ranges::all_of(children_, [](const Child& other) {
          return other.finished || !rules_of(other.role).ends_on_signal;
        }))
      begin_drain(SupervisorEnd::drained, "");
    return;
  } else if (refused(child, *exit)) {
    constexpr int failure = 1;
    report_.child_exit_code = exit->succeeded() ? failure : exit->value;
    child.finished = true;
    recover();
    // Who has failed has said why.
    return begin_drain(SupervisorEnd::refused, announced_          ? line
                                               : exit->succeeded() ? line + " before it was ready"
                                                                   : "");
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
  const auto totals = queues_->totals();
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
      phases[static_cast<int>(phase_)], flows, bytes, rate, totals.queued,
      totals.redelivered - totals_before_.redelivered, report_.restarts);
  if (totals.dead_letters != 0) line += fmt::format(" dead_letters={}", totals.dead_letters);
  for (const auto& child : children_)
    line += fmt::format(" {}={}", child.name, child.process ? fmt::to_string(child.process->pid()) : "-");
  return line;
}

}  // namespace sluice
