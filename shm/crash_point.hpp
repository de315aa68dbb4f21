// Named places where a test kills the process. Every store that recovery has to understand has one before and
// after it; docs/recovery.md tells what recovery finds there. In builds without SLUICE_CRASH_POINTS they
// are nothing.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <string_view>

namespace sluice {

inline constexpr std::array crash_point_names = {
#define SLUICE_CRASH_POINT(name) std::string_view(name),
#include "shm/crash_points.def"
#undef SLUICE_CRASH_POINT
};

/// An index into crash_point_names; a name that is not in crash_points.def does not compile.
struct CrashPoint {
  std::size_t index;
  consteval CrashPoint(const char* name) : index(find(name)) {}  // NOLINT(google-explicit-constructor)

 private:
  static consteval std::size_t find(std::string_view name) {
    for (std::size_t i = 0; i < crash_point_names.size(); ++i)
      if (crash_point_names[i] == name) return i;
    throw "a crash point must be listed in shm/crash_points.def";
  }
};

#if defined(SLUICE_CRASH_POINTS) && SLUICE_CRASH_POINTS
/// Called with the index of each point that is passed. Set by tests only.
extern std::atomic<void (*)(std::size_t)> crash_hook;

inline void crash_point(CrashPoint point) noexcept {
  if (auto* hook = crash_hook.load(std::memory_order_relaxed)) hook(point.index);
}
#else
inline void crash_point(CrashPoint) noexcept {}
#endif

}  // namespace sluice
