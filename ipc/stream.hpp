// SPSC stream: one producer, one consumer, in order, no locked instruction. Messages stay in the ring until
// they are acknowledged: a consumer that dies leaves them to its replacement.
//
//   push   aux = PUSH(q, pos) ; slot ; slot.stamp = pos + 1 ; tail = pos + 1 ; handle = 0 ; aux = 0
//   pop    aux = POP(q, pos) ; handle ; head = pos + 1 ; aux = 0
//
// The truth of a push is the slot's stamp: the consumer polls the line that it reads next, and never touches
// the producer's. Tail is a hint, at most one behind (docs/decisions/0002-stamped-slots.md). Recovery looks at
// the stamp, and at head (docs/recovery.md#push, #pop).
// Thread safety: each end belongs to the thread of the lane that claimed it.
// source: Lamport 1983; cached indices as in Rigtorp's SPSCQueue and Aeron
#pragma once

#include "ipc/doorbell.hpp"
#include "ipc/queues.hpp"
#include "shm/crash_point.hpp"

#include <cstdint>
#include <expected>

namespace sluice {

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

  /// Free slots, at least: head is looked at only when those known of are fewer than `wanted`.
  std::uint64_t room(std::uint64_t wanted = 1) noexcept;
  std::uint64_t tail() const noexcept { return tail_; }
  std::uint64_t head() const noexcept { return load(row_->head, acquire); }  // S2 <- S3 (pop)
  std::uint32_t capacity() const noexcept { return row_->capacity; }
  /// Nothing will follow what was pushed. Opened again by the next producer.
  void close() noexcept;
  QueueId id() const noexcept { return id_; }
  explicit operator bool() const noexcept { return row_ != nullptr; }

 private:
  void publish(const Message& message, Handle handle) noexcept;
  void release_role() noexcept;

  Lane* lane_ = nullptr;
  QueueRow* row_ = nullptr;
  Message* ring_ = nullptr;
  QueueId id_;
  std::uint64_t mask_ = 0;
  std::uint64_t tail_ = 0;
  std::uint64_t cached_head_ = 0;
};

class StreamConsumer {
 public:
  StreamConsumer() = default;
  /// Take the consumer's role.  errors  busy, stale
  static std::expected<StreamConsumer, Status> claim(Lane& lane, QueueId queue) noexcept;
  StreamConsumer(StreamConsumer&& other) noexcept { *this = std::move(other); }
  StreamConsumer& operator=(StreamConsumer&& other) noexcept;
  ~StreamConsumer() { release_role(); }

  /// The oldest message that is not acknowledged, or null. `redelivered()` tells whether a predecessor
  /// was shown it. The message and its block stay the queue's.
  const Message* peek() noexcept;
  bool redelivered() const noexcept { return head_ < redeliver_below_; }

  /// Take the message that peek() showed; its reference becomes this lane's (null if it had no block).
  /// errors  empty; no_cell
  std::expected<Reference, Status> pop() noexcept;

  /// pop(), then release the block: the message is done.
  /// errors  as pop(); stale  the message named no live block (it is taken all the same)
  Status acknowledge() noexcept;

  bool empty() const noexcept { return load(ring_[head_ & mask_].stamp, acquire) != head_ + 1; }  // S4 <- S1
  /// The producer has closed it and everything was taken.
  bool ended() const noexcept;
  QueueId id() const noexcept { return id_; }
  explicit operator bool() const noexcept { return row_ != nullptr; }

 private:
  void release_role() noexcept;

  Lane* lane_ = nullptr;
  QueueRow* row_ = nullptr;
  Message* ring_ = nullptr;
  QueueId id_;
  std::uint64_t mask_ = 0;
  std::uint64_t head_ = 0;
  std::uint64_t delivered_ = 0;
  std::uint64_t redeliver_below_ = 0;
};

}  // namespace sluice
