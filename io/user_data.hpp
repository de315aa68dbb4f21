// What travels in the `user_data` of the ingress's operations.
#pragma once

#include <cstdint>

namespace sluice {

/// What a completion belongs to. The generation tells a slot's present holder from earlier ones.
enum class RingOp : std::uint8_t {
  none = 0,
  accept = 1,
  receive = 2,
  cancel = 3,  // of a receive; only failures complete
  cancel_accept = 4,
  doorbell = 5,
};

/// The 64 bits that travel with an operation: op:8 | slot:24 | generation:32.
struct UserData {
  RingOp op = RingOp::none;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;

  constexpr std::uint64_t encode() const noexcept {
    return static_cast<std::uint64_t>(op) << 56 | static_cast<std::uint64_t>(slot & 0xffffff) << 32 |
           generation;
  }
  static constexpr UserData decode(std::uint64_t word) noexcept {
    return {static_cast<RingOp>(word >> 56), static_cast<std::uint32_t>(word >> 32) & 0xffffff,
            static_cast<std::uint32_t>(word)};
  }
  bool operator==(const UserData&) const noexcept = default;
};

}  // namespace sluice
