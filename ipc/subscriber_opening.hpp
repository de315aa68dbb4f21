// What both halves of Subscriber begin with: subscriber.cpp, and durable_subscriber.cpp.
#pragma once

#include "ipc/broadcast.hpp"
#include "ipc/subscription.hpp"

#include <algorithm>
#include <cstdint>

namespace sluice {

struct Subscriber::Opened {
  RingEnd end;
  StreamRing ring;

  std::uint64_t self() const noexcept { return lane_claim::make(end.lane->id(), end.lane->incarnation()); }
};

/// The position that a subscriber asks for, at most the tail.
inline std::uint64_t wanted_position(const Start& start, std::uint64_t tail) noexcept {
  switch (start.from) {
    case Start::From::last: return tail - std::min(start.value, tail);
    case Start::From::position: return std::min(start.value, tail);
    case Start::From::now: break;
  }
  return tail;
}

}  // namespace sluice
