// What the witness knows of each message of a work queue. A message carries the number of a ticket, and the ticket's
// word says in whose hands it is: written before each step and behind it, so that after a death it is known to within
// that step. Who takes a message compares, and writes itself into the word.
//
// Tickets belong to the slot of the process that pushes with them: one process at a time gives them out.
#pragma once

#include "shm/bits.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace sluice::verify {

inline constexpr std::uint32_t work_queues = 4;
inline constexpr std::uint32_t tickets_per_slot = 512;  // of queues that drop nothing
inline constexpr std::uint32_t drop_tickets_per_slot =
    128;  // more than twice the capacity of the one that drops

enum class TicketStage : std::uint8_t {
  free,
  pushing,
  waiting,
  taken,
  ending,  // is acknowledged or kept
  rejecting,
  forwarding,
  done,
};

/// The fields of Ticket::word.
namespace ticket_word {
using Stage = BitField<0, 4>;
using Queue = BitField<4, 4>;
using Returns = BitField<8, 9>;  // times that it came back, in this queue
using Slot = BitField<17, 7>;    // who is at it
using Life = BitField<24, 20>;   // of that slot
using Turn = BitField<44, 20>;   // of the ticket
inline TicketStage stage(std::uint64_t word) noexcept { return static_cast<TicketStage>(Stage::get(word)); }
inline std::uint64_t set_stage(std::uint64_t word, TicketStage stage) noexcept {
  return Stage::set(word, static_cast<std::uint64_t>(stage));
}
}  // namespace ticket_word

struct Ticket {
  std::atomic<std::uint64_t> word{0};
  std::atomic<std::uint64_t> handle{0};
  std::atomic<std::uint64_t> pushed_as{0};  // its producer's number, where messages are dropped
};

struct alignas(128) WorkJournal {
  std::atomic<std::uint64_t> deaths_in_push{0};
  std::atomic<std::uint64_t> deaths_in_take{0};
  std::atomic<std::uint64_t> unexplained{0};  // deliveries more than the tickets say: of who died in a take
  std::atomic<std::uint64_t> done{0};
  std::atomic<std::uint64_t> came_back{0};      // and was delivered again
  std::atomic<std::uint64_t> dropped{0};        // known to be, by their tickets
  std::atomic<std::uint64_t> maybe_dropped{0};  // or never pushed, or done
  std::atomic<std::uint64_t> ever_closed{0};
};

/// What a slot's process gives out and is in the middle of.
struct alignas(128) WorkHands {
  std::atomic<std::uint32_t> pushing_to{0};   // queue + 1
  std::atomic<std::uint32_t> taking_from{0};  // likewise
  std::atomic<std::uint64_t> numbers{0};      // of pushes, in their order
  std::atomic<std::uint64_t> drop_pushes{0};  // to the queue that drops, all lives
  std::array<Ticket, tickets_per_slot> tickets;
  std::array<Ticket, drop_tickets_per_slot> drop_tickets;
};

/// Two that messages are forwarded between, the second with a limit of deliveries; its dead letters; one that drops.
inline constexpr std::uint32_t work_limited = 1, work_dead_letters = 2, work_dropping = 3;
inline constexpr std::uint32_t work_limit = 3;
inline constexpr std::array<std::uint32_t, work_queues> work_capacities = {32, 16, 32, 16};
inline std::string work_name_of(std::uint32_t queue) { return "soak-work-" + std::to_string(queue); }

}  // namespace sluice::verify
