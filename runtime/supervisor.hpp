// The supervisor: child processes over one segment, which are an ingress and N workers, or servers of block devices and
// who mirrors those, or both. It notices deaths by pidfd, recovers, restarts with back-off, drains on a signal, and
// reports. What becomes of a child depends on its role: child_role.hpp.
//
//   waiting ── nobody holds a role ──> serving ── SIGTERM, SIGINT, SIGHUP ──> draining ── all ended ──> run() returns
//
//   waiting   processes of an earlier run still finish; they end by themselves
//   serving   whatever dies is recovered and started again: at once, then after 100 ms doubling to 5 s
//   draining  the ingress finishes and closes the streams (the supervisor does if it died), devices are stopped in
//             order, workers and mirrors end when their streams are empty and are restarted until they are; a second
//             signal kills
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
#include "runtime/pipeline_streams.hpp"
#include "runtime/session.hpp"

#include <chrono>
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
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
  std::string stream;  // that it publishes into; empty: none
  std::string mirror_name;
  Arguments mirror_arguments;  // of who consumes the stream; empty: no child does
};

/// Where what the pipeline offers is found.
struct PipelineAddresses {
  std::string ingress;               // empty without one
  std::vector<std::string> devices;  // in the order of the options
};

struct SupervisorOptions {
  std::uint32_t workers = 1;  // 0: there is no ingress either
  std::vector<DeviceOptions> devices;
  std::uint32_t queue_capacity = 4096;                             // messages, of streams that are created
  std::chrono::nanoseconds drain_grace = std::chrono::seconds(5);  // what the ingress gives its connections
  std::chrono::nanoseconds drain_patience = std::chrono::seconds(30);  // and then this long without progress
  std::chrono::nanoseconds status_interval{0};                         // 0: only on SIGUSR1
  std::uint64_t first_flow = 0;  // numbers below it are not given to connections

  std::string program = "/proc/self/exe";
  /// The arguments of a child. Once it works it must write one line to `ready_fd`: the ingress where it listens
  /// (its successors are given that as `address`, empty at first), a worker anything.
  std::function<std::vector<std::string>(const std::vector<std::string>& streams, const std::string& address,
                                         int ready_fd)>
      ingress_arguments;
  std::function<std::vector<std::string>(const std::string& name, const std::vector<std::string>& streams,
                                         int ready_fd)>
      worker_arguments;
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
  PipelineTotals totals;       // of this run
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
    std::uint32_t index;  // of the worker, or of the device
    std::string name;
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
  std::vector<std::string> arguments_of(const Child& child, int ready_fd) const;
  void read_ready(Child& child);
  void announce_ready();
  void handle_end(Child& child);
  bool refused(Child& child, const ChildExit& exit) const;
  void handle_end_in_drain(Child& child, const ChildExit& exit, const std::string& line);
  /// The streams that it consumes are closed and empty; of others, always.
  bool streams_finished(const Child& child) const;
  std::string status_line(Clock::time_point now);
  void log(std::string_view line) const { options_.log(line); }

  Session& session_;
  SupervisorOptions options_;
  std::unique_ptr<Lane> lane_;
  std::optional<PipelineStreams> streams_;
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
  Clock::time_point progress_at_;
  std::uint64_t status_bytes_ = 0;
  Clock::time_point status_at_;
};

}  // namespace sluice
