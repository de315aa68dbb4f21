// Recovers a state and says what is not as the model has it.
#pragma once

#include "tests/verify/instructions/image.hpp"
#include "tests/verify/instructions/operation.hpp"

#include <cstdint>
#include <string>

namespace sluice::verify {

/// How far things are: messages ever pushed into the stream, and ever taken; what else has happened.
struct Positions {
  std::uint64_t tail = 0, head = 0, happened = 0;
};

class Judge {
 public:
  /// The operation begins now: what the stream holds is where it starts from.
  Judge(const Operation& operation, test::Survivor& survivor);

  /// A copied file, in which everybody is dead: recover all, compare, use up all of it.
  Complaints judge_copy(const std::string& path);
  /// The survivor's own segment: recover the dead, compare with what the survivor holds, use up all of it.
  Complaints judge_alive();
  /// What an operation that was not killed must have done.
  Complaints judge_completed() const;

 private:
  Positions positions_in(const Segment& segment) const;
  void check_positions(const Segment& segment, Complaints& complaints);
  void check_tables(const Session& session, Complaints& complaints) const;
  void check_rest(Session& session, Lane& lane, Complaints& complaints) const;

  const Operation& operation_;
  test::Survivor& survivor_;
  Positions before_;
  Positions last_;  // of the last state that was judged: they only grow
};

}  // namespace sluice::verify
