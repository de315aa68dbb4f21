// The model of a schedule: who holds which block, what is in the streams. It lives in memory that the driver shares
// with the actors, and is changed only where no actor is stepped, so each change is whole.
#pragma once

#include "ipc/queues.hpp"
#include "tests/support/model.hpp"
#include "tests/verify/schedules/plan.hpp"
#include "tests/verify/schedules/queue_models.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace sluice::verify {

enum class ActorState : std::uint8_t { none, running, finished, dead };

/// What an actor is in the middle of; so that a death there can be decided.
struct Doing {
  char what[40] = {};
  Act act = Act::flush;
  std::uint32_t stream = 0;
  std::uint64_t position = 0;
  std::uint64_t handle = 0;
};

struct ActorRow {
  ActorState state = ActorState::none;
  std::uint64_t base = 0;                // where it has mapped the segment
  std::array<std::uint16_t, 2> lanes{};  // that it has
  Doing doing;
};

/// One block that somebody holds. References are counted where the model has them; the sum is what the truth word
/// counts, once nobody is inside an operation.
struct Holding {
  std::uint64_t handle = 0;
  std::uint64_t begin = 0, bytes = 0;           // in the payload
  bool findable = false, may_be_found = false;  // make_findable has returned; has begun
  std::uint32_t gaps = 0;                       // how often nobody was sure to hold it
  std::array<std::int32_t, actors_max> by_actor{};
  std::array<std::int32_t, streams_max> by_stream{};
  std::int32_t by_work = 0;  // in work queues, but for those that drop
  std::int32_t by_broadcast = 0;

  std::int64_t total() const noexcept;
};

/// One stream: what was ever pushed, by number, and how far its ends are known to be.
struct StreamModel {
  QueueId id;
  std::uint64_t pushed = 0, popped = 0, shown = 0;
  std::array<std::uint64_t, 64> handles{};  // of message number % 64
};

class Board {
 public:
  /// A reference more; a block that is new is compared with all that others hold.
  void add(std::size_t actor, std::uint64_t handle, std::uint64_t begin, std::uint64_t bytes);
  /// A reference that the actor is about to give up.
  void remove(std::size_t actor, std::uint64_t handle);
  void push_done(std::size_t actor, std::uint32_t stream, std::uint64_t handle);
  /// A reference that a stream is about to lose to whoever frees it at once.
  void unqueue(std::uint32_t stream, std::uint64_t handle);
  void pop_done(std::size_t actor, std::uint32_t stream, std::uint64_t handle);
  Holding* find(std::uint64_t handle) noexcept;
  /// The same, or a new one. Who takes the last reference away says so by settle().
  Holding& change(std::uint64_t handle);
  static void settle(Holding& holding) noexcept {
    if (holding.total() <= 0) ++holding.gaps;
  }

  /// The actor was killed where it stands: what it held is nobody's for certain, what it moved is where the truth
  /// in the segment says.
  void died(std::size_t actor, const Segment& segment);

  /// The first failure stays.
  void fail(std::string_view what) noexcept;
  bool failed() const noexcept { return failure[0] != '\0'; }

  std::array<ActorRow, actors_max> actors;
  std::array<StreamModel, streams_max> streams;
  WorkModel work;
  BroadcastModel broadcast;
  std::array<std::uint64_t, posts_max> posted{};
  std::array<Holding, 512> holdings;
  std::uint32_t deaths = 0;
  char failure[512] = {};
};

/// Bytes that tell the block they are in. Not all of a block: they are to cost few instructions.
void mark_block(std::span<std::byte> bytes, std::uint64_t handle) noexcept;
bool is_marked(std::span<const std::byte> bytes, std::uint64_t handle) noexcept;
/// The first bytes only, which a smaller or larger copy has kept.
bool begins_marked(std::span<const std::byte> bytes, std::uint64_t handle) noexcept;

/// Nobody is inside an operation and all dead are recovered: every truth word counts what the model does.
void check_holdings(Board& board, const Segment& segment, test::Complaints& complaints);

/// The same moment: no living owner of a slab waits for a block that was given up, and that nobody will tell it of.
void check_owners_told(const Segment& segment, test::Complaints& complaints);

}  // namespace sluice::verify
