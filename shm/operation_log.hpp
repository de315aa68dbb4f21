// A lane's operation log: what it is about to do to words that others change too. Fields first, then the
// sequence number, which opens it; it is open while the log's sequence is the lane's. What an open log means
// for each operation is in units.cpp and shared.cpp; docs/recovery.md tells it in words.
//
// Thread safety: the lane's own thread, or the one process that recovers it.
#pragma once

#include "shm/block.hpp"

#include <cstdint>

namespace sluice {

struct LogFields {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t cell = 0;
  std::uint64_t handle = 0;
  std::uint64_t word = 0;
};

/// Open the log. Returns the sequence number of the operation.
inline std::uint64_t open_log(const LaneView& lane, LaneOperation operation,
                              const LogFields& fields) noexcept {
  auto& log = lane.row->log;
  const auto sequence = load(lane.row->sequence, relaxed);
  store(log.operation, static_cast<std::uint64_t>(operation), relaxed);
  store(log.first, fields.first, relaxed);
  store(log.count, fields.count, relaxed);
  store(log.cell, fields.cell, relaxed);
  store(log.handle, fields.handle, relaxed);
  store(log.word, fields.word, relaxed);
  store(log.sequence, sequence, release);  // L1 -> L2 (open_sequence): the fields precede the opening
  return sequence;
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
