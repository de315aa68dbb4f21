// A work queue's shared words: what a slot's stamp says. Bytes only; docs/layout.md has the tables.
#pragma once

#include "shm/bits.hpp"
#include "shm/lane_layout.hpp"

#include <cstdint>

namespace sluice {

enum class WorkState : std::uint8_t {
  empty = 0,    // free, for the position in the word
  writing = 1,  // a producer has claimed it: the lane in the word
  full = 2,     // it holds a message that nobody works on
  leased = 3,   // a consumer works on it: the lane in the word
};

/// The fields of Message::stamp in a work queue. `Base` is the position that the slot is for, less the slot's place
/// in the ring, modulo 2^40 as in a cell.
namespace work_word {
using State = BitField<0, 3>;
using Lane = BitField<3, 12>;
using Deliveries = BitField<15, 8>;  // times that it was delivered before; stays at its highest
using Base = BitField<24, 40>;

constexpr std::uint64_t make(WorkState state, std::uint64_t base, std::uint64_t lane = 0,
                             std::uint64_t deliveries = 0) noexcept {
  return State::make(static_cast<std::uint64_t>(state)) | Lane::make(lane) | Deliveries::make(deliveries) |
         Base::make(base);
}
constexpr WorkState state(std::uint64_t word) noexcept { return static_cast<WorkState>(State::get(word)); }
}  // namespace work_word

/// Pushes from one look at the depth, for QueueRow::high_water, to the next.
inline constexpr std::uint64_t high_water_step = 64;

}  // namespace sluice
