#include "ipc/extents.hpp"

#include "shm/crash_point.hpp"

#include <fmt/format.h>

#include <utility>

namespace sluice {

namespace {

// A claim is over with its process's incarnation: recovery moves that on after the last of its lanes.
bool is_current(const Segment& segment, std::uint64_t claim) noexcept {
  const auto row = process_claim::Row::get(claim);
  if (row >= segment.header().process_count) return false;
  const auto word =
      load(process_row(segment, row).word, acquire);  // X1 <- X2 (recover_process): its lanes are done
  return process_word::state(word) != ProcessState::free &&
         process_word::Incarnation::get(word) == process_claim::Incarnation::get(claim);
}

}  // namespace

Expected<QueueId> create_extents(Lane& lane, std::string_view name, std::uint64_t pages) {
  if (pages == 0 || pages > extent_pages_max || pages % extent_group_pages != 0)
    return fail(Status::bad_argument, fmt::format("pages of {}: found {}, expected a multiple of {} up to {}",
                                                  name, pages, extent_group_pages, extent_pages_max));
  return create_queue(lane, name,
                      {.kind = QueueKind::extents,
                       .capacity = static_cast<std::uint32_t>(pages),
                       .slots = pages + pages / extent_group_pages,
                       .slot_bytes = sizeof(std::uint64_t)});
}

std::optional<ExtentSlots> sound_extents(const Segment& segment, const QueueRow& row) noexcept {
  const std::uint64_t pages = load(row.capacity, relaxed);
  if (pages == 0 || pages > extent_pages_max || pages % extent_group_pages != 0) return std::nullopt;
  const auto storage = sound_storage(
      segment, row, {QueueKind::extents, load(row.capacity, relaxed), pages + pages / extent_group_pages, 8});
  if (!storage) return std::nullopt;
  return ExtentSlots{reinterpret_cast<std::uint64_t*>(segment.unit_address(storage->first_unit)), pages,
                     storage->first_unit, storage->unit_count};
}

std::expected<ExtentWriter, Status> ExtentWriter::claim(const Segment& segment, const Membership& process,
                                                        QueueId map) noexcept {
  if (map.index >= segment.header().queue_count || !process.joined())
    return std::unexpected(Status::bad_argument);
  auto& row = queue_row(segment, map.index);
  const auto word = load(row.word, acquire);  // Q2 <- Q1 (create)
  if (queue_word::state(word) != QueueState::ready || queue_word::Era::get(word) != map.era)
    return std::unexpected(Status::stale);
  if (load(row.kind, relaxed) == static_cast<std::uint32_t>(QueueKind::stream))
    return std::unexpected(Status::bad_argument);
  const auto slots = sound_extents(segment, row);
  if (!slots) return std::unexpected(Status::corrupt);
  const auto self = process_claim::make(process.row(), process.incarnation());
  auto found = load(row.writer, acquire);
  if (found != 0 && is_current(segment, found)) return std::unexpected(Status::busy);
  if (!cas(row.writer, found, self, acq_rel)) return std::unexpected(Status::busy);
  crash_point("extents.writer.claimed");  // recovery: the claim ends with the process's incarnation
  ExtentWriter writer;
  writer.row_ = &row;
  writer.slots_ = *slots;
  writer.id_ = map;
  writer.claim_ = self;
  writer.segment_ = &segment;
  return writer;
}

ExtentWriter& ExtentWriter::operator=(ExtentWriter&& other) noexcept {
  if (this == &other) return *this;
  release();
  row_ = std::exchange(other.row_, nullptr);
  slots_ = other.slots_;
  id_ = other.id_;
  claim_ = other.claim_;
  segment_ = other.segment_;
  return *this;
}

void ExtentWriter::release() noexcept {
  if (row_ == nullptr) return;
  if (segment_->is_ours()) {  // a child made by fork does not have the role
    auto self = claim_;
    cas(row_->writer, self, 0, acq_rel);
    crash_point("extents.writer.released");
  }
  row_ = nullptr;
}

// A cell for what is in the slot: void for as long as the slot holds the same. Null if it holds no block.
std::expected<Reference, Status> ExtentWriter::begin(Lane& lane, std::uint64_t position) noexcept {
  const auto old = load(slots_.slots[position], relaxed);
  if (old <= extent_zeroes) return Reference{};
  auto& heap = lane.heap();
  const auto reserved = heap.reserve_cell();
  if (!reserved) return std::unexpected(reserved.error());
  auto& cell = heap.cell(*reserved);
  store(cell.aux, aux(position), sluice::release);
  store(cell.handle, old, sluice::release);
  crash_point("extents.old.announced");  // recovery: the slot holds it, the cell is void
  return Reference{Handle{old}, *reserved};
}

std::expected<Reference, Status> ExtentWriter::put(Lane& lane, std::uint64_t position,
                                                   Reference block) noexcept {
  auto& heap = lane.heap();
  if (position >= slots_.count()) return std::unexpected(Status::bad_argument);
  if (!block || block.cell >= heap.lane().cell_count ||
      load(heap.cell(block.cell).handle, relaxed) != block.handle.value ||
      !is_live(heap.segment(), block.handle))
    return std::unexpected(Status::stale);
  if (load(heap.cell(block.cell).aux, relaxed) != cell_aux::at_rest) return std::unexpected(Status::busy);
  if (load(slots_.slots[position], relaxed) == block.handle.value)
    return std::unexpected(Status::bad_argument);
  const auto old = begin(lane, position);
  if (!old) return old;
  auto& cell = heap.cell(block.cell);
  store(cell.aux, aux(position), sluice::release);
  crash_point("extents.new.announced");  // recovery: the slot does not hold it, the cell does
  store(slots_.slots[position], block.handle.value, sluice::release);  // X3 -> X4 (at): the bytes precede it
  crash_point("extents.put.stored");  // recovery: the slot holds the new one, the other cell the old one
  store(cell.handle, 0, sluice::release);
  crash_point("extents.new.emptied");
  store(cell.aux, cell_aux::at_rest, sluice::release);
  heap.unreserve_cell(block.cell);
  if (*old) store(heap.cell(old->cell).aux, cell_aux::at_rest, sluice::release);
  crash_point("extents.put.done");
  return old;
}

std::expected<Reference, Status> ExtentWriter::take(Lane& lane, std::uint64_t position,
                                                    std::uint64_t leave) noexcept {
  if (position >= slots_.count()) return std::unexpected(Status::bad_argument);
  const auto old = begin(lane, position);
  if (!old) return old;
  store(slots_.slots[position], leave, sluice::release);
  crash_point("extents.take.stored");  // recovery: the cell holds it
  if (*old) store(lane.heap().cell(old->cell).aux, cell_aux::at_rest, sluice::release);
  return old;
}

}  // namespace sluice
