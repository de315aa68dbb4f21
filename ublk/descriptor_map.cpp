#include "ublk/descriptor_map.hpp"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace sluice {

std::size_t DescriptorMap::bytes(std::uint16_t depth) noexcept {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return (depth * sizeof(ublk_abi::Descriptor) + page - 1) / page * page;
}

Expected<DescriptorMap> DescriptorMap::open(int fd, std::uint16_t queue, std::uint16_t depth) {
  void* mapped = ::mmap(nullptr, bytes(depth), PROT_READ, MAP_SHARED | MAP_POPULATE, fd,
                        static_cast<off_t>(position(queue)));
  if (mapped == MAP_FAILED) return fail_errno(fmt::format("map the descriptors of queue {}", queue));
  DescriptorMap map;
  map.first_ = static_cast<const ublk_abi::Descriptor*>(mapped);
  map.depth_ = depth;
  return map;
}

DescriptorMap::DescriptorMap(DescriptorMap&& other) noexcept
    : first_(std::exchange(other.first_, nullptr)), depth_(std::exchange(other.depth_, std::uint16_t{0})) {}

DescriptorMap::~DescriptorMap() {
  if (first_ != nullptr) ::munmap(const_cast<ublk_abi::Descriptor*>(first_), bytes(depth_));
}

std::optional<ublk_abi::Descriptor> DescriptorMap::read(std::uint16_t tag) const noexcept {
  if (tag >= depth_) return std::nullopt;
  ublk_abi::Descriptor copy;
  std::memcpy(&copy, first_ + tag, sizeof copy);
  return copy;
}

}  // namespace sluice
