#include "tests/verify/schedules/touch.hpp"

#include "ipc/broadcast_layout.hpp"
#include "ipc/message.hpp"
#include "ipc/processes.hpp"
#include "ipc/queues.hpp"

#include <fmt/format.h>

#include <cstddef>

namespace sluice::verify {

namespace {

bool is_work_or_broadcast(const QueueRow& row) noexcept {
  const auto kind = static_cast<QueueKind>(load(row.kind, relaxed));
  return kind == QueueKind::work || kind == QueueKind::broadcast;
}

// Who reads beside a publisher that writes has to see that from any of the words; subscribers' rows lie behind the
// messages.
bool is_shared_in_broadcast(const QueueRow& row, std::uint64_t within) noexcept {
  const auto messages = std::uint64_t{row.capacity} * sizeof(Message);
  if (within < messages) return true;
  const auto at = (within - messages) % sizeof(SubscriberRow) & ~std::uint64_t{7};
  return at == offsetof(SubscriberRow, claim) || at == offsetof(SubscriberRow, joins) ||
         at == offsetof(SubscriberRow, cursor) || at == offsetof(SubscriberRow, disconnected);
}

Touch touch_of_storage(const Segment& segment, std::uint64_t unit, std::uint64_t within) noexcept {
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    const auto& row = queue_row(segment, index);
    if (row.first_unit == unit && row.kind == static_cast<std::uint32_t>(QueueKind::broadcast))
      return is_shared_in_broadcast(row, within) ? Touch::shared : Touch::own;
  }
  // A message's stamp publishes its other words.
  return within % sizeof(Message) == offsetof(Message, stamp) ? Touch::shared : Touch::own;
}

}  // namespace

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
                       at == offsetof(QueueRow, head) || at == offsetof(QueueRow, delivered) ||
                       at == offsetof(QueueRow, floor_next) ||
                       (at == offsetof(QueueRow, closed) &&
                        is_work_or_broadcast(queue_row(segment, (offset - region.offset) / region.stride)))
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
        if (unit_word::state(word) != UnitState::storage) return Touch::own;
        return touch_of_storage(segment, unit, within % unit_bytes);
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
