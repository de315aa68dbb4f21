#include "tests/verify/instructions/judge.hpp"

#include "tests/support/census.hpp"

#include <fmt/format.h>

#include <exception>

namespace sluice::verify {

Judge::Judge(const Operation& operation, test::Survivor& survivor)
    : operation_(operation), survivor_(survivor), before_(positions_in(survivor.segment())), last_(before_) {}

Positions Judge::positions_in(const Segment& segment) const {
  const auto& row = queue_row(segment, survivor_.stream.index);
  return {pushed_messages(segment, row), load(row.head, acquire), operation_.happened(segment)};
}

// Each end is where it was or one further, and once it was seen further it stays there: the operation happens
// at one instruction.
void Judge::check_positions(const Segment& segment, Complaints& complaints) {
  const auto now = positions_in(segment);
  const auto check = [&](std::string_view what, std::uint64_t found, std::uint64_t last, std::uint64_t most) {
    if (found < last || found > most)
      complaints.push_back(fmt::format("{} is {}, expected {} to {}", what, found, last, most));
  };
  check("tail", now.tail, last_.tail, before_.tail + operation_.pushes);
  check("head", now.head, last_.head, before_.head + operation_.pops);
  check("what has happened", now.happened, last_.happened, before_.happened + operation_.happens);
  last_ = now;
}

// No row and no lane is left to anybody but who recovered.
void Judge::check_tables(const Session& session, Complaints& complaints) const {
  const auto& segment = session.segment();
  for (std::uint64_t row = 0; row < segment.header().process_count; ++row)
    if (row != session.membership().row() &&
        process_word::state(load(process_row(segment, row).word, acquire)) != ProcessState::free)
      complaints.push_back(fmt::format("process row {} is not free", row));
  for (LaneId lane = 1; lane < segment.lane_count(); ++lane) {
    const auto word = load(segment.lane_row(lane).word, acquire);
    if (lane_word::Active::get(word) != 0 && lane_word::Process::get(word) != session.membership().row())
      complaints.push_back(fmt::format("lane {} is still claimed", lane));
  }
}

void Judge::check_rest(Session& session, Lane& lane, Complaints& complaints) const {
  operation_.check({session, lane, complaints});
  test::check_drained(lane, survivor_.stream, complaints);
  test::check_all_bytes_usable(lane, complaints);
  test::check_sound(session.segment(), complaints);
}

Complaints Judge::judge_copy(const std::string& path) try {
  Complaints complaints;
  auto session = must(Session::open(path, "recoverer"));
  const auto& segment = session.segment();
  test::check_nothing_left_to_recover(session, complaints);
  test::check_sound(segment, complaints);
  check_tables(session, complaints);
  check_positions(segment, complaints);
  const auto live = test::take_census(segment).live.size();
  const auto expected = test::count_blocks_in_queues(segment);
  if (live != expected)
    complaints.push_back(fmt::format("{} blocks are live, {} are in the stream or in maps", live, expected));
  const auto lane = must(session.claim_lane({.cells = 256}));
  check_rest(session, *lane, complaints);
  return complaints;
} catch (const std::exception& error) {
  return {error.what()};
}

Complaints Judge::judge_alive() try {
  Complaints complaints;
  auto& session = survivor_.session;
  for (const auto& line : session.recover_dead().disagreements) complaints.push_back("disagreement: " + line);
  test::check_nothing_left_to_recover(session, complaints);
  test::check_sound(session.segment(), complaints);
  check_tables(session, complaints);
  check_positions(session.segment(), complaints);
  const auto elsewhere = test::count_blocks_in_queues(session.segment());
  test::check_live(survivor_, elsewhere, complaints);
  for (const auto& [reference, seed] : survivor_.kept) must(survivor_.lane->heap().release(reference));
  survivor_.kept.clear();
  check_rest(session, *survivor_.lane, complaints);
  return complaints;
} catch (const std::exception& error) {
  return {error.what()};
}

Complaints Judge::judge_completed() const {
  const auto now = positions_in(survivor_.segment());
  Complaints complaints;
  if (now.tail != before_.tail + operation_.pushes || now.head != before_.head + operation_.pops)
    complaints.push_back(fmt::format("it returned at tail {}, head {}, expected {}, {}", now.tail, now.head,
                                     before_.tail + operation_.pushes, before_.head + operation_.pops));
  if (now.happened != before_.happened + operation_.happens)
    complaints.emplace_back("it returned, and has not happened");
  return complaints;
}

}  // namespace sluice::verify
