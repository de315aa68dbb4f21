// A lane's operation log: what it is about to do to words that others change too. Fields first, then the
// sequence number, which opens it; it is open while the log's sequence is the lane's. What an open log means
// for each operation is in units.cpp and shared.cpp; docs/recovery.md tells it in words.
//
// Thread safety: the lane's own thread, or the one process that recovers it.
#pragma once

#include "shm/block.hpp"

#include <cstdint>

namespace sluice {

/// Which units an operation covers, and what else it must know about them.
struct LoggedUnits {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t word = 0;
};

/// Open the log of an operation on the block that `cell` holds or is to hold. Returns its sequence number.
inline std::uint64_t open_log(const LaneView& lane, LaneOperation operation, std::uint64_t cell,
                              Handle handle) noexcept {
  auto& log = lane.row->log;
  const auto sequence = load(lane.row->sequence, relaxed);
  store(log.operation, static_cast<std::uint64_t>(operation), relaxed);
  store(log.cell, cell, relaxed);
  store(log.handle, handle.value, relaxed);
  store(log.sequence, sequence, release);  // L1 -> L2 (open_sequence): the fields precede the opening
  return sequence;
}

/// Open the log of an operation on units.
inline std::uint64_t open_log(const LaneView& lane, LaneOperation operation, const LoggedUnits& units,
                              std::uint64_t cell = 0, Handle handle = {}) noexcept {
  auto& log = lane.row->log;
  store(log.first, units.first, relaxed);
  store(log.count, units.count, relaxed);
  store(log.word, units.word, relaxed);
  return open_log(lane, operation, cell, handle);
}

/// Whether an operation is one on the units that its log names.
constexpr bool is_of_units(std::uint64_t operation) noexcept {
  return operation >= static_cast<std::uint64_t>(LaneOperation::take_units) &&
         operation <= static_cast<std::uint64_t>(LaneOperation::take_storage);
}

/// The sequence number of the open operation; 0 if none is open.
inline std::uint64_t open_sequence(const LaneRow& row) noexcept {
  const auto sequence = load(row.log.sequence, acquire);  // L2 <- L1 (open_log)
  return sequence == load(row.sequence, acquire) ? sequence : 0;
}

inline void close_log(const LaneView& lane) noexcept {
  store(lane.row->sequence, load(lane.row->sequence, relaxed) + 1, release);  // all it did precedes the close
  std::atomic_signal_fence(seq_cst);  // and the next operation's fields follow: a kill sees program order
}

}  // namespace sluice
