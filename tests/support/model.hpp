// The model that a recovered segment is compared with, in steps. Each adds a line for everything that is not as
// the model says; no line is good. No test macro is used, so that verification programs share it.
#pragma once

#include "ipc/lane.hpp"
#include "ipc/queues.hpp"
#include "runtime/session.hpp"
#include "tests/support/survivor.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::test {

using Complaints = std::vector<std::string>;

/// The audit and the census find nothing.
void check_sound(const Segment& segment, Complaints& complaints);

/// Recovering once more finds nothing to do.
void check_nothing_left_to_recover(Session& session, Complaints& complaints);

/// Messages in the stream that carry a block.
std::uint64_t count_blocks_in_stream(const Segment& segment, QueueId stream);

/// Blocks in all streams and extent maps, each once.
std::uint64_t count_blocks_in_queues(const Segment& segment);

/// The survivor's blocks have their bytes; they and `blocks_elsewhere` others are all that is live.
void check_live(Survivor& survivor, std::uint64_t blocks_elsewhere, Complaints& complaints);

/// Take over as consumer: each number from head to tail is there once, in order, with its bytes.
void check_drained(Lane& lane, QueueId stream, Complaints& complaints);

/// Nothing but queues' storage is in use: everything else can be allocated, in small blocks and in runs, and is
/// free afterwards. The lane has enough cells, or the size is left out.
void check_all_bytes_usable(Lane& lane, Complaints& complaints);

}  // namespace sluice::test
