// A handle names a block and the generation it was allocated in. It is a value: valid in every process,
// at any mapping address, and refused once its generation is over.
#pragma once

#include <compare>
#include <cstdint>

namespace sluice {

/// generation | unit | slot:10, from the high bits down; 0 is null. The split is the segment's (HandleSplit).
struct Handle {
  std::uint64_t value = 0;

  constexpr explicit operator bool() const noexcept { return value != 0; }
  constexpr auto operator<=>(const Handle&) const noexcept = default;
};

inline constexpr unsigned slot_bits = 10;
inline constexpr unsigned generation_bits_max = 40;

/// How a segment divides a handle: unit takes log2(maximum units) bits, generation the rest, at most 40.
struct HandleSplit {
  unsigned unit_bits = 0;
  unsigned generation_bits = 0;

  static constexpr HandleSplit for_units(std::uint64_t units_max) noexcept {
    unsigned unit_bits = 1;
    while ((std::uint64_t{1} << unit_bits) < units_max) ++unit_bits;
    const unsigned rest = 64 - slot_bits - unit_bits;
    return {unit_bits, rest < generation_bits_max ? rest : generation_bits_max};
  }

  constexpr std::uint64_t generation_max() const noexcept {
    return (std::uint64_t{1} << generation_bits) - 1;
  }
  constexpr Handle make(std::uint64_t generation, std::uint64_t unit, std::uint64_t slot) const noexcept {
    return {(generation << (slot_bits + unit_bits)) | (unit << slot_bits) | slot};
  }
  constexpr std::uint32_t slot(Handle handle) const noexcept {
    return static_cast<std::uint32_t>(handle.value & ((1U << slot_bits) - 1));
  }
  constexpr std::uint32_t unit(Handle handle) const noexcept {
    return static_cast<std::uint32_t>((handle.value >> slot_bits) & ((std::uint64_t{1} << unit_bits) - 1));
  }
  constexpr std::uint64_t generation(Handle handle) const noexcept {
    return handle.value >> (slot_bits + unit_bits);
  }
  constexpr bool operator==(const HandleSplit&) const noexcept = default;
};

}  // namespace sluice
