#include "shm/fork.hpp"

#include <array>
#include <atomic>
#include <cstddef>

#include <pthread.h>
#include <unistd.h>

namespace sluice {

namespace {

constexpr std::size_t mutexes_max = 8;

struct Forks {
  std::array<ForkMutex*, mutexes_max> mutexes{};
  std::atomic<std::size_t> count{0};
  std::atomic<std::uint32_t> before_this_one{0};

  Forks();
};

Forks& forks() {
  static auto* const instance = new Forks;  // outlives every static destructor: a fork may come late
  return *instance;
}

void lock_all() {
  for (std::size_t i = 0; i < forks().count; ++i) forks().mutexes[i]->lock();
}
void unlock_all() {
  for (std::size_t i = 0; i < forks().count; ++i) forks().mutexes[i]->unlock();
}
void unlock_all_in_child() {
  ++forks().before_this_one;
  unlock_all();
}

Forks::Forks() { ::pthread_atfork(lock_all, unlock_all, unlock_all_in_child); }

}  // namespace

ForkMutex::ForkMutex() {
  const auto place = forks().count.load();
  forks().mutexes.at(place) = this;
  forks().count = place + 1;
}

ProcessToken this_process() noexcept {
  return {::getpid(), forks().before_this_one.load(std::memory_order_relaxed)};
}

}  // namespace sluice
