#include "tools/shm-dump/lane_table.hpp"

#include "tools/common/format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

namespace sluice::tools {

namespace {

// A copy of a struct of 64-bit words, each read once.
template <class T>
T read_words(const T& from) noexcept {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(std::uint64_t) == 0);
  T copy;
  const auto* source = reinterpret_cast<const std::uint64_t*>(&from);
  auto* target = reinterpret_cast<std::uint64_t*>(&copy);
  for (std::size_t i = 0; i < sizeof(T) / sizeof(std::uint64_t); ++i) target[i] = load(source[i], relaxed);
  return copy;
}

// The log is open while it carries the row's sequence; on a live lane both move, so they must hold still.
void read_log(const LaneRow& row, LaneEntry& lane) noexcept {
  constexpr int tries = 4;
  for (int i = 0; i < tries; ++i) {
    lane.sequence = load(row.sequence, acquire);
    lane.log = read_words(row.log);
    std::atomic_thread_fence(acquire);
    if (load(row.sequence, relaxed) == lane.sequence && load(row.log.sequence, relaxed) == lane.log.sequence)
      break;
  }
  lane.operation_open = lane.log.sequence == lane.sequence &&
                        lane.log.operation != static_cast<std::uint64_t>(LaneOperation::none);
}

void count_cells(const Segment& segment, LaneEntry& lane) noexcept {
  lane.cells = readable_cells(segment, lane.lane);
  const Cell* cells = segment.ledger(lane.lane);
  for (std::uint64_t i = 0; i < lane.cells; ++i) {
    if (load(cells[i].handle, relaxed) == 0) continue;
    ++lane.cells_used;
    const auto kind = cell_aux::Kind::get(load(cells[i].aux, relaxed));
    if (kind != cell_aux::at_rest && kind != cell_aux::kernel) ++lane.cells_moving;
  }
}

}  // namespace

std::uint64_t readable_cells(const Segment& segment, std::uint64_t lane) noexcept {
  return std::min<std::uint64_t>(load(segment.lane_row(lane).cell_count, acquire),
                                 segment.header().cells_per_lane);
}

std::vector<LaneEntry> read_lane_table(const Segment& segment) {
  std::vector<LaneEntry> table(segment.header().lane_count - 1);
  for (std::uint64_t i = 0; i < table.size(); ++i) {
    auto& lane = table[i];
    lane.lane = i + 1;
    const auto& row = segment.lane_row(lane.lane);
    const auto word = load(row.word, acquire);
    lane.active = lane_word::Active::get(word) != 0;
    lane.incarnation = lane_word::Incarnation::get(word);
    lane.process = lane_word::Process::get(word);
    lane.name = field_text(row.name);
    lane.thread = load(row.thread, relaxed);
    lane.sleeping = lane.active && load(row.doorbell.waiting, relaxed) != 0;
    lane.counters = read_words(row.counters);
    read_log(row, lane);
    count_cells(segment, lane);
  }
  return table;
}

std::string_view to_string(LaneOperation operation) noexcept {
  switch (operation) {
    case LaneOperation::none: return "none";
    case LaneOperation::take_units: return "take_units";
    case LaneOperation::take_run: return "take_run";
    case LaneOperation::free_run: return "free_run";
    case LaneOperation::take_storage: return "take_storage";
    case LaneOperation::clone: return "clone";
    case LaneOperation::drop: return "drop";
  }
  return "invalid";
}

std::string describe_operation(const LaneEntry& lane) {
  if (!lane.operation_open) return "";
  const auto& log = lane.log;
  const auto operation = static_cast<LaneOperation>(log.operation);
  if (operation == LaneOperation::clone || operation == LaneOperation::drop)
    return fmt::format("{}: {}, cell {}", to_string(operation), format_handle(log.handle), log.cell);
  auto text = fmt::format("{}: {} unit{} from {}", to_string(operation), log.count, log.count == 1 ? "" : "s",
                          log.first);
  if (operation == LaneOperation::take_run || operation == LaneOperation::free_run)
    text += fmt::format(", cell {}", log.cell);
  if (operation == LaneOperation::free_run) text += fmt::format(", {}", format_handle(log.handle));
  if (operation == LaneOperation::take_storage) text += fmt::format(", queue {}", log.word);
  return text;
}

std::string lane_title(const std::vector<LaneEntry>& lanes, const std::vector<ProcessEntry>& processes,
                       std::uint64_t lane) {
  if (lane == 0 || lane > lanes.size()) return fmt::format("lane {} (no such lane)", lane);
  const auto& entry = lanes[lane - 1];
  if (!entry.active) return fmt::format("lane {} (free)", lane);
  if (entry.process >= processes.size()) return fmt::format("lane {} (no such process row)", lane);
  const auto& process = processes[entry.process];
  if (process.presence == Presence::free) return fmt::format("lane {} (its process row is free)", lane);
  return fmt::format("lane {} ({}{})", lane, process_name(process),
                     process.presence == Presence::dead ? ", dead" : "");
}

std::string describe_role(const std::vector<LaneEntry>& lanes, const std::vector<ProcessEntry>& processes,
                          std::uint64_t claim) {
  if (claim == 0) return "-";
  const auto lane = lane_claim::Lane::get(claim);
  if (lane != 0 && lane <= lanes.size() && lanes[lane - 1].incarnation != lane_claim::Incarnation::get(claim))
    return fmt::format("lane {} (an earlier holder of it)", lane);
  return lane_title(lanes, processes, lane);
}

}  // namespace sluice::tools
