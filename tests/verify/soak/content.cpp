#include "tests/verify/soak/content.hpp"

#include "tests/verify/soak/journal.hpp"

#include <algorithm>
#include <cstring>

namespace sluice::verify {

namespace {

constexpr std::size_t line_bytes = 64;

struct Label {
  std::uint64_t handle;
  std::uint64_t seed;
  std::uint64_t check;
};

}  // namespace

void write_block(std::span<std::byte> bytes, Handle handle, std::uint64_t seed) noexcept {
  const auto key = mix(handle.value, seed);
  const Label label{handle.value, seed, key};
  std::memcpy(bytes.data(), &label, sizeof label);
  for (std::size_t at = line_bytes; at + sizeof key <= bytes.size(); at += line_bytes) {
    const auto word = key + at;
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
}

std::optional<std::uint64_t> read_block(std::span<const std::byte> bytes, Handle handle,
                                        std::size_t bytes_max) noexcept {
  Label label{};
  if (bytes.size() < line_bytes) return std::nullopt;
  std::memcpy(&label, bytes.data(), sizeof label);
  const auto key = mix(handle.value, label.seed);
  if (label.handle != handle.value || label.check != key) return std::nullopt;
  const auto end = std::min(bytes.size(), bytes_max);
  for (std::size_t at = line_bytes; at + sizeof key <= end; at += line_bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if (word != key + at) return std::nullopt;
  }
  return label.seed;
}

}  // namespace sluice::verify
