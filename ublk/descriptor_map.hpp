// The descriptors of one queue: what the driver wants of its server, one for each tag, mapped read-only.
//
// Thread safety: reading from any thread; a descriptor is the server's from its tag's event to its commit.
#pragma once

#include "shm/status.hpp"
#include "ublk/ublk_abi.hpp"

#include <cstdint>
#include <optional>

namespace sluice {

class DescriptorMap {
 public:
  /// Map the descriptors of `queue`, of `depth` tags, of the character device `fd`.
  /// errors  io_error  "map the descriptors of queue 3: …"
  static Expected<DescriptorMap> open(int fd, std::uint16_t queue, std::uint16_t depth);
  DescriptorMap(DescriptorMap&& other) noexcept;
  DescriptorMap& operator=(DescriptorMap&&) = delete;
  ~DescriptorMap();

  /// A copy, because the driver may write to it once the tag was committed. nullopt: no such tag.
  std::optional<ublk_abi::Descriptor> read(std::uint16_t tag) const noexcept;

  /// Where the queue's descriptors begin in the device, and how long the mapping must be: any other length is
  /// refused, and any other offset maps another queue.
  static std::uint64_t position(std::uint16_t queue) noexcept { return queue * ublk_abi::descriptor_stride; }
  static std::size_t bytes(std::uint16_t depth) noexcept;

 private:
  DescriptorMap() = default;

  const ublk_abi::Descriptor* first_ = nullptr;
  std::uint16_t depth_ = 0;
};

}  // namespace sluice
