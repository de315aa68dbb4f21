// A worker of a pipeline's stage: the child's half of what `sluice run` does with it. A program of the user's is
//
//   int main() {
//     auto stage = sluice::Stage::from_environment();
//     if (!stage) return fmt::print(stderr, "{}\n", stage.error().message), 1;
//     const auto served = stage->serve([](sluice::Delivery& message) {
//       change(message.writable());           // in the block; nothing is copied
//       return sluice::Verdict::pass();       // into the next queue
//     });
//     return served ? 0 : 1;
//   }
//
// It ends by itself when what it takes from is closed and done. SIGTERM asks it to end once nothing is there; when its
// parent has died, which the kernel tells by SIGTERM too, it stays until nobody is left who could bring more: nobody will
// restart it, nor those before it.
// Thread safety: one thread, which has called from_environment() or open().
#pragma once

#include "runtime/session.hpp"
#include "runtime/worker.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace sluice {

struct StageOptions {
  std::string segment;
  std::string name = "worker";          // in the process table
  std::vector<std::string> from, into;  // queues, as WorkerOptions has them
  std::vector<std::string> fed_by;      // names of the processes that push into the work queues of `from`
  SubscriberPolicy lagging = SubscriberPolicy::block;
  int ready_fd = -1;  // where the supervisor waits for a line; -1: nobody does
};

class Stage {
 public:
  /// The place that `sluice run` gives in SLUICE_SEGMENT, SLUICE_NAME, SLUICE_FROM, SLUICE_INTO, SLUICE_FED_BY,
  /// SLUICE_LAGGING and SLUICE_READY_FD.
  /// errors  bad_argument  a variable is missing or means nothing; and those of open()
  static Expected<Stage> from_environment();
  /// Join the segment, and take SIGTERM, and SIGINT unless it is ignored, as requests to end.
  /// errors  as Session::open() and claim_lane()
  static Expected<Stage> open(StageOptions options);
  Stage(Stage&& other) noexcept;
  Stage& operator=(Stage&&) = delete;
  ~Stage();

  Session& session() noexcept { return *session_; }
  Lane& lane() noexcept { return *lane_; }
  const StageOptions& options() const noexcept { return options_; }

  /// Serve until the end.  errors  as run_worker(); what the handler stopped with
  Expected<WorkerReport> serve(const Handler& handler);
  /// Of a stage that takes from nothing: call `make` again and again, until it says closed, which means that all is made,
  /// or until this process is asked to end. exhausted is tried again after a moment.
  /// errors  what else `make` says; as Producer::open()
  Expected<void> produce(const std::function<Status(Producer& into)>& make);
  /// This process was asked to end.
  bool stopping() const noexcept { return stop_->load(std::memory_order_relaxed); }

 private:
  Stage(StageOptions options, Session session);
  void look_around();
  bool fillable() const;

  StageOptions options_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Lane> lane_;
  std::unique_ptr<std::atomic<bool>> stop_ = std::make_unique<std::atomic<bool>>(false);
  pid_t parent_;
};

/// "a,b" as its parts; empty parts are left out.
std::vector<std::string> split_names(std::string_view text);
/// block, lose-oldest or disconnect; empty is block.  errors  bad_argument
Expected<SubscriberPolicy> parse_lagging(std::string_view word);

/// Tell the supervisor that waits at `ready_fd`, and close it; nothing for -1.
void say_ready(int ready_fd, std::string_view line);

}  // namespace sluice
