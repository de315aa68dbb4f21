#include "ublk/target.hpp"

namespace sluice {

void TargetQueue::complete(std::uint32_t /*cookie*/, std::int32_t /*result*/,
                           std::uint32_t /*flags*/) noexcept {}

std::uint32_t fingerprint_of(std::string_view text) noexcept {
  std::uint32_t hash = 0x811c9dc5;
  for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x01000193;
  return hash;
}

}  // namespace sluice
