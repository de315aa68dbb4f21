// `sluice worker`: serve streams with a built-in handler. Each stream has a thread, with a lane and a handler
// of its own: what a stream says about its flows (MessageKind::restart) concerns no other stream.
//
// SIGTERM stops it once its streams are empty. When its parent has died instead, nobody will restart it or the
// ingress: then it stays until its streams have ended, or have nobody left who could fill them.
#include "runtime/worker.hpp"

#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/sluice/child_side.hpp"
#include "tools/sluice/commands.hpp"
#include "tools/sluice/mirror.hpp"
#include "tools/sluice/sink.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

struct WorkerFlags {
  std::string segment;
  std::string streams;
  std::string sink;
  std::string mirror;
  bool count = false;
  std::string name = "worker";
  int ready_fd = -1;
  bool json = false;
};

struct FlowCounters {
  std::uint64_t closed = 0;
  std::uint64_t aborted = 0;
  std::uint64_t damaged = 0;
};

// One stream's service; filled by its thread, read after it has ended.
struct Service {
  std::string stream;
  std::optional<FlowSink> sink;
  std::optional<Mirror> mirror;
  FlowCounters counted;  // without a sink
  WorkerReport served;
  std::optional<Error> error;

  Status handle(const Delivery& delivery) {
    if (sink || mirror) {
      if (auto done = sink ? sink->handle(delivery) : mirror->handle(delivery); !done) {
        error = std::move(done.error());
        return error->status;
      }
    } else if (delivery.message.kind == MessageKind::close) {
      ++counted.closed;
    } else if (delivery.message.kind == MessageKind::abort) {
      ++counted.aborted;
    }
    return Status::ok;
  }
};

class WorkerProcess {
 public:
  WorkerProcess(Session& session, std::string name) : session_(session), name_(std::move(name)) {}

  Expected<void> prepare(const WorkerFlags& flags);
  Expected<void> serve(int ready_fd);
  void print_summary(const WorkerFlags& flags) const;
  void print_mirror(const Service& service, bool json) const;

 private:
  void serve_stream(Service& service);
  void on_signal();
  bool fillable() const;
  Expected<void> wait_for_services();

  Session& session_;
  std::string name_;
  const pid_t parent_ = ::getppid();
  bool orphaned_ = false;
  UniqueFd signal_fd_;
  UniqueFd ended_fd_;  // counts the services that have ended
  std::vector<Service> services_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
};

Expected<void> WorkerProcess::prepare(const WorkerFlags& flags) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : stop_signals()) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal_fd_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd_) return fail_errno("signalfd");
  ended_fd_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ended_fd_) return fail_errno("eventfd");
  for (auto& stream : split_names(flags.streams)) {
    if (auto found = find_queue(session_.segment(), stream); !found) return std::unexpected(found.error());
    Service service;
    if (!flags.mirror.empty()) {
      auto mirror = Mirror::open(session_.segment(), flags.mirror, stream);
      if (!mirror) return std::unexpected(std::move(mirror.error()));
      service.mirror = std::move(*mirror);
    } else if (!flags.count) {
      auto sink = FlowSink::open(flags.sink, stream);
      if (!sink) return std::unexpected(sink.error());
      service.sink = std::move(*sink);
    }
    service.stream = std::move(stream);
    services_.push_back(std::move(service));
  }
  return {};
}

void WorkerProcess::serve_stream(Service& service) {
  const auto served = [&]() -> Expected<WorkerReport> {
    auto lane = session_.claim_lane({.cells = 256, .name = name_});
    if (!lane) return std::unexpected(lane.error());
    const auto handler = [&](const Delivery& delivery) {
      return failed_.load(relaxed) ? Status::interrupted : service.handle(delivery);
    };
    return run_worker(session_, **lane, {.streams = {service.stream}}, handler, stop_);
  }();
  if (served)
    service.served = *served;
  else
    service.error = served.error();
  if (service.error) {  // the others stop where they are: their messages stay in the segment
    failed_.store(true, relaxed);
    stop_.store(true, relaxed);
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(ended_fd_.get(), &one, sizeof one);
}

void WorkerProcess::on_signal() {
  signalfd_siginfo info;
  while (::read(signal_fd_.get(), &info, sizeof info) == sizeof info) {
    if (::getppid() == parent_)
      stop_.store(true, relaxed);
    else
      orphaned_ = true;
  }
}

// Whether a stream has a producer that lives.
bool WorkerProcess::fillable() const {
  return std::ranges::any_of(services_, [&](const Service& service) {
    const auto queue = find_queue(session_.segment(), service.stream);
    return queue && load(queue_row(session_.segment(), queue->index).producer, acquire) != 0;
  });
}

Expected<void> WorkerProcess::wait_for_services() {
  constexpr int orphan_poll_ms = 200;
  std::size_t ended = 0;
  while (ended < services_.size()) {
    pollfd fds[] = {{signal_fd_.get(), POLLIN, 0}, {ended_fd_.get(), POLLIN, 0}};
    if (::poll(fds, std::size(fds), orphaned_ ? orphan_poll_ms : -1) < 0 && errno != EINTR)
      return fail_errno("poll");
    if (fds[0].revents != 0) on_signal();
    std::uint64_t count = 0;
    if (::read(ended_fd_.get(), &count, sizeof count) == sizeof count) ended += count;
    if (orphaned_) {
      session_.recover_dead();
      if (!fillable()) stop_.store(true, relaxed);
    }
  }
  return {};
}

Expected<void> WorkerProcess::serve(int ready_fd) {
  Expected<void> waited;
  {
    std::vector<std::jthread> threads;
    threads.reserve(services_.size());
    for (auto& service : services_) threads.emplace_back([this, &service] { serve_stream(service); });
    say_ready(ready_fd, "ready");
    waited = wait_for_services();
    if (!waited) stop_.store(true, relaxed);
  }
  for (auto& service : services_)
    if (service.error) return std::unexpected(*service.error);
  return waited;
}

void WorkerProcess::print_mirror(const Service& service, bool json) const {
  const auto& done = service.mirror->counters();
  if (!json) {
    fmt::print("{}: {} writes ({}), {} ranges of zeroes, {} flushes, {} redelivered\n", name_, done.writes,
               format_size(done.bytes), done.zeroes, done.flushes, service.served.redelivered);
    return;
  }
  auto document = json_document("sluice.worker.mirror/1");
  document["name"] = name_;
  document["writes"] = done.writes;
  document["bytes"] = done.bytes;
  document["zeroes"] = done.zeroes;
  document["flushes"] = done.flushes;
  document["redelivered"] = service.served.redelivered;
  print_json(document);
}

void WorkerProcess::print_summary(const WorkerFlags& flags) const {
  WorkerReport total;
  FlowCounters ended;
  for (const auto& service : services_) {
    total.messages += service.served.messages;
    total.bytes += service.served.bytes;
    total.redelivered += service.served.redelivered;
    ended.closed += service.sink ? service.sink->counters().closed : service.counted.closed;
    ended.aborted += service.sink ? service.sink->counters().aborted : service.counted.aborted;
    ended.damaged += service.sink ? service.sink->counters().damaged : 0;
  }
  if (services_.size() == 1 && services_.front().mirror) return print_mirror(services_.front(), flags.json);
  const bool supervised = flags.ready_fd >= 0;
  if (supervised && total.bytes == 0 && ended.closed + ended.aborted == 0) return;  // nothing to tell
  if (!flags.json) {
    fmt::print("{}: {} flows closed, {} aborted; {} in {} messages, {} redelivered\n", name_, ended.closed,
               ended.aborted, format_size(total.bytes), total.messages, total.redelivered);
    return;
  }
  auto document = json_document("sluice.worker/1");
  document["name"] = name_;
  document["flows_closed"] = ended.closed;
  document["flows_aborted"] = ended.aborted;
  document["flows_damaged"] = ended.damaged;
  document["messages"] = total.messages;
  document["bytes"] = total.bytes;
  document["redelivered"] = total.redelivered;
  print_json(document);
}

ExitCode run_worker_command(const WorkerFlags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  name_process(flags.name);
  if ((flags.sink.empty() ? 0 : 1) + (flags.mirror.empty() ? 0 : 1) + (flags.count ? 1 : 0) != 1)
    return report({Status::bad_argument, 0, "one of --sink, --mirror and --count is needed, and no more"});
  if (!flags.mirror.empty() && split_names(flags.streams).size() != 1)
    return report(
        {Status::bad_argument, 0, "--mirror is the copy of one device: --streams must be its stream alone"});
  auto session = Session::open(flags.segment, flags.name);
  if (!session) return report(session.error());
  WorkerProcess worker(*session, flags.name);
  if (auto prepared = worker.prepare(flags); !prepared) return report(prepared.error());
  const auto served = worker.serve(flags.ready_fd);
  if (served) worker.print_summary(flags);
  return served ? ExitCode::ok : report(served.error());
}

}  // namespace

void add_worker_command(CLI::App& app) {
  auto* command = app.add_subcommand("worker", "Consume streams of a segment");
  auto flags = std::make_shared<WorkerFlags>();
  command->add_option("--segment", flags->segment, "The segment")->required();
  command->add_option("--streams", flags->streams, "Names of existing streams, with commas between")
      ->required();
  command->add_option("--sink", flags->sink, "Directory: each flow becomes a file of its own");
  command->add_option("--mirror", flags->mirror, "File that becomes a copy of the device whose stream it is");
  command->add_flag("--count", flags->count, "Only count what comes");
  command->add_option("--name", flags->name, "Name in the process table")->capture_default_str();
  command->add_option("--ready-fd", flags->ready_fd, "Descriptor to write a line to, once it serves");
  command->add_flag("--json", flags->json, "At the end, the counters as one JSON document on stdout");
  on_run(*command, [flags] { return run_worker_command(*flags); });
}

}  // namespace sluice::tools
