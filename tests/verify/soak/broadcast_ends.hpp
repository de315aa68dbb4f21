// The publisher of a broadcast and its subscribers with their witness: who publishes goes on where its predecessor can
// have stopped; who reads sees each number from where it began, or is told how many it has lost.
//
// What is wrong throws, as in stream_ends.hpp.
#pragma once

#include "ipc/broadcast.hpp"
#include "tests/verify/soak/journal.hpp"

#include <cstdint>
#include <optional>
#include <random>
#include <string>

namespace sluice::verify {

inline std::string broadcast_name_of(std::uint32_t broadcast) {
  return "soak-broadcast-" + std::to_string(broadcast);
}
inline constexpr std::uint32_t broadcast_capacity_of(std::uint32_t broadcast) noexcept {
  return broadcast == 0 ? 8 : 64;
}

class WitnessedPublisher {
 public:
  /// Take over the role; false if somebody has it.
  bool claim(Lane& lane, QueueId queue, std::uint32_t broadcast, BroadcastJournal& journal);
  /// Give it up in order; perhaps tell that nothing follows.
  void rest(bool closes = false) noexcept;
  /// false: there is no room, the reference is the caller's still.
  bool publish(Reference reference, std::uint64_t bytes);
  void trim(std::uint64_t keep);
  std::uint64_t next() const noexcept { return publisher_.tail(); }
  std::uint64_t floor() const noexcept { return publisher_.floor(); }
  std::uint64_t capacity() const noexcept { return publisher_.capacity(); }
  explicit operator bool() const noexcept { return bool(publisher_); }

 private:
  Publisher publisher_;
  BroadcastJournal* journal_ = nullptr;
  std::uint32_t broadcast_ = 0;
};

class WitnessedSubscriber {
 public:
  /// false: there are as many as there may be.
  bool join(Lane& lane, QueueId queue, std::uint32_t broadcast, BroadcastJournal& journal,
            const SubscriberOptions& options);
  void leave() noexcept { subscriber_.leave(); }

  /// Read the next message after comparing it. Nothing: there is none, or this was disconnected and has left. A null
  /// reference: it had no block.
  std::optional<Reference> take();
  /// The same without a reference, looking at it for so long. false: there is none.
  bool read_in_place(long handling_us);
  std::uint64_t next() const noexcept { return subscriber_.position(); }
  bool blocks() const noexcept { return policy_ == SubscriberPolicy::block; }
  explicit operator bool() const noexcept { return bool(subscriber_); }

 private:
  void check_join(const Start& start, std::uint64_t published) const;
  void check_message(const Message& message, std::uint64_t expected) const;
  void check_nothing(Status status, std::uint64_t published);

  Subscriber subscriber_;
  Lane* lane_ = nullptr;
  BroadcastJournal* journal_ = nullptr;
  SubscriberPolicy policy_ = SubscriberPolicy::block;
  std::uint32_t broadcast_ = 0;
};

}  // namespace sluice::verify
