// The references that one actor holds, with what their blocks must contain.
#pragma once

#include "ipc/lane.hpp"
#include "tests/verify/soak/journal.hpp"

#include <cstdint>
#include <random>
#include <vector>

namespace sluice::verify {

/// Every operation of the heap, on blocks of one lane; each result that cannot be right throws.
class Holdings {
 public:
  /// `most`: references to hold at once.
  Holdings(Lane& lane, ActorJournal& journal, std::uint64_t seed, std::size_t most);

  /// A block with its contents, of one of the sizes that this life uses. false: there is no room.
  bool allocate();
  void release_one();
  void release_all();
  void clone_one();
  /// Make one findable and put its handle on the board.
  void publish_one(Witness& witness);
  /// Look a handle of the board up; it may be that of a block that is long gone.
  void look_up_one(Witness& witness);
  /// Change one in place if nobody else holds it, or move it to another size.
  void rewrite_one();
  /// The same operations with nothing between them: a death among these is a death in the middle of one.
  void churn_references(std::uint64_t times);
  void churn_blocks(std::uint64_t times);
  /// Another reference to some small block, made if need be. Null if there is no room.
  Reference another_small();
  /// Compare the contents of one.
  void check_one();

  /// A reference to send away: the newest, or a clone of one. Null if there is none.
  Reference give();
  void give_back(Reference reference) { keep(reference); }
  void keep(Reference reference);
  /// A new block for a message. Null if there is no room.
  Reference fresh(std::uint64_t seed);
  std::uint64_t bytes_of(Reference reference) const noexcept { return lane_.heap().bytes(reference).size(); }

  /// References, all of them.
  std::size_t count() const noexcept { return held_.size() + (small_ ? 1 : 0); }
  Lane& lane() noexcept { return lane_; }

 private:
  std::size_t pick() { return random_() % held_.size(); }
  void check(Reference reference) const;
  void release(Reference reference);
  std::size_t random_size();
  void let_go_of_some();

  Lane& lane_;
  ActorJournal& journal_;
  std::mt19937_64 random_;
  std::size_t most_;
  std::vector<Reference> held_;
  std::vector<std::size_t> sizes_;
  Reference small_;  // what another_small() clones
};

}  // namespace sluice::verify
