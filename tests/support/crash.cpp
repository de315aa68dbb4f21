#include "tests/support/crash.hpp"

#include <algorithm>
#include <csignal>
#include <stdexcept>
#include <string>
#include <utility>

#include <unistd.h>

namespace sluice::test {

namespace {

std::atomic<std::size_t> fatal_point{0};
std::atomic<std::uint64_t> passes_left{0};
std::atomic<CrashPasses*> counted{nullptr};

std::size_t meanwhile_point = 0;
std::function<void()> meanwhile_act;
[[maybe_unused]] void act_there(std::size_t index) {
  if (index == meanwhile_point && meanwhile_act) std::exchange(meanwhile_act, nullptr)();
}

[[maybe_unused]] void die_there(std::size_t index) {
  act_there(index);
  if (index != fatal_point.load(std::memory_order_relaxed) || passes_left.fetch_sub(1) != 1) return;
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();
}

[[maybe_unused]] void count_it(std::size_t index) {
  act_there(index);
  counted.load(std::memory_order_relaxed)->count[index].fetch_add(1, std::memory_order_relaxed);
}

void set_hook([[maybe_unused]] void (*hook)(std::size_t)) {
#if defined(SLUICE_CRASH_POINTS) && SLUICE_CRASH_POINTS
  crash_hook.store(hook);
#else
  if (hook != nullptr) throw std::logic_error("this build has no crash points");
#endif
}

}  // namespace

std::vector<std::string_view> crash_points(std::string_view prefix) {
  std::vector<std::string_view> found;
  std::copy_if(crash_point_names.begin(), crash_point_names.end(), std::back_inserter(found),
               [&](std::string_view name) { return name.starts_with(prefix); });
  return found;
}

std::size_t crash_point_index(std::string_view name) {
  const auto found = std::find(crash_point_names.begin(), crash_point_names.end(), name);
  if (found == crash_point_names.end()) throw std::out_of_range("no crash point " + std::string(name));
  return static_cast<std::size_t>(found - crash_point_names.begin());
}

void kill_self_at(std::string_view point, std::uint64_t nth) {
  fatal_point = crash_point_index(point);
  passes_left = nth;
  set_hook(die_there);
}

void count_passes(CrashPasses& passes) {
  counted = &passes;
  set_hook(count_it);
}

void act_at(std::string_view point, std::function<void()> act) {
  meanwhile_point = crash_point_index(point);
  meanwhile_act = std::move(act);
}

void pass_unharmed() { set_hook(nullptr); }

Meanwhile::Meanwhile(std::string_view point, std::function<void()> act) {
  act_at(point, std::move(act));
  set_hook(&act_there);
}

Meanwhile::~Meanwhile() {
  set_hook(nullptr);
  meanwhile_act = nullptr;
}

bool Meanwhile::happened() const { return meanwhile_act == nullptr; }

}  // namespace sluice::test
