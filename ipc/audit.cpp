#include "ipc/audit.hpp"

#include "ipc/extents.hpp"
#include "ipc/processes.hpp"
#include "ipc/queues.hpp"
#include "ipc/subscription_audit.hpp"
#include "ipc/work_audit.hpp"
#include "ipc/work_queue.hpp"
#include "shm/block.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <unordered_set>
#include <vector>

namespace sluice {

namespace {

// Keys of findings that are not about a block: far above every handle of a small generation.
constexpr std::uint64_t queue_key = std::uint64_t{1} << 62;
constexpr std::uint64_t lane_key = std::uint64_t{1} << 61;

class Structures final : public ReferenceSource {
 public:
  void visit(const Segment& segment, AuditReport& report,
             const std::function<void(Handle)>& reference) const override {
    std::vector<QueueStorage> storages;
    const WorkClaims claims(segment);
    for (std::uint32_t index = 0; index < segment.header().queue_count; ++index)
      queue(segment, index, report, reference, claims, storages);
    for (LaneId lane = 1; lane < segment.lane_count(); ++lane) check_lane(segment, lane, report);
    for (std::uint64_t row = 0; row < segment.header().process_count; ++row) {
      const auto word = load(process_row(segment, row).word, acquire);
      if (process_word::State::get(word) > static_cast<std::uint64_t>(ProcessState::recovering))
        report.violations.push_back(
            {fmt::format("process row {}: state {}, expected at most 4", row, process_word::State::get(word)),
             lane_key + row});
    }
  }

  bool cell_holds(const Segment& segment, Handle handle, std::uint64_t aux) const override {
    return moving_cell_holds(segment, handle, aux);
  }

  bool owns_storage(const Segment& segment, std::uint32_t unit) const override {
    for (std::uint32_t index = 0; index < segment.header().queue_count; ++index)
      if (storage_published(segment, index, unit)) return true;
    return false;
  }

 private:
  template <class... Args>
  static void violation(AuditReport& report, std::uint64_t key, fmt::format_string<Args...> format,
                        Args&&... args) {
    report.violations.push_back({fmt::format(format, std::forward<Args>(args)...), key});
  }

  // `storages` are those of the queues before this one. Each unit is one queue's at most: else a small file could
  // name one ring thousands of times, and the walk would take as long.
  static void queue(const Segment& segment, std::uint32_t index, AuditReport& report,
                    const std::function<void(Handle)>& reference, const WorkClaims& claims,
                    std::vector<QueueStorage>& storages) {
    const auto& row = queue_row(segment, index);
    const auto word = load(row.word, acquire);
    const auto key = queue_key + index;
    if (queue_word::State::get(word) > static_cast<std::uint64_t>(QueueState::ready))
      return violation(report, key, "queue {}: state {}, expected at most 3", index,
                       queue_word::State::get(word));
    if (queue_word::state(word) != QueueState::ready) return;
    const auto kind = load(row.kind, relaxed);
    const bool is_map = kind == static_cast<std::uint32_t>(QueueKind::extents);
    const bool is_work = kind == static_cast<std::uint32_t>(QueueKind::work);
    if (kind < static_cast<std::uint32_t>(QueueKind::stream) ||
        kind > static_cast<std::uint32_t>(QueueKind::extents))
      return violation(report, key, "queue {}: kind {}, expected 1 to 4", index, kind);
    const auto ring =
        is_map ? StreamRing{} : sound_ring(segment, row, static_cast<QueueKind>(kind)).value_or(StreamRing{});
    const auto map = is_map ? sound_extents(segment, row).value_or(ExtentSlots{}) : ExtentSlots{};
    if (ring.slots == nullptr && map.slots == nullptr)
      return violation(
          report, key, "queue {}: capacity {}, slots of {} bytes in {} units at {}, of {} committed", index,
          load(row.capacity, relaxed), load(row.message_bytes, relaxed), load(row.unit_count, relaxed),
          load(row.first_unit, relaxed), segment.units_committed());
    const auto storage = is_map ? QueueStorage{map.first_unit, map.unit_count}
                                : QueueStorage{ring.first_unit, ring.unit_count};
    if (unit_word::state(load(segment.unit(storage.first_unit).word, acquire)) != UnitState::storage ||
        load(segment.unit(storage.first_unit).run_units, relaxed) != storage.unit_count)
      return violation(report, key, "queue {}: unit {} is not its storage", index, storage.first_unit);
    if (std::ranges::any_of(storages, [&](const QueueStorage& other) {
          return storage.first_unit < other.first_unit + other.unit_count &&
                 other.first_unit < storage.first_unit + storage.unit_count;
        }))
      return violation(report, key, "queue {}: its storage at unit {} is another queue's too", index,
                       storage.first_unit);
    storages.push_back(storage);
    if (is_map)
      extents(segment, index, map, report, reference);
    else if (is_work)
      report.counts.queue_messages += audit_work_queue(
          segment, index, ring, claims,
          [&](std::string what) { report.violations.push_back({std::move(what), key}); }, reference);
    else
      messages(segment, index, ring, claims, report, reference);
  }

  static void extents(const Segment& segment, std::uint32_t index, const ExtentSlots& map,
                      AuditReport& report, const std::function<void(Handle)>& reference) {
    const auto& row = queue_row(segment, index);
    const auto key = queue_key + index;
    if (const auto claim = load(row.writer, acquire);
        claim != 0 && process_claim::Row::get(claim) >= segment.header().process_count)
      violation(report, key, "extents {}: written by process row {}, expected below {}", index,
                process_claim::Row::get(claim), segment.header().process_count);
    if (const auto told = load(row.change_stream, relaxed) & 0xffffffff; told > segment.header().queue_count)
      violation(report, key, "extents {}: told to queue {}, expected below {}", index, told - 1,
                segment.header().queue_count);
    for (std::uint64_t position = 0; position < map.count(); ++position) {
      const auto found = map.at(position);
      if (found == 0) continue;
      if (found == extent_zeroes) {
        if (position >= map.pages)
          violation(report, key, "extents {}: group {} holds {}, which only a page can", index,
                    position - map.pages, found);
        continue;
      }
      ++report.counts.extents;
      reference({found});
      const auto block = find_block(segment, {found});
      const auto expected = position < map.pages ? extent_page_bytes : extent_page_bytes * extent_group_pages;
      if (block && block->bytes != expected)
        violation(report, key, "extents {}: position {} holds a block of {} bytes, expected {}", index,
                  position, block->bytes, expected);
    }
  }

  // A claim names a lane, as long as its incarnation is not over.
  static void check_claim(const Segment& segment, const std::uint64_t& word, AuditReport& report,
                          std::uint64_t key, fmt::format_string<std::uint32_t&, std::uint64_t&> who,
                          std::uint32_t index) {
    const auto claim = load(word, acquire);
    if (claim == 0) return;
    auto lane = lane_claim::Lane::get(claim);
    const bool sound = lane != 0 && lane < segment.header().lane_count;
    const auto lane_now = sound ? load(segment.lane_row(lane).word, acquire) : 0;
    if (!sound || lane_word::Active::get(lane_now) == 0 ||
        lane_word::Incarnation::get(lane_now) != lane_claim::Incarnation::get(claim))
      violation(report, key, "{} in an incarnation that is over", fmt::format(who, index, lane));
  }

  static void subscribers(const Segment& segment, std::uint32_t index, const StreamRing& ring,
                          AuditReport& report) {
    const auto& row = queue_row(segment, index);
    const auto key = queue_key + index;
    const auto floor = load(row.head, acquire);
    const auto announced = load(row.floor_next, acquire);
    if (const auto tail = pushed_messages(ring, row); announced < floor || announced > tail)
      violation(report, key, "broadcast {}: floor {}, to be raised to {}, tail {}", index, floor, announced,
                tail);
    audit_subscribers(segment, index, ring,
                      [&](std::string what) { report.violations.push_back({std::move(what), key}); });
  }

  static void messages(const Segment& segment, std::uint32_t index, const StreamRing& ring,
                       const WorkClaims& claims, AuditReport& report,
                       const std::function<void(Handle)>& reference) {
    const auto& row = queue_row(segment, index);
    const auto key = queue_key + index;
    check_claim(segment, row.producer, report, key, "queue {}: its producer is lane {}", index);
    check_claim(segment, row.consumer, report, key, "queue {}: its consumer is lane {}", index);
    if (load(row.kind, relaxed) == static_cast<std::uint32_t>(QueueKind::broadcast))
      subscribers(segment, index, ring, report);
    const auto head = load(row.head, acquire);
    const auto tail = pushed_messages(ring, row);
    if (tail < head || tail - head > ring.capacity)
      return violation(report, key, "queue {}: head {}, tail {}, capacity {}", index, head, tail,
                       ring.capacity);
    if (const auto delivered = load(row.delivered, acquire); delivered > pushed_messages(ring, row))
      violation(report, key, "queue {}: {} delivered of {} pushed", index, delivered, tail);
    report.counts.queue_messages += tail - head;
    const auto consumer = lane_claim::Lane::get(load(row.consumer, acquire));
    for (auto position = head; position < tail; ++position) {
      // Read once: a live producer may be filling the slot again by now.
      const auto& slot = ring.at(position);
      const Handle handle{load(slot.handle, relaxed)};
      if (handle && !claims.has_moved_on(index, position, static_cast<LaneId>(consumer))) reference(handle);
    }
  }

  static void check_lane(const Segment& segment, LaneId id, AuditReport& report) {
    const auto& row = segment.lane_row(id);
    const auto word = load(row.word, acquire);
    const auto key = lane_key + (std::uint64_t{1} << 32) + id;
    if (const auto operation = load(row.log.operation, relaxed); operation > lane_operation_max)
      violation(report, key, "lane {}: logged operation {}, expected at most {}", id, operation,
                lane_operation_max);
    if (lane_word::Active::get(word) == 0) return;
    const auto process = lane_word::Process::get(word);
    if (process >= segment.header().process_count)
      return violation(report, key, "lane {}: owned by process row {}, expected below {}", id, process,
                       segment.header().process_count);
    if (process_word::state(load(process_row(segment, process).word, acquire)) == ProcessState::free)
      violation(report, key, "lane {}: active, but its process row {} is free", id, process);
  }
};

}  // namespace

AuditReport audit(const Segment& segment) {
  const Structures structures;
  return audit_heap(segment, &structures);
}

AuditReport audit_settled(const Segment& segment, unsigned walks, std::chrono::milliseconds pause) {
  auto report = audit(segment);
  for (unsigned walk = 1; walk < walks && !report.violations.empty(); ++walk) {
    std::this_thread::sleep_for(pause);
    std::unordered_set<std::uint64_t> before;
    for (const auto& violation : report.violations) before.insert(violation.key);
    report = audit(segment);
    std::erase_if(report.violations,
                  [&](const Violation& violation) { return !before.contains(violation.key); });
  }
  return report;
}

}  // namespace sluice
