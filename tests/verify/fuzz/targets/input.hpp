// A fuzzer's input, read from the front. What is not there any more is zero: every input means something.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

namespace sluice::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t bytes) : rest_(data, bytes) {}

  template <class T>
    requires std::is_trivially_copyable_v<T>
  T take() noexcept {
    T value{};
    const auto bytes = std::min(sizeof value, rest_.size());
    std::memcpy(&value, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return value;
  }
  /// A number in [0, below).
  std::uint32_t below(std::uint32_t below) noexcept { return take<std::uint8_t>() % below; }
  std::span<const std::uint8_t> take_rest() noexcept { return std::exchange(rest_, {}); }
  bool empty() const noexcept { return rest_.empty(); }

 private:
  std::span<const std::uint8_t> rest_;
};

}  // namespace sluice::fuzz
