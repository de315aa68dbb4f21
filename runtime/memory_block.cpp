#include "runtime/memory_block.hpp"

namespace sluice {

std::expected<MemoryBlock, Status> MemoryBlock::allocate(Lane& lane, std::size_t bytes) noexcept {
  const auto reference = lane.heap().allocate(bytes);
  if (!reference) return std::unexpected(reference.error());
  return MemoryBlock(lane, *reference, 0, bytes);
}

MemoryBlock::MemoryBlock(Lane& lane, Reference reference, std::size_t offset, std::size_t length) noexcept
    : lane_(&lane), reference_(reference), offset_(offset) {
  const auto all = lane.heap().bytes(reference);
  if (offset <= all.size() && length <= all.size() - offset) bytes_ = all.subspan(offset, length);
}

MemoryBlock& MemoryBlock::operator=(MemoryBlock&& other) noexcept {
  if (this == &other) return *this;
  reset();
  lane_ = other.lane_;
  offset_ = other.offset_;
  bytes_ = std::exchange(other.bytes_, {});
  reference_ = std::exchange(other.reference_, {});
  return *this;
}

Reference MemoryBlock::detach() noexcept {
  bytes_ = {};
  return std::exchange(reference_, {});
}

void MemoryBlock::reset() noexcept {
  if (!reference_ || !lane_->is_ours()) return;  // in a forked child these are the parent's
  [[maybe_unused]] const auto status = lane_->heap().release(detach());
}

}  // namespace sluice
