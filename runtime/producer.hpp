// One shape for who publishes, whatever the queue is: a stream's or broadcast's only producer, or one of many at a work
// queue.
//
//   auto producer = sluice::Producer::open(lane, "jobs");
//   auto block = producer->allocate(4096);
//   fill(block->bytes());
//   producer->publish(std::move(*block));
//
// Thread safety: the lane's thread.
#pragma once

#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"
#include "runtime/memory_block.hpp"

#include <chrono>
#include <string_view>
#include <variant>

namespace sluice {

class Producer {
 public:
  /// Open a queue that exists, of any kind.
  /// errors  not_found; busy  another lane has the role; bad_argument  nothing can be published into that; corrupt
  static Expected<Producer> open(Lane& lane, std::string_view name);

  /// A block to be filled. Without room a broadcast gives up what it keeps for late subscribers.
  /// errors  as MemoryBlock::allocate()
  std::expected<MemoryBlock, Status> allocate(std::size_t bytes) noexcept {
    auto block = MemoryBlock::allocate(*lane_, bytes);
    while (!block && block.error() == Status::exhausted && shed())
      block = MemoryBlock::allocate(*lane_, bytes);
    return block;
  }
  /// Publisher::shed(), of a broadcast.
  bool shed() noexcept {
    auto* publisher = std::get_if<Publisher>(&end_);
    return publisher != nullptr && publisher->shed();
  }

  /// Publish the block; it is the queue's afterwards, and `block` is empty. Nothing is copied but the message.
  ///
  /// message  what consumers are told besides; offset, length and handle are the block's, kind none becomes user
  /// timeout  how long to wait for room, where the queue's policy is to block
  /// errors   too_large  4 GiB or more; full  by the policy, or in time; closed; interrupted  a signal came
  ///          stale, busy, no_cell
  ///          Nothing changed then, the block is still the caller's
  Status publish(MemoryBlock&& block, const Message& message = {},
                 std::chrono::nanoseconds timeout = forever) noexcept;
  /// Publish a message without a block.
  Status publish(const Message& message, std::chrono::nanoseconds timeout = forever) noexcept;
  /// Publish a value, in a block of its own.  errors  and those of allocate()
  template <Plain T>
  Status publish_value(const T& value, std::chrono::nanoseconds timeout = forever) noexcept {
    auto block = allocate(sizeof(T));
    if (!block) return block.error();
    block->template as<T>() = value;
    return publish(std::move(*block), {}, timeout);
  }

  /// Ready when there may be room, or the queue is closed: for wait_any(), as long as this object stays where it is. By
  /// the lane's thread.
  WaitSource room() noexcept {
    return std::visit([](auto& end) { return end.room_source(); }, end_);
  }
  /// Nothing more will come from here, and from a work queue from nobody: consumers end when they have everything.
  void close() noexcept;

  /// The queue's policy is to wait for room: full means that the time was over.
  bool waits_for_room() const noexcept {
    return load(row_->policy, relaxed) == static_cast<std::uint32_t>(QueuePolicy::block);
  }

  Lane& lane() const noexcept { return *lane_; }

 private:
  friend class Received;
  using End = std::variant<StreamProducer, WorkQueue, Publisher>;
  Producer(Lane& lane, QueueRow& row, End end) noexcept : lane_(&lane), row_(&row), end_(std::move(end)) {}
  template <class Try>
  Status wait_for_room(std::chrono::nanoseconds timeout, Try&& try_once) noexcept;
  Status push(const Message& message, Reference reference, std::chrono::nanoseconds timeout) noexcept;
  Status forward(StreamConsumer& from, const Message& message, std::chrono::nanoseconds timeout) noexcept;
  Status forward(WorkQueue& from, const WorkLease& lease, const Message& message,
                 std::chrono::nanoseconds timeout) noexcept;
  // At least once: a death after the push finds the subscriber where it was.
  Status forward(Subscriber& from, Handle handle, const Message& message,
                 std::chrono::nanoseconds timeout) noexcept;

  Lane* lane_;
  QueueRow* row_;
  End end_;
};

}  // namespace sluice
