// A process that is run one instruction at a time: what searches for deaths and orders at instruction granularity
// is made of. Each Stepper is one tracee; several can be stepped in turns, in any order.
//
// The tracee is a fork of the caller, so code has the same addresses in both, and the caller can name them.
// Thread safety: a tracee belongs to the thread that made it (ptrace is by thread).
#pragma once

#include "tests/support/child.hpp"

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include <sys/types.h>
#include <sys/user.h>

namespace sluice::verify {

/// The tracee's side: it marks what is to be stepped.
class StepMarks {
 public:
  /// Stop here, until the first step.
  void begin() const noexcept;
  /// A further place to stop at: see run_to_mark(). Between two
  /// of them a tracee can do what is not to be stepped.
  void mark() const noexcept { begin(); }
  /// step() returns false from here on.
  void end() const noexcept { done_->store(1, std::memory_order_release); }

 private:
  friend class Stepper;
  explicit StepMarks(std::atomic<std::uint32_t>* done) : done_(done) {}
  std::atomic<std::uint32_t>* done_;
};

/// This environment does not let processes be traced.
struct TracingForbidden : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Stepper {
 public:
  /// Fork a tracee that runs `body`, and wait until it is at begin(). Throws if it never comes there.
  explicit Stepper(const std::function<void(const StepMarks&)>& body);
  ~Stepper();  // kills
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  /// One instruction (a system call is one; a repeated string instruction is one per repetition).
  /// false: the tracee has passed end(), or has ended by itself (see ended()).
  bool step();
  /// Run at full speed to behind the next mark or breakpoint. false: the tracee has ended by itself.
  bool run_to_mark();
  /// Where the tracee goes on.
  void move_to(std::uint64_t address);
  /// SIGKILL before the next instruction, and reap. The kernel has released all that the tracee held afterwards.
  void kill();

  std::uint64_t steps() const noexcept { return steps_; }
#if defined(__x86_64__)
  /// Of the tracee as it stands.
  user_regs_struct registers() const;
#endif
  /// Of the instruction that the next step executes; of a tracee that was killed, would have executed.
  std::uint64_t next_address() const noexcept;
  /// Inside of the instruction before that one, which the last step executed if it was no jump.
  std::uint64_t last_address() const noexcept { return next_address() - 1; }
  pid_t pid() const noexcept { return pid_; }
  /// The tracee is gone without having passed end(): how is in `how_it_ended()`.
  bool ended() const noexcept { return pid_ < 0 && !killed_; }
  const std::string& how_it_ended() const noexcept { return how_; }

 private:
  void wait_for_stop();

  test::SharedWithChildren<std::atomic<std::uint32_t>> done_;
  pid_t pid_ = -1;
  bool killed_ = false;
  int stopped_by_ = 0;
  std::uint64_t steps_ = 0;
  std::uint64_t killed_at_ = 0;
  std::string how_;
};

/// Keep the caller and its tracees on one processor: the change from one to the other then needs no interrupt.
void stay_on_one_processor() noexcept;

/// "function at file:line", as far as the program's symbols tell.
std::string describe_address(std::uint64_t address);

}  // namespace sluice::verify
