// What the seed decides: how large the segment is, what its actors do, who runs when, who dies.
#pragma once

#include <array>
#include <cstdint>

namespace sluice::verify {

/// splitmix64. The standard library's distributions differ between versions: a seed is to mean the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    auto z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t bound) noexcept { return next() % bound; }
  bool one_in(std::uint64_t n) noexcept { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

enum class Act : std::uint8_t {
  allocate,
  allocate_run,
  release,
  clone,
  share,  // make findable, and put the handle where the others look
  look_up,
  resize,
  flush,
  push,
  pop,
  acknowledge,
  take_role,
  give_role,
  second_lane,  // claim one, or release it
  rejoin,       // leave, open again
  recover,
  work_push,
  work_take,
  work_end,  // acknowledge, or keep
  work_reject,
  work_forward,
  work_close,  // or open again
  publish,
  trim,
  subscribe,
  read,
  leave_broadcast,  // as subscriber, or as publisher
};
inline constexpr std::size_t act_count = 27;

inline constexpr std::uint32_t streams_max = 2;
// Two that messages are forwarded between, the second with a limit of deliveries; its dead letters; one that drops.
inline constexpr std::uint32_t work_queues_max = 4;
inline constexpr std::uint32_t lanes_max = 4;

/// What the scripts do most.
enum class Kind : std::uint8_t {
  shared,
  slabs,
  runs,
  streams,
  orphans,
  everything,
  work,
  broadcast,
  by_seed
};

inline constexpr std::size_t posts_max = 2;  // handles that all actors can find

struct Plan {
  std::uint64_t seed = 0;
  std::uint32_t lanes = 2;  // actors at the start
  std::uint32_t units = 6;
  std::uint32_t streams = 1;
  std::uint32_t work_queues = 0;  // none or all
  std::uint32_t broadcasts = 0;   // none or one
  std::uint32_t capacity = 2;     // of a queue
  std::uint32_t acts = 8;         // of each actor
  std::uint32_t posts = posts_max;
  std::array<std::uint32_t, act_count> weights{};
  std::array<std::uint32_t, 4> bytes{};  // that are allocated
  std::uint32_t change_points = 0;       // of priorities; 0: a random walk
  std::uint32_t after_change = 16;       // one preemption in so many events that changed a shared word
  std::uint32_t walk = 8;                // one preemption in so many events
  std::uint64_t events = 400;            // guessed length, over which change points and kills are spread
  std::uint32_t kills = 0;
  bool freezes = false;  // who is preempted by a change point stays so until the others are done
};

/// `lanes` 0: by the seed.
Plan plan_of(std::uint64_t seed, std::uint32_t lanes, Kind kind) noexcept;

}  // namespace sluice::verify
