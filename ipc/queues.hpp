// The directory of named queues: create, find, list. What a queue does is in the file of its kind.
#pragma once

#include "ipc/broadcast_layout.hpp"
#include "ipc/lane.hpp"
#include "ipc/queue_layout.hpp"

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace sluice {

/// A queue by its place in the directory, and the era that the place is in.
struct QueueId {
  std::uint32_t index = 0;
  std::uint32_t era = 0;
  bool operator==(const QueueId&) const noexcept = default;
};

/// A queue as a word of another row names it: its place + 1, era:32 above; 0 is none.
constexpr std::uint64_t packed(QueueId queue) noexcept {
  return std::uint64_t{queue.era} << 32 | (queue.index + 1);
}
constexpr QueueId unpacked(std::uint64_t word) noexcept {
  return {static_cast<std::uint32_t>(word) - 1, static_cast<std::uint32_t>(word >> 32)};
}

/// "a stream", "a work queue": for sentences.
std::string_view kind_name(QueueKind kind) noexcept;

/// What it is called, as far as the row has one.
std::string_view queue_name(const QueueRow& row) noexcept;

QueueRow& queue_row(const Segment& segment, std::uint64_t index) noexcept;

/// What a queue's storage is cut into.
struct QueueShape {
  QueueKind kind = QueueKind::none;
  std::uint32_t capacity = 0;  // as the row says it
  std::uint64_t slots = 0;     // how many there are
  std::uint32_t slot_bytes = 0;
  QueuePolicy policy = QueuePolicy::block;
  std::uint32_t deliveries_max = 0;
  std::uint64_t dead_letter = 0;
  std::uint32_t subscribers_max = 0;
};

/// Create a queue of any kind; its storage is zeroes. The file of the kind checks the shape.
/// errors  as create_stream
Expected<QueueId> create_queue(Lane& lane, std::string_view name, const QueueShape& shape);

/// Units [first_unit, first_unit + unit_count).
struct QueueStorage {
  std::uint64_t first_unit = 0;
  std::uint64_t unit_count = 0;
};

/// Where a queue's storage lies, each number read once and checked; nothing if it is not of that shape, or lies
/// where it cannot be used: units that are not committed or do not hold it.
std::optional<QueueStorage> sound_storage(const Segment& segment, const QueueRow& row,
                                          const QueueShape& shape) noexcept;

/// Of messages, [1, queue_capacity_max].  errors  bad_argument
Expected<void> check_capacity(std::string_view name, std::uint32_t capacity);

/// Create a stream.
///
/// name      [1, 63] bytes without zero bytes
/// capacity  messages, rounded up to a power of two, at most queue_capacity_max
/// policy    block or fail: whether a push that finds no room is one that waits, or counts as refused
/// errors    exists; busy  somebody is creating that name at this moment, try again
///           exhausted  directory or heap full; too_large  for all of the segment; bad_argument
Expected<QueueId> create_stream(Lane& lane, std::string_view name, std::uint32_t capacity,
                                QueuePolicy policy = QueuePolicy::block);

/// errors  not_found
Expected<QueueId> find_queue(const Segment& segment, std::string_view name);

/// find_queue, or `create` where there is none.
/// errors  as both; bad_argument  the name is that of another kind, or of another policy
Expected<QueueId> find_or_create(const Segment& segment, std::string_view name, QueueKind kind,
                                 QueuePolicy policy, const std::function<Expected<QueueId>()>& create);

/// A number of a queue that is there, and what it has to be.
struct ExpectedNumber {
  std::string_view what;
  std::uint64_t found = 0;
  std::uint64_t expected = 0;
};
/// The queue, if all of these are.  errors  bad_argument  naming the first that is not
Expected<QueueId> expect_same(QueueId id, std::string_view name,
                              std::initializer_list<ExpectedNumber> numbers);

/// find_queue, or create_stream where there is none.  errors  as find_or_create
Expected<QueueId> find_or_create_stream(Lane& lane, std::string_view name, std::uint32_t capacity,
                                        QueuePolicy policy = QueuePolicy::block);

/// Where a stream's ring lies, or a broadcast's: what its row said, each number read once and then checked. Who
/// reads a segment that others may be damaging goes by this, not by the row.
struct StreamRing {
  Message* slots = nullptr;
  std::uint64_t capacity = 0;  // messages, a power of two
  std::uint64_t first_unit = 0;
  std::uint64_t unit_count = 0;
  std::span<SubscriberRow> subscribers = {};  // of a broadcast

  Message& at(std::uint64_t position) const noexcept { return slots[position & (capacity - 1)]; }
};

/// Nothing, if the row is of another kind, or its ring does not lie where it can be used: a capacity that is no power
/// of two, units that are not committed or do not hold it.
std::optional<StreamRing> sound_ring(const Segment& segment, const QueueRow& row, QueueKind kind) noexcept;
/// Of a stream or a broadcast.
std::optional<StreamRing> sound_ring(const Segment& segment, const QueueRow& row) noexcept;
inline bool stream_is_sound(const Segment& segment, const QueueRow& row) noexcept {
  return sound_ring(segment, row).has_value();
}

/// The message slot of a position in a stream. The row is known to be sound, and to stay so.
inline Message& message_slot(const Segment& segment, const QueueRow& row, std::uint64_t position) noexcept {
  auto* ring = reinterpret_cast<Message*>(segment.unit_address(row.first_unit));
  return ring[position & (row.capacity - 1)];
}

/// Messages ever pushed into a stream: its tail, or more when the last push, of one or many, had not told yet. Tail
/// alone for a row that is not sound.
std::uint64_t pushed_messages(const Segment& segment, const QueueRow& row) noexcept;
std::uint64_t pushed_messages(const StreamRing& ring, const QueueRow& row) noexcept;

/// Give up every role and claim that a lane has in the directory: recovery step 4. Returns how many.
std::uint32_t release_roles(const Segment& segment, const LaneView& lane) noexcept;

/// For finish_operation(): whether row `queue` names storage that begins at `first`.
bool storage_published(const Segment& segment, std::uint64_t queue, std::uint32_t first) noexcept;

/// Whether a moving cell holds the reference in it: a push until the slot is stamped, a pop once head has passed,
/// an extent while the map's slot does not hold the same.
bool moving_cell_holds(const Segment& segment, Handle handle, std::uint64_t aux) noexcept;

}  // namespace sluice
