// What must be true of work queues and broadcasts when nothing moves.
#pragma once

#include "tests/support/census.hpp"
#include "tests/verify/soak/checker.hpp"

namespace sluice::verify {

/// Nobody is there: each stands where the witness says and passes messages on. `is_thorough`: everything is taken, and
/// every message is accounted for.
void check_work(Lane& lane, Witness& witness, bool is_thorough, Complaints& complaints);
void check_broadcasts(Lane& lane, Witness& witness, bool is_thorough, Complaints& complaints);

/// Somebody may hold leases: count them in the census, which knows of none.
std::uint64_t count_leases_in(const Segment& segment, test::Census& census);
/// Blocks that queues of all kinds hold, each as often.
std::uint64_t blocks_in_queues(const Segment& segment);

}  // namespace sluice::verify
