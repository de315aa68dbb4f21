#include "tools/shm-dump/holders.hpp"

#include "tools/shm-dump/lane_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

HolderIndex HolderIndex::read(const Segment& segment, const std::vector<QueueEntry>& queues) {
  HolderIndex index;
  auto& holders = index.holders_;
  for (std::uint32_t lane = 1; lane < segment.header().lane_count; ++lane) {
    const auto cells = readable_cells(segment, lane);
    const Cell* ledger = segment.ledger(lane);
    for (std::uint64_t cell = 0; cell < cells; ++cell) {
      const auto handle = load(ledger[cell].handle, acquire);
      if (handle == 0) continue;
      const auto kind = cell_aux::Kind::get(load(ledger[cell].aux, relaxed));
      holders.push_back({handle, cell, lane, false, static_cast<std::uint8_t>(kind), 0});
    }
  }
  visit_blocks(segment, queues, [&](const QueueEntry& queue, const QueuedBlock& block) {
    holders.push_back({block.handle, block.position, static_cast<std::uint32_t>(queue.index), true, 0,
                       static_cast<std::uint32_t>(block.lane)});
  });
  std::ranges::stable_sort(holders, {}, &Holder::handle);
  return index;
}

std::span<const Holder> HolderIndex::of(Handle handle) const noexcept {
  const auto range = std::ranges::equal_range(holders_, handle.value, {}, &Holder::handle);
  return {range.begin(), range.end()};
}

std::string describe_holder(const Holder& holder, const std::vector<QueueEntry>& queues) {
  if (!holder.in_queue) {
    auto text = fmt::format("lane {} cell {}", holder.owner, holder.place);
    if (holder.moving != cell_aux::at_rest) text += fmt::format(" ({})", moving_name(holder.moving));
    return text;
  }
  const auto queue = std::ranges::find(queues, holder.owner, &QueueEntry::index);
  auto text = fmt::format("queue {} @{}", queue == queues.end() ? std::to_string(holder.owner) : queue->name,
                          holder.place);
  if (holder.leased_by != 0) text += fmt::format(" (leased by lane {})", holder.leased_by);
  return text;
}

std::string_view moving_name(std::uint64_t aux_kind) noexcept {
  switch (aux_kind) {
    case cell_aux::at_rest: return "at rest";
    case cell_aux::push: return "push";
    case cell_aux::pop: return "pop";
    case cell_aux::kernel: return "kernel";
    case cell_aux::extent: return "exchange";
    case cell_aux::claim:
    case cell_aux::publish: return "push";
    case cell_aux::acknowledge: return "done";
    case cell_aux::lease:
    case cell_aux::forward:
    case cell_aux::forwarded: return "lease";
    default: return "invalid";
  }
}

}  // namespace sluice::tools
