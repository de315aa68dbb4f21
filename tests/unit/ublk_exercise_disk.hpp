// What a device's bytes may be: the plain array that ublk_exercise compares with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::test {

/// A byte is known, or one of two: what a write that failed has left is the old or the new. What was read is known.
class DiskModel {
 public:
  explicit DiskModel(std::span<const std::byte> content) : bytes_(content.size()) {
    for (std::size_t i = 0; i < content.size(); ++i) bytes_[i] = {content[i], content[i], false};
  }

  void written(std::size_t at, std::span<const std::byte> data) {
    for (std::size_t i = 0; i < data.size(); ++i) bytes_[at + i] = {data[i], data[i], false};
  }
  void perhaps_written(std::size_t at, std::span<const std::byte> data) {
    for (std::size_t i = 0; i < data.size(); ++i) {
      auto& byte = bytes_[at + i];
      byte.any = byte.any || (byte.one != byte.other && data[i] != byte.one && data[i] != byte.other);
      if (byte.one == byte.other) byte.other = data[i];
    }
  }
  /// Whether these bytes can be what is there; if so they are from now on.
  bool can_be(std::size_t at, std::span<const std::byte> data) {
    for (std::size_t i = 0; i < data.size(); ++i) {
      auto& byte = bytes_[at + i];
      if (!byte.any && data[i] != byte.one && data[i] != byte.other) return false;
      byte = {data[i], data[i], false};
    }
    return true;
  }

 private:
  struct Byte {
    std::byte one, other;
    bool any;  // three failed writes: not told apart
  };
  std::vector<Byte> bytes_;
};

}  // namespace sluice::test
