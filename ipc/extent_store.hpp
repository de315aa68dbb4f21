// A device's content: an extent map as several lanes of one process read and change it at once, and the stream that is
// told of every change.
//
//   write   put the block; of a group: drop its pages' own ones; of a page whose group has 16 now: drop the group's
//   clear   empty each page, or mark it if its group has a block; then as above
//   told    sequence = 0 ; first, pages, handle ; sequence = tail + 1 ; write or clear ; push       one at a time
//
// Invariants
//   1. A page is at every instant what the last finished change made it, or what the one under way makes it.
//   2. A change is under way in the shared bytes exactly while change_sequence is tail + 1. The next writer finishes
//      it, if its block was put in or it makes zeroes, and tells it. So the stream has every change once, in the order
//      in which they were made, and a message's number is its position in the stream.
// Thread safety: all members, each lane by its own thread.
// source: docs/recovery.md#changes
#pragma once

#include "ipc/extents.hpp"
#include "ipc/stream.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <optional>

namespace sluice {

/// A device as messages name it (Message::flow): its map.
constexpr std::uint64_t device_number(QueueId map) noexcept {
  return std::uint64_t{map.era} << 32 | map.index;
}
constexpr QueueId device_map(std::uint64_t number) noexcept {
  return {static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)};
}
/// The number of a change among those of its device, from 0, without a gap.
inline std::uint64_t change_number(const Message& message) noexcept {
  return load(message.stamp, relaxed) - 1;
}

class ExtentStore {
 public:
  /// Become the map's writer. With a stream, every change is told to it, first the one that a predecessor died at.
  /// `teller` is used by nobody else from now on.
  ///
  /// errors  busy          another process writes the map, or produces into the stream
  ///         bad_argument  the map tells its changes to another stream than that, or has content that no stream was
  ///                       told of; the stream has messages of others
  ///         stale, corrupt
  static Expected<std::unique_ptr<ExtentStore>> open(const Membership& process, QueueId map,
                                                     std::unique_ptr<Lane> teller,
                                                     std::optional<QueueId> stream);
  ExtentStore(const ExtentStore&) = delete;
  ExtentStore& operator=(const ExtentStore&) = delete;

  const ExtentSlots& slots() const noexcept { return writer_.slots(); }

  /// Keep a group's pages as they are while the result lives: what bytes_of() shows is there as long.
  std::unique_lock<std::mutex> hold(std::uint64_t group) noexcept {
    return std::unique_lock(stripes_[group % stripe_count].mutex);
  }
  /// A page's bytes, null if they are zeroes.  errors  corrupt  the map names no block of that size
  std::expected<const std::byte*, Status> bytes_of(std::uint64_t page) const noexcept;

  /// Move `block`, which the lane holds, into a page's or a group's position; what was there is released.
  ///
  /// errors  full       the stream has no room: nothing changed, the block is still the lane's
  ///         stale, no_cell, overflow, bad_argument  likewise
  ///         corrupt    a change that cannot be finished: with a stream, nothing is changed or told after it
  Status write(Lane& lane, std::uint64_t position, Reference block) noexcept;

  static constexpr std::uint64_t clear_pages_max = 16384;  // 64 MiB: some milliseconds if all have blocks
  /// Make pages [first, first + pages) zeroes; at most clear_pages_max.  errors  as write()
  Status clear(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept;

  /// Tell the stream that what came before shall be durable.  errors  full, corrupt
  Status flush() noexcept;

  bool tells() const noexcept { return producer_.has_value(); }
  /// Messages that fit into the stream now, at least, and no fewer than do if those are below `wanted`; without a
  /// stream, any number.
  std::uint64_t room(std::uint64_t wanted = 1) noexcept;
  /// Whether the stream has messages that were not taken.
  bool has_untaken() noexcept;
  /// Nothing will follow: the stream's consumer ends once it has everything.
  void close() noexcept;

 private:
  static constexpr std::size_t stripe_count = 64;
  struct alignas(64) Stripe {
    std::mutex mutex;
  };

  ExtentStore(ExtentWriter writer, QueueRow& row, QueueId map, std::unique_ptr<Lane> teller) noexcept;
  Expected<void> bind(QueueId stream);
  Expected<void> may_tell(QueueId stream, std::uint64_t tail) const;
  Status finish_change() noexcept;
  Status put(Lane& lane, std::uint64_t position, Reference block) noexcept;
  Status settle(Lane& lane, std::uint64_t position) noexcept;
  Status empty(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept;
  Status empty_in_group(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept;
  Status empty_and_tell(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept;
  Status drop(Lane& lane, std::uint64_t position, std::uint64_t leave) noexcept;
  void begin_change(std::uint64_t first, std::uint64_t pages, Handle block) noexcept;
  Message message_of(MessageKind kind, std::uint64_t first, std::uint64_t pages) const noexcept;
  Status broken() noexcept;

  // Reverse order of destruction: the role of the stream, its lane, the map's role.
  ExtentWriter writer_;
  QueueRow* row_;
  QueueId map_;
  std::unique_ptr<Lane> teller_;
  std::optional<StreamProducer> producer_;
  std::array<Stripe, stripe_count> stripes_;
  std::mutex telling_;  // before any stripe
  bool broken_ = false;
};

}  // namespace sluice
