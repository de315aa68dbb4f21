// A second opinion on a quiet segment: who holds which block, counted apart from the audit and more simply.
//
// The model that tests compare with is: the live blocks are exactly those that some active lane's cell or some
// queue's message names, each as often as its count says; everything else can be allocated again.
#pragma once

#include "ipc/lane.hpp"
#include "shm/segment.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sluice::test {

struct Census {
  std::map<std::uint64_t, std::uint64_t> live;        // handle -> count in the truth word
  std::map<std::uint64_t, std::uint64_t> references;  // handle -> cells and messages that name it
  std::uint64_t retired = 0;
  std::uint64_t freeing = 0;
  std::uint64_t storage_units = 0;
  std::vector<std::string> faults;  // what cannot be, e.g. a live word in a free unit

  /// All lines in which this is not the model; empty is good.
  std::vector<std::string> contradictions() const;
};

/// Walk a segment on which nothing runs.
Census take_census(const Segment& segment);

/// How many blocks of `bytes` bytes can be allocated until the lane is refused; all are released again.
std::uint64_t capacity_for(Lane& lane, std::size_t bytes);
/// What that number is where nothing but the queues' storage is in use. For blocks of several units it holds
/// only where that storage leaves no gaps.
std::uint64_t capacity_expected(const Segment& segment, std::size_t bytes);
/// The most units in a row that are nobody's storage.
std::uint64_t longest_stretch(const Segment& segment);

}  // namespace sluice::test
