// A queue of values: each message is one T, in a block of its own. For what may lie in a block as it is (Plain); the same
// T on both sides is by contract, its size is checked.
//
//   struct Point { std::int32_t x, y; };
//   auto points = sluice::ValueProducer<Point>::open(lane, "points");
//   points->publish({1, 2});
//
//   auto points = sluice::ValueConsumer<Point>::open(lane, "points");
//   for (const Point& point : *points) draw(point);  // in the block; going on acknowledges
//
// Thread safety: the lane's thread.
#pragma once

#include "runtime/consumer.hpp"

#include <chrono>
#include <cstddef>
#include <expected>
#include <iterator>
#include <string_view>
#include <utility>

namespace sluice {

template <Plain T>
class ValueProducer {
 public:
  /// errors  as Producer::open()
  static Expected<ValueProducer> open(Lane& lane, std::string_view name) {
    auto queue = Producer::open(lane, name);
    if (!queue) return std::unexpected(std::move(queue.error()));
    return ValueProducer(std::move(*queue));
  }
  /// errors  as Producer::publish_value()
  Status publish(const T& value, std::chrono::nanoseconds timeout = forever) noexcept {
    return queue_.publish_value(value, timeout);
  }
  /// The queue itself, for what else can be done with it.
  Producer& queue() noexcept { return queue_; }

 private:
  explicit ValueProducer(Producer&& queue) noexcept : queue_(std::move(queue)) {}
  Producer queue_;
};

/// A value in hand, as Received.
template <Plain T>
class ReceivedValue {
 public:
  ReceivedValue(Received&& message, const T& value) noexcept : message_(std::move(message)), value_(&value) {}
  const T& operator*() const noexcept { return *value_; }
  const T* operator->() const noexcept { return value_; }
  Received& message() noexcept { return message_; }
  Status acknowledge() noexcept { return message_.acknowledge(); }
  Status reject() noexcept { return message_.reject(); }

 private:
  Received message_;
  const T* value_;
};

template <Plain T>
class ValueConsumer {
 public:
  /// errors  as Consumer::open()
  static Expected<ValueConsumer> open(Lane& lane, std::string_view name,
                                      const SubscriberOptions& options = {}) {
    auto queue = Consumer::open(lane, name, options);
    if (!queue) return std::unexpected(std::move(queue.error()));
    return ValueConsumer(std::move(*queue));
  }
  /// errors  as Consumer::receive(); bad_argument  the message is no T, but of another size: it stays where it is
  std::expected<ReceivedValue<T>, Status> receive(std::chrono::nanoseconds timeout = forever) noexcept {
    auto received = queue_.receive(timeout);
    if (!received) return std::unexpected(received.error());
    const auto* value = received->template as<T>();
    if (value == nullptr) return std::unexpected(Status::bad_argument);
    return ReceivedValue<T>(std::move(*received), *value);
  }

  class Iterator {
   public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(Consumer& queue) noexcept : message_(queue.begin()) {}
    const T& operator*() const noexcept { return *value(); }
    Iterator& operator++() noexcept {
      ++message_;
      return *this;
    }
    bool operator==(std::default_sentinel_t end) const noexcept {
      return message_ == end || value() == nullptr;
    }

   private:
    const T* value() const noexcept { return (*message_).template as<T>(); }
    Consumer::Iterator message_;
  };
  /// Each value in turn, until receive() has none, or a message is no T: it stays where it is, and receive() says so.
  Iterator begin() noexcept { return Iterator(queue_); }
  static std::default_sentinel_t end() noexcept { return {}; }
  /// Why the last loop has ended: as Consumer::ended_with(), ok where a message was no T.
  Status ended_with() const noexcept { return queue_.ended_with(); }
  /// The queue itself, for what else can be done with it.
  Consumer& queue() noexcept { return queue_; }

 private:
  explicit ValueConsumer(Consumer&& queue) noexcept : queue_(std::move(queue)) {}
  Consumer queue_;
};

}  // namespace sluice
