// Child processes of tests. A child maps the file itself, uses no test macro and leaves through _exit.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <string>

#include <sys/mman.h>
#include <sys/types.h>

namespace sluice::test {

/// How a child ended. One of `code` (>= 0) and `signal` (> 0) tells; both unset with `timed_out`.
struct Exit {
  int code = -1;
  int signal = 0;
  bool timed_out = false;
};

inline constexpr int exit_threw = 99;    // the body threw; what it said is on stderr
inline constexpr int exit_skipped = 77;  // the environment forbids the test; why is on stderr

/// The two ends of a conversation: a child tells that it is ready, and waits to be let go.
class ChildLink {
 public:
  void ready() const;    // child: the parent's wait_ready() returns
  void wait_go() const;  // child: until the parent calls go(); leaves if the parent is gone

 private:
  friend class Child;
  int to_parent_ = -1;
  int from_parent_ = -1;
};

/// A running child; killed and reaped at the latest when this is destroyed.
class Child {
 public:
  explicit Child(const std::function<void(ChildLink&)>& body);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const noexcept { return pid_; }
  /// false: the child died, or said nothing in time.
  bool wait_ready(std::chrono::milliseconds timeout = std::chrono::seconds(20)) const;
  void go() const;
  void send(int signal) const;
  /// Wait for the end; a child that takes longer is killed and reported as timed out.
  Exit wait(std::chrono::milliseconds timeout = std::chrono::seconds(30));
  /// SIGKILL, then reap.
  void kill_and_wait();

 private:
  pid_t pid_ = -1;
  int from_child_ = -1;
  int to_child_ = -1;
  bool reaped_ = false;
};

/// Run `body` in a child to its end.
Exit run_child(const std::function<void()>& body,
               std::chrono::milliseconds timeout = std::chrono::seconds(30));

/// A zero-initialised T in anonymous memory that children of this process share with it.
template <class T>
class SharedWithChildren {
 public:
  SharedWithChildren() {
    void* page = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) throw std::bad_alloc();
    value_ = new (page) T{};
  }
  ~SharedWithChildren() { ::munmap(static_cast<void*>(value_), sizeof(T)); }
  SharedWithChildren(const SharedWithChildren&) = delete;
  SharedWithChildren& operator=(const SharedWithChildren&) = delete;

  T* operator->() const noexcept { return value_; }
  T& operator*() const noexcept { return *value_; }

 private:
  T* value_;
};

}  // namespace sluice::test
