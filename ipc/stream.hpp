// SPSC stream: one producer, one consumer, in order, no locked instruction. Messages stay in the ring until
// they are acknowledged: a consumer that dies leaves them to its replacement.
//
// What a push and a pop are is in message_ring.hpp. The consumer polls the stamp of the slot that it reads next, and
// never touches the producer's line. Tail is a hint, behind by what is being pushed
// (docs/decisions/0002-stamped-slots.md).
// Thread safety: each end belongs to the thread of the lane that claimed it.
// source: Lamport 1983; cached indices as in Rigtorp's SPSCQueue and Aeron
#pragma once

#include "ipc/message_ring.hpp"
#include "ipc/waiting.hpp"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace sluice {

struct StreamPushed {
  std::size_t count = 0;
  Status status = Status::ok;  // ok: all of them
};

class StreamProducer {
 public:
  StreamProducer() = default;
  /// Take the producer's role.
  /// errors  busy  another lane has it; stale  the queue is gone; bad_argument  it is no stream; corrupt
  static std::expected<StreamProducer, Status> claim(Lane& lane, QueueId queue) noexcept;
  StreamProducer(StreamProducer&& other) noexcept { *this = std::move(other); }
  StreamProducer& operator=(StreamProducer&& other) noexcept;
  ~StreamProducer() { release_role(); }

  /// Push a message that carries `reference` (its handle takes the place of message.handle); the reference is
  /// the queue's afterwards. errors: full; stale; busy  a device has it. Nothing changed then.
  Status push(const Message& message, Reference reference) noexcept;
  /// Push a message without a block.  errors: full
  Status push(const Message& message) noexcept;

  /// Push messages in order, with `references[i]` or, where that is null, without a block; no references: none has.
  /// Each is as push(), and can be seen at once; a consumer that sleeps is woken at the end.
  /// returns  how many were pushed: the first ones; and what the next one was refused for, as push()
  ///          bad_argument  as many references as messages are wanted, or none
  StreamPushed push_many(std::span<const Message> messages,
                         std::span<const Reference> references = {}) noexcept;

  /// Free slots, at least: head is looked at only when those known of are fewer than `wanted`.
  std::uint64_t room(std::uint64_t wanted = 1) noexcept;
  std::uint64_t tail() const noexcept { return tail_; }
  std::uint64_t head() const noexcept { return load(end_.row->head, acquire); }  // S2 <- S3 (pop)
  std::uint32_t capacity() const noexcept { return end_.row->capacity; }
  /// Nothing will follow what was pushed. Opened again by the next producer.
  void close() noexcept;
  /// Room, for wait_any(), as long as this object stays where it is. Any thread may look.
  WaitSource room_source() noexcept;
  QueueId id() const noexcept { return end_.id; }
  explicit operator bool() const noexcept { return end_.row != nullptr; }

 private:
  friend class Forward;
  std::expected<std::uint64_t, Status> make_place(Handle handle, std::uint32_t cell) noexcept;
  void arrive(std::uint64_t position, const Message& message, Handle handle, std::uint32_t cell) noexcept;
  void arrived(std::uint64_t position, std::uint64_t bytes) noexcept;
  Status refuse() noexcept;
  void release_role() noexcept;

  RingEnd end_;
  std::uint64_t tail_ = 0;
  std::uint64_t cached_head_ = 0;
};

/// Messages that are popped together, at most.
inline constexpr std::size_t stream_batch_max = 32;

class StreamConsumer {
 public:
  StreamConsumer() = default;
  /// Take the consumer's role.  errors  busy, stale
  static std::expected<StreamConsumer, Status> claim(Lane& lane, QueueId queue) noexcept;
  StreamConsumer(StreamConsumer&& other) noexcept { *this = std::move(other); }
  StreamConsumer& operator=(StreamConsumer&& other) noexcept;
  ~StreamConsumer() { release_role(); }

  /// The oldest message that is not acknowledged, or null; or the one so many behind it. `redelivered()` tells
  /// whether a predecessor was shown it. The message and its block stay the queue's.
  const Message* peek(std::uint64_t ahead = 0) noexcept;
  bool redelivered(std::uint64_t ahead = 0) const noexcept { return head_ + ahead < redeliver_below_; }

  /// Take the message that peek() showed; its reference becomes this lane's (null if it had no block).
  /// errors  empty; no_cell
  std::expected<Reference, Status> pop() noexcept;
  /// Take as many of the oldest messages as there are references in `into`, which are filled as pop() has it.
  /// returns  how many, at most stream_batch_max; fewer where there are no more messages, or no more free cells
  std::size_t pop_many(std::span<Reference> into) noexcept;

  /// pop(), then release the block: the message is done.
  /// errors  as pop(); stale  the message named no live block (it is taken all the same)
  Status acknowledge() noexcept;
  /// The same for the `count` oldest messages, some or all at once.
  /// returns  how many: fewer where there are no more messages, or no more free cells
  std::size_t acknowledge_many(std::size_t count) noexcept;

  /// Push `message` with the block of the oldest message to another queue, of which `to` is the end of the same lane,
  /// and take that message, in one: whenever this process dies, the block is in one of both.
  ///
  /// to      a StreamProducer, a WorkQueue, or a Publisher, which makes the block findable: nobody changes it any more
  /// errors  empty; as push() of `to`; stale  the message names no live block; no_cell
  ///         bad_argument  the same queue, or another lane's end. The message is where it was then
  /// source  docs/recovery.md#forward
  template <class To>
  Status forward(To& to, const Message& message) noexcept;

  bool empty() const noexcept { return !is_there(0); }
  /// The producer has closed it and everything was taken.
  bool ended() const noexcept;
  /// A message, or the end, for wait_any(), as long as this object stays where it is. Any thread may look.
  WaitSource messages() const noexcept;
  QueueId id() const noexcept { return end_.id; }
  explicit operator bool() const noexcept { return end_.row != nullptr; }

 private:
  bool is_there(std::uint64_t ahead) const noexcept {
    return load(end_.at(head_ + ahead).stamp, acquire) == head_ + ahead + 1;  // S4 <- S1 (push)
  }
  void told(std::uint64_t messages, std::uint64_t bytes, std::uint64_t again) noexcept;
  Status release(Reference reference) noexcept;
  void release_role() noexcept;

  RingEnd end_;
  std::uint64_t head_ = 0;
  std::uint64_t delivered_ = 0;
  std::uint64_t redeliver_below_ = 0;
};

}  // namespace sluice
