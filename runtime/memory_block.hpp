// A block that a program owns: released when this goes away, unless it was published.
#pragma once

#include "ipc/lane.hpp"

#include <cstddef>
#include <expected>
#include <span>
#include <type_traits>
#include <utility>

namespace sluice {

/// What may lie in a block as it is: bytes that mean the same in every process.
template <class T>
concept Plain = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> && alignof(T) <= 64;

class MemoryBlock {
 public:
  MemoryBlock() = default;
  /// errors  exhausted, no_cell, too_large, bad_argument  as Heap::allocate
  static std::expected<MemoryBlock, Status> allocate(Lane& lane, std::size_t bytes) noexcept;
  /// Take over a reference that the lane holds; the block's bytes [offset, offset + length) are shown.
  MemoryBlock(Lane& lane, Reference reference, std::size_t offset, std::size_t length) noexcept;
  MemoryBlock(MemoryBlock&& other) noexcept { *this = std::move(other); }
  MemoryBlock& operator=(MemoryBlock&& other) noexcept;
  ~MemoryBlock() { reset(); }

  /// Its bytes: those asked for, 64-byte aligned from the block's start, not zeroed.
  std::span<std::byte> bytes() const noexcept { return bytes_; }
  std::size_t size() const noexcept { return bytes_.size(); }
  std::size_t offset() const noexcept { return offset_; }
  /// The bytes as a value. The block has sizeof(T) of them.
  template <Plain T>
  T& as() const noexcept {
    return *reinterpret_cast<T*>(bytes_.data());
  }

  Lane& lane() const noexcept { return *lane_; }
  Reference reference() const noexcept { return reference_; }
  /// Give the reference out of hand: the caller pushes or releases it.
  Reference detach() noexcept;
  /// Release it now.
  void reset() noexcept;
  explicit operator bool() const noexcept { return bool(reference_); }

 private:
  Lane* lane_ = nullptr;
  Reference reference_;
  std::size_t offset_ = 0;
  std::span<std::byte> bytes_;
};

}  // namespace sluice
