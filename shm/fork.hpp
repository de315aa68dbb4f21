// What survives a fork: mutexes that the child can go on using, and telling the child from the parent.
//
// A child made by fork has one thread. A mutex that another thread of the parent had is locked in it for ever, and
// what it guards may be half changed. So forks wait for these.
// (vfork and a bare clone run no such handlers; nor may fork() be called from a handler of a signal.)
// Thread safety: all functions.
#pragma once

#include <cstdint>
#include <mutex>

#include <sys/types.h>

namespace sluice {

/// A mutex that no fork happens under. Never destroyed, and never held while another of them is taken.
class ForkMutex {
 public:
  ForkMutex();
  ForkMutex(const ForkMutex&) = delete;
  ForkMutex& operator=(const ForkMutex&) = delete;
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

/// This process, as opposed to those that it forked or was forked by. The pid alone does not tell: the first process of
/// a pid namespace has the same one as its child that is the first of another.
struct ProcessToken {
  pid_t pid = 0;
  std::uint32_t forks = 0;
  bool operator==(const ProcessToken&) const noexcept = default;
};
ProcessToken this_process() noexcept;

}  // namespace sluice
