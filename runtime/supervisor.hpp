// The supervisor: child processes over one segment, which are an ingress and stages of workers with queues between them
// (pipeline_plan.hpp), servers of block devices and who mirrors those, or all of it. It notices deaths by pidfd, recovers,
// restarts with back-off, drains on a signal, and reports. What becomes of a child depends on its role: child_role.hpp.
//
//   waiting ── nobody holds a role ──> serving ── SIGTERM, SIGINT, SIGHUP ──> draining ── all ended ──> run() returns
//
//   waiting   processes of an earlier run still finish; they end by themselves
//   serving   whatever dies is recovered and started again: at once, then after 100 ms doubling to 5 s
//   draining  who brings messages in ends: the ingress, programs that make them, devices in order. A queue is closed once
//             all who publish into it have ended; workers and mirrors end when what they take from is closed and empty,
//             and are restarted until it is. So the end goes down the pipeline. A second signal kills
//
// Invariants
//   1. One supervisor per segment: it holds the flock of the segment's file.
//   2. A dead child is recovered before its successor starts.
//   3. Nothing is given up without a line in the log.
// Thread safety: none; one thread, which must not end before run() returned. Its signals SIGTERM, SIGINT, SIGHUP
// and SIGUSR1 (status) are blocked from create() until destruction.
#pragma once

#include "runtime/backoff.hpp"
#include "runtime/child_process.hpp"
#include "runtime/child_role.hpp"
#include "runtime/pipeline_plan.hpp"
#include "runtime/pipeline_queues.hpp"
#include "runtime/session.hpp"

#include <chrono>
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// One block device: the process that serves it, and perhaps another that follows it. Each must write one line to
/// `ready_fd` once it works: the server the path of its device, the mirror anything. The server must come back to the
/// device that a dead one has left.
struct DeviceOptions {
  using Arguments = std::function<std::vector<std::string>(int ready_fd)>;

  std::string child_name;
  Arguments arguments;
  std::optional<std::size_t> into;  // the queue of the plan that it publishes into
  std::string mirror_name;
  Arguments mirror_arguments;  // of who consumes the stream; empty: no child does
};

/// Where what the pipeline offers is found.
struct PipelineAddresses {
  std::string ingress;               // empty without one
  std::vector<std::string> devices;  // in the order of the options
};

/// How a worker of a stage is started.
struct WorkerCommand {
  std::string program;  // empty: the supervisor's own
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
};

/// What a worker has to know.
struct WorkerPlace {
  std::size_t stage = 0;
  std::string name;
  std::vector<std::string> from, into;  // queues by name
  std::vector<std::string> fed_by;  // children that publish into what it takes from, but those behind itself
  int ready_fd = -1;
};

struct SupervisorOptions {
  PipelinePlan plan;
  std::vector<DeviceOptions> devices;
  std::chrono::nanoseconds drain_grace = std::chrono::seconds(5);  // what the ingress gives its connections
  std::chrono::nanoseconds drain_patience = std::chrono::seconds(30);  // and then this long without progress
  std::chrono::nanoseconds status_interval{0};                         // 0: only on SIGUSR1
  std::uint64_t first_flow = 0;  // numbers below it are not given to connections

  std::string program = "/proc/self/exe";
  /// What a child is started with. Once it works it must write one line to `ready_fd`: the ingress where it listens
  /// (its successors are given that as `address`, empty at first), a worker anything.
  std::function<std::vector<std::string>(const std::vector<std::string>& into, const std::string& address,
                                         int ready_fd)>
      ingress_arguments;
  std::function<WorkerCommand(const WorkerPlace& place)> worker_command;
  /// Whether a child that exits with this code before it is ready will do so every time.
  std::function<bool(int exit_code)> is_refusal;
  std::function<void(std::string_view line)> log;
  /// Called once, when every child works.
  std::function<void(const PipelineAddresses& addresses)> ready;
};

enum class SupervisorEnd : std::uint8_t {
  drained,  // in order, on a signal
  forced,   // a second signal came; children were killed
  stuck,    // the drain made no progress for too long; children were killed
  removed,  // the segment's file was removed; drained
  refused,  // a child refuses to work; drained
  busy,     // processes of an earlier run did not finish
  failed,   // the kernel or the segment failed
};

struct SupervisorReport {
  SupervisorEnd end = SupervisorEnd::drained;
  int child_exit_code = 0;  // refused: what the child exited with
  std::string reason;       // one line, logged already if removed or refused; empty when drained, and when a
                            // child has said it itself
  std::uint64_t restarts = 0;  // of children, after unexpected ends
  // Of this run: messages that came in from outside and were taken, their bytes, and what was delivered again.
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  std::uint64_t redelivered = 0;
};

class Supervisor {
 public:
  /// errors  busy  the segment has a supervisor; and those of claiming a lane and creating streams
  static Expected<std::unique_ptr<Supervisor>> create(Session& session, SupervisorOptions options);
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;
  /// Kills what still runs.
  ~Supervisor();

  SupervisorReport run();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Phase : std::uint8_t { waiting, serving, draining, over };
  struct Child {
    ChildRole role;
    std::string name;
    std::size_t group = 0;            // its stage, or its device
    std::uint32_t worker = 0;         // which of the stage
    std::optional<std::size_t> from;  // queues of the plan
    std::optional<std::size_t> into;
    std::optional<ChildProcess> process;
    UniqueFd ready_fd;
    std::string ready_text;
    std::string address;  // what its last ready line said
    bool ready = false;
    bool finished = false;       // ended in order, while draining
    std::uint32_t refusals = 0;  // in a row
    Backoff backoff;
    Clock::time_point started;
    Clock::time_point patient_until;                        // then a word about what it waits for
    Clock::time_point start_at = Clock::time_point::max();  // of the next start
  };

  Supervisor(Session& session, SupervisorOptions options);
  Expected<void> prepare();
  void add_children();

  void turn();
  int timeout_ms(Clock::time_point now) const;
  void tick(Clock::time_point now);
  void tick_waiting(Clock::time_point now);
  void tick_draining(Clock::time_point now);
  void handle_signals();
  void recover();
  void check_file();

  void begin_serving();
  void begin_drain(SupervisorEnd end, std::string reason);
  bool stalled(Clock::time_point now);
  void finish(SupervisorEnd end, std::string reason);
  void kill_children();
  void report_slow_device(Child& child, Clock::time_point now);

  void start_due(Clock::time_point now);
  void start(Child& child);
  WorkerCommand command_of(const Child& child, int ready_fd) const;
  std::vector<std::string> feeders_of(const Child& child) const;
  void read_ready(Child& child);
  void announce_ready();
  void handle_end(Child& child);
  bool refused(Child& child, const ChildExit& exit) const;
  void handle_end_in_drain(Child& child, const ChildExit& exit, const std::string& line);
  void end_queues();
  void end_sources(Clock::time_point now);
  bool publishes_into(const Child& child, std::size_t queue) const;
  /// Whoever can bring messages into a queue has ended, but those in `beside`, which are queues as well.
  bool producers_finished(std::size_t queue, std::span<const std::size_t> beside) const;
  /// What it takes from is closed and empty; without, always.
  bool input_finished(const Child& child) const {
    return !child.from || queues_->finished(*child.from, child.worker, child.name);
  }
  std::string status_line(Clock::time_point now);
  void log(std::string_view line) const { options_.log(line); }

  Session& session_;
  SupervisorOptions options_;
  std::unique_ptr<Lane> lane_;
  PipelineGraph graph_;
  std::optional<PipelineQueues> queues_;
  UniqueFd file_lock_;
  UniqueFd signal_fd_;
  sigset_t signals_before_;
  bool signals_blocked_ = false;

  Phase phase_ = Phase::waiting;
  SupervisorReport report_;
  std::vector<Child> children_;
  bool announced_ = false;
  bool file_gone_ = false;
  std::string waiting_for_;
  std::set<std::string> disagreements_;  // already logged
  PipelineTotals totals_before_;         // when run() began

  Clock::time_point next_tick_;
  Clock::time_point next_status_ = Clock::time_point::max();
  std::uint64_t progress_seen_ = 0;
  std::uint64_t fewest_queued_ = ~std::uint64_t{0};
  Clock::time_point progress_at_;
  Clock::time_point drain_began_;
  std::uint64_t status_bytes_ = 0;
  Clock::time_point status_at_;
};

}  // namespace sluice
