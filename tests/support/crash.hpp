// Killing a process at a named crash point, and finding out which points an operation passes.
#pragma once

#include "shm/crash_point.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace sluice::test {

#if defined(SLUICE_CRASH_POINTS) && SLUICE_CRASH_POINTS
inline constexpr bool has_crash_points = true;
#else
inline constexpr bool has_crash_points = false;
#endif

/// The points whose name begins with `prefix`.
std::vector<std::string_view> crash_points(std::string_view prefix);
/// Index in crash_point_names; throws for a name that is not there.
std::size_t crash_point_index(std::string_view name);

/// SIGKILL the calling process when it passes `point` for the nth time from now.
void kill_self_at(std::string_view point, std::uint64_t nth = 1);

/// How often each point was passed; lives in memory that the child shares with its parent.
struct CrashPasses {
  std::array<std::atomic<std::uint64_t>, crash_point_names.size()> count{};
};
/// Count the points that the calling process passes from now, instead of dying at one.
void count_passes(CrashPasses& passes);
/// Besides, the first time that `point` is passed, do this; before one of the two above takes effect.
void act_at(std::string_view point, std::function<void()> act);
/// Neither.
void pass_unharmed();

/// The first time that the calling thread passes `point`, others act: they are lanes of this thread too.
class Meanwhile {
 public:
  Meanwhile(std::string_view point, std::function<void()> act);
  Meanwhile(const Meanwhile&) = delete;
  Meanwhile& operator=(const Meanwhile&) = delete;
  ~Meanwhile();
  bool happened() const;
};

}  // namespace sluice::test
