// Size classes: how a requested size becomes a slot size. The list of a segment is in its header; the
// default one is here.
//
// Multiples of 64 bytes, four per doubling; from 4 KiB up multiples of 4 KiB. 24 and 28 KiB are left out:
// a 64 KiB unit holds two slots of them, as it does of 32 KiB. Above 32 KiB a block is a run of units.
#pragma once

#include "shm/header_layout.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace sluice {

inline constexpr std::uint32_t slab_block_bytes_max = 32 * 1024;
inline constexpr std::uint32_t class_granule = 64;

inline constexpr std::array<std::uint32_t, 25> default_class_bytes = {
    64,   128,  192,  256,  320,  384,  448,  512,  640,   768,   896,   1024, 1280,
    1536, 1792, 2048, 2560, 3072, 3584, 4096, 8192, 12288, 16384, 20480, 32768};

/// Slots that a unit cut into `class_bytes` has.
constexpr std::uint32_t slots_in_unit(std::uint32_t class_bytes) noexcept {
  return static_cast<std::uint32_t>(unit_bytes / class_bytes);
}

/// Bands of truth words that the slots of a class need.
constexpr std::uint32_t bands_for(std::uint32_t class_bytes) noexcept {
  return (slots_in_unit(class_bytes) + slots_per_band - 1) / slots_per_band;
}

/// The classes of one segment, with O(1) look-up by size.
class SizeClasses {
 public:
  SizeClasses() = default;

  /// `bytes` strictly ascending multiples of 64, the last one slab_block_bytes_max (validated by the opener).
  SizeClasses(const std::uint32_t* bytes, std::uint32_t count) noexcept : count_(count) {
    std::uint32_t size_class = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      bytes_[i] = bytes[i];
      slots_[i] = static_cast<std::uint16_t>(slots_in_unit(bytes[i]));
    }
    for (std::uint32_t granule = 0; granule < by_granule_.size(); ++granule) {
      while (size_class + 1 < count && bytes_[size_class] < granule * class_granule) ++size_class;
      by_granule_[granule] = static_cast<std::uint8_t>(size_class);
    }
  }

  std::uint32_t count() const noexcept { return count_; }
  std::uint32_t bytes(std::uint32_t size_class) const noexcept { return bytes_[size_class]; }
  std::uint32_t slots(std::uint32_t size_class) const noexcept { return slots_[size_class]; }

  /// The smallest class that holds `bytes`, which is in [1, slab_block_bytes_max].
  std::uint32_t class_of(std::size_t bytes) const noexcept {
    return by_granule_[(bytes + class_granule - 1) / class_granule];
  }

 private:
  std::uint32_t count_ = 0;
  std::array<std::uint32_t, class_count_max> bytes_{};
  std::array<std::uint16_t, class_count_max> slots_{};
  std::array<std::uint8_t, slab_block_bytes_max / class_granule + 1> by_granule_{};
};

}  // namespace sluice
