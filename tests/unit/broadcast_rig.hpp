// A broadcast with its publisher's lane and lanes for subscribers, and messages whose number their block repeats.
#pragma once

#include "ipc/audit.hpp"
#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

inline constexpr std::uint32_t broadcast_capacity = 8;

/// Every third message has no block.
inline std::size_t bytes_of(std::uint64_t number) { return number % 3 == 0 ? 0 : 40 + number % 400; }

inline Message numbered(std::uint64_t number) {
  Message message{};
  message.kind = MessageKind::user;
  message.position = number;
  message.length = static_cast<std::uint32_t>(bytes_of(number));
  return message;
}

/// Publish the message numbered by the tail. What is refused leaves nothing behind.
inline Status publish(Lane& lane, Publisher& publisher) {
  const auto number = publisher.tail();
  if (bytes_of(number) == 0) return publisher.push(numbered(number));
  const auto block = must(lane.heap().allocate(bytes_of(number)));
  fill_pattern(lane.heap().bytes(block).first(bytes_of(number)), number);
  const auto status = publisher.push(numbered(number), block);
  if (status != Status::ok) must(lane.heap().release(block));
  return status;
}

/// Whether a delivery is message `number`, with its block.
inline bool is_delivery(const Heap& heap, const TakenMessage& delivery, std::uint64_t number) {
  const auto& message = delivery.message;
  if (message.position != number || message.length != bytes_of(number)) return false;
  if (message.length == 0) return !delivery.reference;
  const auto bytes = heap.bytes(delivery.reference);
  return bytes.size() >= message.length && has_pattern(bytes.first(message.length), number);
}

/// Take one, which must be the number, and give its block back.
inline bool takes(Lane& lane, Subscriber& subscriber, std::uint64_t number) {
  const auto delivery = subscriber.take();
  if (!delivery || !is_delivery(lane.heap(), *delivery, number)) return false;
  if (delivery->reference) must(lane.heap().release(delivery->reference));
  return true;
}

struct BroadcastRig : Rig {
  explicit BroadcastRig(const BroadcastOptions& options = {broadcast_capacity, 4})
      : other(another_lane()), queue(must(create_broadcast(*lane, "b", options))) {}

  Publisher publisher() { return must(Publisher::claim(*lane, queue)); }
  Subscriber subscriber(SubscriberPolicy policy = SubscriberPolicy::block, Start start = {}) {
    return must(Subscriber::join(*other, queue, {policy, start}));
  }
  void publish(Publisher& publisher, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) must(test::publish(*lane, publisher));
  }
  bool takes(Subscriber& subscriber, std::uint64_t number) { return test::takes(*other, subscriber, number); }
  QueueRow& row() const { return queue_row(segment(), queue.index); }
  SubscriberRow& subscriber_row(std::size_t i) const { return sound_ring(segment(), row())->subscribers[i]; }
  void check_sound() const {
    for (auto* holder : {lane.get(), other.get()}) holder->heap().flush();
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::unique_ptr<Lane> other;
  QueueId queue;
};

}  // namespace sluice::test
