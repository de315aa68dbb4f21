// Bit fields inside a 64-bit word, by position and width.
#pragma once

#include <cstdint>

namespace sluice {

template <unsigned Shift, unsigned Width>
struct BitField {
  static_assert(Width > 0 && Width < 64 && Shift + Width <= 64);
  static constexpr unsigned shift = Shift;
  static constexpr unsigned width = Width;
  static constexpr std::uint64_t max = (std::uint64_t{1} << Width) - 1;
  static constexpr std::uint64_t get(std::uint64_t word) noexcept { return (word >> Shift) & max; }
  static constexpr std::uint64_t make(std::uint64_t value) noexcept { return (value & max) << Shift; }
  static constexpr std::uint64_t set(std::uint64_t word, std::uint64_t value) noexcept {
    return (word & ~(max << Shift)) | make(value);
  }
};

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) noexcept {
  return (value + to - 1) / to * to;
}

}  // namespace sluice
