#include "runtime/supervisor.hpp"

#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice {

namespace {

using namespace std::chrono_literals;

constexpr auto tick_interval = 1s;
constexpr auto tick_interval_busy = 100ms;  // while waiting or draining

// "1 process, 1 lane, 3 references"; empty if nothing was repaired.
std::string describe(const RecoveryReport& report) {
  std::string text;
  const auto add = [&](std::uint32_t count, std::string_view one, std::string_view many) {
    if (count != 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, count == 1 ? one : many);
  };
  add(report.processes, "process", "processes");
  add(report.lanes, "lane", "lanes");
  add(report.operations, "open operation", "open operations");
  add(report.moves, "half-done move", "half-done moves");
  add(report.references, "reference dropped", "references dropped");
  add(report.roles, "role", "roles");
  return text;
}

}  // namespace

// ---- life ---------------------------------------------------------------------------------------------

Supervisor::Supervisor(Session& session, SupervisorOptions options)
    : session_(session), options_(std::move(options)), graph_(options_.plan), signals_before_() {}

Expected<std::unique_ptr<Supervisor>> Supervisor::create(Session& session, SupervisorOptions options) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(session, std::move(options)));
  if (auto prepared = supervisor->prepare(); !prepared) return std::unexpected(prepared.error());
  return supervisor;
}

Expected<void> Supervisor::prepare() {
  const auto& segment = session_.segment();
  // Opened again through /proc: the lock belongs to this description, and the path may be gone by now.
  file_lock_.reset(::open(fmt::format("/proc/self/fd/{}", segment.fd()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file_lock_) return fail_errno(fmt::format("open {}", segment.path()));
  if (::flock(file_lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return fail(Status::busy, fmt::format("{}: another supervisor runs a pipeline on it", segment.path()));
    return fail_errno(fmt::format("flock {}", segment.path()));
  }
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, &signals_before_);
  signals_blocked_ = true;
  signal_fd_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd_) return fail_errno("signalfd");

  auto lane = session_.claim_lane({.cells = 64, .name = "supervisor"});
  if (!lane) return std::unexpected(lane.error());
  lane_ = std::move(*lane);
  for (const auto& device : options_.devices)
    if (device.into && device.mirror_arguments) options_.plan.queues[*device.into].mirrored = true;
  auto queues = PipelineQueues::open(*lane_, options_.plan);
  if (!queues) return std::unexpected(queues.error());
  queues_ = std::move(*queues);
  add_children();
  return {};
}

void Supervisor::add_children() {
  const auto& plan = options_.plan;
  const auto add = [this](ChildRole role, std::string name, std::size_t group) -> Child& {
    auto& child = children_.emplace_back();
    child.role = role;
    child.name = std::move(name);
    child.group = group;
    return child;
  };
  if (plan.ingress_into) add(ChildRole::ingress, "ingress", 0).into = plan.ingress_into;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    for (std::uint32_t worker = 0; worker < stage.workers; ++worker) {
      auto& child = add(stage.from ? ChildRole::worker : ChildRole::source, stage.worker_name(worker), i);
      child.worker = worker;
      child.from = stage.from;
      child.into = stage.into;
    }
  }
  for (std::size_t i = 0; i < options_.devices.size(); ++i) {
    const auto& device = options_.devices[i];
    add(ChildRole::device, device.child_name, i).into = device.into;
    if (device.mirror_arguments) add(ChildRole::mirror, device.mirror_name, i).from = device.into;
  }
}

Supervisor::~Supervisor() {
  kill_children();
  if (signals_blocked_) pthread_sigmask(SIG_SETMASK, &signals_before_, nullptr);
}

SupervisorReport Supervisor::run() {
  const auto now = Clock::now();
  totals_before_ = queues_->totals();
  next_tick_ = now;
  progress_at_ = now;
  status_at_ = now;
  if (options_.status_interval > 0ns) next_status_ = now + options_.status_interval;
  while (phase_ != Phase::over) turn();
  const auto totals = queues_->totals();
  report_.messages = totals.taken - totals_before_.taken;
  report_.bytes = totals.bytes - totals_before_.bytes;
  report_.redelivered = totals.redelivered - totals_before_.redelivered;
  return report_;
}

// ---- the loop -----------------------------------------------------------------------------------------

int Supervisor::timeout_ms(Clock::time_point now) const {
  auto next = std::min(next_tick_, next_status_);
  for (const auto& child : children_) next = std::min(next, child.start_at);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - now).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1000));
}

void Supervisor::turn() {
  std::vector<pollfd> fds{{signal_fd_.get(), POLLIN, 0}};
  for (const auto& child : children_) {
    fds.push_back({child.process ? child.process->pidfd() : -1, POLLIN, 0});
    fds.push_back({child.ready_fd.get(), POLLIN, 0});
  }
  if (::poll(fds.data(), fds.size(), timeout_ms(Clock::now())) < 0 && errno != EINTR)
    return finish(SupervisorEnd::failed, fail_errno("poll").error().message);

  if (fds[0].revents != 0) handle_signals();
  for (std::size_t i = 0; i < children_.size() && phase_ != Phase::over; ++i) {
    if (fds[2 * i + 2].revents != 0) read_ready(children_[i]);  // first: a child may say it and end at once
    if (fds[2 * i + 1].revents != 0) handle_end(children_[i]);
  }
  const auto now = Clock::now();
  if (phase_ != Phase::over && now >= next_tick_) tick(now);
  if (phase_ != Phase::over && now >= next_status_) {
    next_status_ = now + options_.status_interval;
    log(status_line(now));
  }
  if (phase_ != Phase::over) start_due(now);
}

void Supervisor::handle_signals() {
  signalfd_siginfo info;
  while (::read(signal_fd_.get(), &info, sizeof info) == sizeof info) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGUSR1)
      log(status_line(Clock::now()));
    else if (phase_ == Phase::draining || phase_ == Phase::waiting)
      finish(phase_ == Phase::waiting ? SupervisorEnd::drained : SupervisorEnd::forced,
             phase_ == Phase::waiting ? "" : "the drain was cut short by a second signal");
    else if (phase_ == Phase::serving)
      begin_drain(SupervisorEnd::drained, "");
  }
}

void Supervisor::tick(Clock::time_point now) {
  next_tick_ =
      now + (phase_ == Phase::serving ? Clock::duration(tick_interval) : Clock::duration(tick_interval_busy));
  recover();
  check_file();
  if (phase_ == Phase::waiting)
    tick_waiting(now);
  else if (phase_ == Phase::draining)
    tick_draining(now);
  else if (phase_ == Phase::serving)
    queues_->end_left_over();
  for (auto& child : children_)
    if (phase_ != Phase::over) report_slow_device(child, now);
}

void Supervisor::recover() {
  const auto found = session_.recover_dead();
  if (const auto text = describe(found); !text.empty()) log(fmt::format("recovered {}", text));
  for (const auto& line : found.disagreements)
    if (disagreements_.insert(line).second) log(line);
}

void Supervisor::check_file() {
  if (file_gone_) return;
  const auto& path = session_.segment().path();
  struct stat named{};
  struct stat held{};
  if (::fstat(session_.segment().fd(), &held) != 0) return;
  if (::stat(path.c_str(), &named) == 0 && named.st_ino == held.st_ino && named.st_dev == held.st_dev) return;
  file_gone_ = true;
  auto reason = fmt::format("{}: the file was removed or replaced while the pipeline ran", path);
  if (phase_ == Phase::serving)
    begin_drain(SupervisorEnd::removed, std::move(reason));
  else if (phase_ == Phase::waiting)
    finish(SupervisorEnd::removed, std::move(reason));
}

// ---- phases -------------------------------------------------------------------------------------------

void Supervisor::tick_waiting(Clock::time_point now) {
  const auto holder = queues_->holder();
  if (holder.empty()) return begin_serving();
  if (holder != waiting_for_) log(fmt::format("waiting for {} of an earlier run to finish", holder));
  waiting_for_ = holder;
  if (stalled(now))
    finish(SupervisorEnd::busy, fmt::format("{}: still in use by {}", session_.segment().path(), holder));
}

void Supervisor::begin_serving() {
  if (const auto status = queues_->reopen(); status != Status::ok)
    return finish(SupervisorEnd::failed, fmt::format("opening the queues: {}", to_string(status)));
  const auto subscribed = queues_->subscribe();
  if (!subscribed) return finish(SupervisorEnd::failed, subscribed.error().message);
  for (const auto& line : *subscribed) log(line);
  auto& next_flow = pipeline_state(session_.segment()).next_flow;
  if (load(next_flow, acquire) < options_.first_flow) store(next_flow, options_.first_flow, release);
  phase_ = Phase::serving;
  for (auto& child : children_) child.start_at = Clock::now();
  queues_->end_left_over();
}

}  // namespace sluice
