// The process table: who is attached. Bytes only; docs/layout.md has the tables.
#pragma once

#include "shm/bits.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

/// What a process row is. The values are in the file.
enum class ProcessState : std::uint8_t {
  free = 0,
  joining = 1,  // locked and named; the fields beside the word may be another's
  alive = 2,
  leaving = 3,     // gives up its lanes by itself
  recovering = 4,  // found dead; claimed by the recoverer that the word names
};

/// The fields of ProcessRow::word. The claimer is 0 unless the state is `recovering`.
namespace process_word {
using State = BitField<0, 3>;
using ClaimerRow = BitField<3, 11>;
using ClaimerIncarnation = BitField<14, 25>;
using Incarnation = BitField<39, 25>;

constexpr std::uint64_t make(ProcessState state, std::uint64_t incarnation, std::uint64_t claimer_row = 0,
                             std::uint64_t claimer_incarnation = 0) noexcept {
  return State::make(static_cast<std::uint64_t>(state)) | ClaimerRow::make(claimer_row) |
         ClaimerIncarnation::make(claimer_incarnation) | Incarnation::make(incarnation);
}
constexpr ProcessState state(std::uint64_t word) noexcept {
  return static_cast<ProcessState>(State::get(word));
}
}  // namespace process_word

/// A role that a process has: who it is, until that incarnation of its row is over. 0: nobody.
namespace process_claim {
using Row = BitField<0, 11>;
using Incarnation = BitField<11, 25>;

constexpr std::uint64_t make(std::uint64_t row, std::uint64_t incarnation) noexcept {
  return Row::make(row) | Incarnation::make(incarnation);
}
}  // namespace process_claim

inline constexpr std::size_t role_bytes = 32;

struct alignas(64) ProcessRow {
  std::uint64_t word;           // process_word.  W: CAS.  R: all
  std::uint64_t pid;            // as its own pid namespace numbers it.  W: the joiner.  R: all, as evidence
  std::uint64_t start_ticks;    // field 22 of /proc/PID/stat
  std::uint64_t pid_namespace;  // inode of /proc/self/ns/pid
  std::uint8_t boot_id[16];
  std::uint64_t joined_ns;       // CLOCK_REALTIME
  char role[role_bytes];         // for people: "ingress", "worker-0"
  std::uint64_t time_namespace;  // inode of /proc/self/ns/time: start_ticks is told in it
  std::uint64_t reserved[18];
};
static_assert(sizeof(ProcessRow) == 256 && offsetof(ProcessRow, time_namespace) == 88);
static_assert(offsetof(ProcessRow, boot_id) == 32 && offsetof(ProcessRow, role) == 56);
static_assert(std::is_trivially_copyable_v<ProcessRow>);

}  // namespace sluice
