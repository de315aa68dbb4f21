// Memory that a process shares with those that it starts afterwards.
#pragma once

#include "tests/bench/queues/processes.hpp"

#include <new>

#include <sys/mman.h>

namespace sluice::bench {

/// A T made of zeroes, whose pages are there. Who made it ends it.
template <class T>
class SharedObject {
 public:
  SharedObject() {
    void* memory =
        mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) die("there is no memory for what the processes share");
    object_ = new (memory) T;
  }
  ~SharedObject() { munmap(object_, sizeof(T)); }
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;
  T& operator*() const noexcept { return *object_; }
  T* operator->() const noexcept { return object_; }

 private:
  T* object_;
};

}  // namespace sluice::bench
