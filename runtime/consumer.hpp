// One shape for who consumes, whatever the queue is: a stream's only consumer, one of many at a work queue, or a
// subscriber of a broadcast.
//
//   auto consumer = sluice::Consumer::open(lane, "jobs");
//   for (auto& message : *consumer) use(message.bytes());  // going on acknowledges
//   return consumer->ended_with();                         // closed: everything was consumed
//
// A loop that is left by break, return or an exception gives the message back that it was at: a stream and a broadcast
// show it again, a work queue gives it to the next who takes.
// Thread safety: the lane's thread, but stop().
#pragma once

#include "runtime/producer.hpp"

#include <atomic>
#include <chrono>
#include <iterator>
#include <optional>
#include <string_view>
#include <variant>

namespace sluice {

class Consumer;

/// A message in hand, with the block's own bytes, until one of the members below ends it; it ends once. Before its
/// consumer goes.
class Received {
 public:
  Received(Received&& other) noexcept;
  Received& operator=(Received&&) = delete;
  /// Gives it back if nobody has ended it.
  ~Received();

  const Message& message() const noexcept { return has_copy_ ? copy_ : *message_; }
  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  /// The bytes as a value; null if they are not as many as it has.
  template <Plain T>
  const T* as() const noexcept {
    return bytes_.size() == sizeof(T) ? reinterpret_cast<const T*>(bytes_.data()) : nullptr;
  }
  /// How often it was delivered before, to who died or gave it back. A stream and a durable subscription know only
  /// whether.
  std::uint32_t deliveries() const noexcept { return deliveries_; }
  /// Nobody has ended it.
  bool open() const noexcept { return consumer_ != nullptr; }

  /// It is done; its block is released.  errors  stale  it has ended before; no_cell  it is still in hand
  Status acknowledge() noexcept;
  /// Give it back, to be delivered again.  errors  stale
  Status reject() noexcept;
  /// It is done, and the block is the caller's; an empty one if it had none. Alone with it, he may change the bytes
  /// where they lie and publish them again. Who dies meanwhile takes the block along; forward() has no such gap.
  /// errors  stale, no_cell; overflow  of a broadcast, whose block stays the readers': it is not to be changed
  std::expected<MemoryBlock, Status> keep() noexcept;
  /// The bytes, to be changed where they lie, before forward(): of a stream and of a work queue. Who is given the
  /// message after a death sees what was changed. Empty for a broadcast, for MessageKind::write (a device keeps that
  /// block), and for a block that others hold too or may find.
  std::span<std::byte> writable() noexcept;
  /// Publish it into another queue of any kind, and acknowledge it. From a stream or a work queue that is one step: at a
  /// death the message is in one of both queues, never in none or in both. From a broadcast it is published, and then
  /// passed: a death in between leaves it in both, for a subscriber that begins there again; one that loses or
  /// disconnects has taken it already, and a death before it is published loses it for this subscriber.
  ///
  /// message  what consumers are told; offset and length are of its block, both 0: as they were
  /// timeout  how long to wait for room, as Producer::publish()
  /// errors   as that; stale; no_cell; bad_argument  both queues are the same, `to` is another lane's, or the bytes are
  ///          not the block's. It is in hand then as before
  Status forward(Producer& to, const Message& message, std::chrono::nanoseconds timeout = forever) noexcept;

 private:
  friend class Consumer;
  explicit Received(Consumer& consumer) noexcept : consumer_(&consumer) {}
  Consumer* end() noexcept { return std::exchange(consumer_, nullptr); }

  Consumer* consumer_;  // null: it has ended
  const Message* message_ = nullptr;
  std::span<const std::byte> bytes_;
  std::uint32_t deliveries_ = 0;
  WorkLease lease_;
  bool has_copy_ = false;  // of a broadcast that does not wait for us
  Message copy_{};
  MemoryBlock block_;  // with that
};

class Consumer {
 public:
  /// Open a queue that exists, of any kind. `options` are for broadcasts. With a name in them, what is delivered by a
  /// broadcast with the policy block is delivered at least once, also across deaths; with another policy at most once.
  /// errors  not_found; busy  another lane consumes the stream, or has the subscription of that name;
  ///         exhausted  no place for another subscriber; incompatible  as Subscriber::join();
  ///         bad_argument  nothing can be consumed from that; corrupt
  static Expected<Consumer> open(Lane& lane, std::string_view name, const SubscriberOptions& options = {});
  /// While no message is in hand.
  Consumer(Consumer&& other) noexcept;
  Consumer& operator=(Consumer&&) = delete;
  ~Consumer() = default;

  /// The next message. Of streams and broadcasts one at a time.
  ///
  /// errors  closed  nothing will follow, and everything is done; timeout; interrupted  stop(), or a signal came
  ///         disconnected  a broadcast went on without us; busy  the last one has not ended
  ///         no_cell, corrupt
  std::expected<Received, Status> receive(std::chrono::nanoseconds timeout = forever) noexcept;

  /// The same without waiting.  errors  as receive(), but empty for timeout
  std::expected<Received, Status> try_receive() noexcept;
  /// Ready when try_receive() has something to say other than empty: for wait_any(), so that one thread serves several
  /// consumers. As long as this object stays where it is; any thread may look. A stop() rings the consumer's lane alone.
  WaitSource source() noexcept;
  /// The message for which it said corrupt last.
  const Message& damaged() const noexcept { return damaged_; }

  /// receive() returns interrupted, now and from now on; loops end. Any thread, and signal handlers.
  void stop() noexcept;
  /// Of a broadcast: messages that were dropped before they were read, or were gone when it subscribed.
  std::uint64_t lost() const noexcept;
  /// Why the last loop has ended, as receive() says it.
  Status ended_with() const noexcept { return ended_with_; }

  class Iterator {
   public:
    using value_type = Received;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(Consumer* consumer) noexcept : consumer_(consumer) {}
    Iterator(Iterator&& other) noexcept : consumer_(std::exchange(other.consumer_, nullptr)) {}
    Iterator& operator=(Iterator&&) = delete;
    ~Iterator() {
      if (consumer_ != nullptr) consumer_->current_.reset();
    }
    Received& operator*() const noexcept { return *consumer_->current_; }
    Iterator& operator++() noexcept {
      consumer_->go_on();
      return *this;
    }
    bool operator==(std::default_sentinel_t) const noexcept { return !consumer_->current_; }

   private:
    Consumer* consumer_;
  };
  /// Each message in turn, until receive() has none. Going on acknowledges, unless the body has ended the message.
  Iterator begin() noexcept {
    go_on();
    return Iterator(this);
  }
  static std::default_sentinel_t end() noexcept { return {}; }

 private:
  friend class Received;
  using End = std::variant<StreamConsumer, WorkQueue, Subscriber>;
  Consumer(Lane& lane, SubscriberPolicy policy, End end) noexcept;
  std::expected<void, Status> look(StreamConsumer& stream, Received& received) noexcept;
  std::expected<void, Status> look(WorkQueue& queue, Received& received) noexcept;
  std::expected<void, Status> look(Subscriber& subscriber, Received& received) noexcept;
  WaitSource messages() const noexcept;
  void go_on() noexcept;

  Lane* lane_;
  SubscriberPolicy policy_;
  End end_;
  bool in_hand_ = false;  // of a stream or broadcast: its first message is somebody's
  std::optional<Received> current_;
  Message damaged_{};
  Status ended_with_ = Status::ok;
  std::atomic<bool> stopped_{false};
};

}  // namespace sluice
