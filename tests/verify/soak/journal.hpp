// The witness: what every process has begun and ended, in memory that is not in the segment. It is written ahead of
// each step and behind it, so that after any death it is known to within the one step that the death cut off.
//
// Each word has one writer at a time. Who has an end of a stream writes that half of the stream's journal; when the
// end changes hands, recovery stands between the two writers.
#pragma once

#include "tests/verify/soak/work_journal.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace sluice::verify {

inline constexpr std::uint32_t streams_max = 8;
inline constexpr std::uint32_t slots_max = 64;
inline constexpr std::uint32_t board_places = 32;

struct alignas(128) StreamJournal {
  // The producer's half. The stream's tail lies in [pushed, pushing].
  std::atomic<std::uint64_t> pushing{0};          // pushes that were begun
  std::atomic<std::uint64_t> pushed{0};           // pushes that have returned
  std::atomic<std::uint32_t> producer_rested{1};  // 1: the last one gave up its end in order
  // The consumer's half. The stream's head lies in [taken, shown].
  alignas(128) std::atomic<std::uint64_t> shown{0};
  std::atomic<std::uint64_t> taken{0};
  std::atomic<std::uint32_t> consumer_rested{1};
  std::atomic<std::uint64_t> redelivered{0};  // messages that came with the mark
};

struct alignas(128) BroadcastJournal {
  std::atomic<std::uint64_t> publishing{0};  // as StreamJournal::pushing and pushed
  std::atomic<std::uint64_t> published{0};
  std::atomic<std::uint32_t> publisher_rested{1};
  std::atomic<std::uint32_t> trims{0}, closes{0};
  std::atomic<std::uint64_t> read{0}, lost{0}, disconnected{0};  // sums, of all subscribers
};

enum class Phase : std::uint32_t { starting, working, recovering, holding, idle };
enum class Order : std::uint32_t { run, hold, leave };

inline constexpr std::uint32_t no_fork = ~std::uint32_t{0};

struct alignas(128) ActorJournal {
  std::atomic<pid_t> pid{0};  // the kernel's store, at its birth
  std::atomic<Phase> phase{Phase::starting};
  std::atomic<std::uint64_t> steps{0};   // never stands still while it runs: the watchdog's
  std::atomic<std::uint64_t> held{0};    // references, while it holds still
  std::atomic<std::uint64_t> leases{0};  // likewise
  // Counts who was in this slot; and whether SIGKILL is on its way to the last one, known before the kernel knows.
  std::atomic<std::uint64_t> life{0};
  // The driver's.
  std::atomic<Order> order{Order::run};
  std::atomic<std::uint32_t> fork_into{
      no_fork};  // slot for a child, and whether it is made in a signal handler
  std::atomic<std::uint32_t> fork_in_handler{0};
  // Sums over all who were in this slot.
  std::atomic<std::uint64_t> clones{0};
  std::atomic<std::uint64_t> look_ups{0};
  std::atomic<std::uint64_t> allocations{0};
  std::atomic<std::uint64_t> runs{0};
  std::atomic<std::uint64_t> recovered{0};  // processes
  std::array<char, 400> failure{};          // what it found wrong before it ended with exit_failed

  void fail(std::string_view what) noexcept {
    const auto length = what.copy(failure.data(), failure.size() - 1);
    failure[length] = '\0';
  }
};

/// The fields of ActorJournal::life.
namespace life_word {
using Doomed = BitField<0, 1>;
using Life = BitField<1, 20>;
}  // namespace life_word

inline constexpr std::uint32_t broadcasts = 2;
/// A slot that is no actor's: whoever looks at everything pushes and takes in it.
inline constexpr std::uint32_t checker_slot = slots_max - 1;

struct Witness {
  std::array<StreamJournal, streams_max> streams;
  std::array<WorkJournal, work_queues> work;
  std::array<WorkHands, slots_max> hands;
  std::array<BroadcastJournal, broadcasts> broadcast;
  std::array<std::atomic<std::uint64_t>, board_places> board;  // handles of findable blocks, alive or not
  std::array<ActorJournal, slots_max> actors;
};

/// A store that is ordered with those before and after it as the segment's own are: no locked instruction.
template <class T>
void note(std::atomic<T>& word, T value) noexcept {
  word.store(value, std::memory_order_release);
}

inline constexpr int exit_failed = 1;

/// A new process in a slot: it alone counts as alive there.
inline void begin_life(ActorJournal& journal) noexcept {
  journal.life = life_word::Life::make(life_word::Life::get(journal.life) + 1);
}

inline void count_one(std::atomic<std::uint64_t>& counter) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

/// Streams of a run, by number.
inline std::string stream_name_of(std::uint32_t stream) { return "soak-" + std::to_string(stream); }
inline constexpr std::uint32_t stream_capacity_of(std::uint32_t stream) noexcept {
  return 8U << (2 * stream % 6);
}

/// A well-mixed word; seeds of contents and of processes come from it.
constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b = 0) noexcept {
  auto x = a * 0x9e3779b97f4a7c15U + b + 0x2545f4914f6cdd1dU;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

}  // namespace sluice::verify
