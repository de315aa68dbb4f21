#include "tests/verify/schedules/touch.hpp"

#include "ipc/message.hpp"
#include "ipc/processes.hpp"
#include "ipc/queue_layout.hpp"

#include <fmt/format.h>

#include <cstddef>

namespace sluice::verify {

Touch touch_of(const Segment& segment, std::uint64_t offset) {
  const auto& geometry = segment.geometry();
  for (std::uint32_t i = region_kinds; i > 0; --i) {
    const auto& region = geometry.regions[i];
    if (region.stride == 0 || offset < region.offset ||
        offset >= region.offset + region.count * region.stride)
      continue;
    const auto within = (offset - region.offset) % region.stride;
    switch (static_cast<RegionKind>(i)) {
      case RegionKind::queues: {
        // The rest is constant while the queue is there.
        const auto at = within & ~std::uint64_t{7};
        return at == offsetof(QueueRow, word) || at == offsetof(QueueRow, producer) ||
                       at == offsetof(QueueRow, consumer) || at == offsetof(QueueRow, tail) ||
                       at == offsetof(QueueRow, head) || at == offsetof(QueueRow, delivered)
                   ? Touch::shared
                   : Touch::own;
      }
      case RegionKind::control:
      case RegionKind::seen:
      case RegionKind::units:
      case RegionKind::remote_bits:
      case RegionKind::truth: return Touch::shared;
      case RegionKind::processes: return within < sizeof(std::uint64_t) ? Touch::shared : Touch::own;
      case RegionKind::lanes:
        return within < offsetof(LaneRow, sequence) || within == offsetof(LaneRow, remote_classes)
                   ? Touch::shared
                   : Touch::own;
      case RegionKind::payload: {
        const auto unit = (offset - region.offset) / unit_bytes;
        const auto word = load(segment.unit(unit).word, acquire);
        const bool is_stamp =
            within % sizeof(Message) == offsetof(Message, stamp);  // it publishes the others
        return is_stamp && unit_word::state(word) == UnitState::storage ? Touch::shared : Touch::own;
      }
      default: return Touch::own;
    }
  }
  return Touch::none;
}

std::string describe_offset(const Segment& segment, std::uint64_t offset) {
  static constexpr const char* names[] = {"",          "header", "identity",    "control", "runtime",
                                          "processes", "lanes",  "seen",        "epochs",  "queues",
                                          "ledgers",   "units",  "remote_bits", "truth",   "payload"};
  const auto& geometry = segment.geometry();
  for (std::uint32_t i = 1; i <= region_kinds; ++i) {
    const auto& region = geometry.regions[i];
    if (region.stride != 0 && offset >= region.offset &&
        offset < region.offset + region.count * region.stride)
      return fmt::format("{}[{}]+{}", names[i], (offset - region.offset) / region.stride,
                         (offset - region.offset) % region.stride);
  }
  return "?";
}

}  // namespace sluice::verify
