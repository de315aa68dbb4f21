// A topic: several publishers behind one name. Each publishes into a broadcast ring of its own, named TOPIC,
// TOPIC#2, TOPIC#3, and so on; a subscriber reads all of them. Messages of one publisher stay in order.
//
// Thread safety: each object belongs to the thread of its lane.
#pragma once

#include "ipc/broadcast.hpp"

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class TopicPublisher {
 public:
  /// Take the first ring of the topic that has no publisher, or create the next.
  ///
  /// options  of a ring that is created
  /// errors   as create_broadcast; bad_argument  another kind of queue has such a name
  static Expected<Publisher> open(Lane& lane, std::string_view topic, const BroadcastOptions& options);
};

class TopicSubscriber {
 public:
  /// Subscribe to every ring of the topic that there is; none is fine. With a name in the options the subscription is
  /// durable: a ring that does not know it, while another does, was created since, and is read from its beginning.
  /// errors  as join(): of all rings or of none
  static Expected<TopicSubscriber> open(Lane& lane, std::string_view topic,
                                        const SubscriberOptions& options = {});

  /// Look for rings that were created since, and read them from their beginning. Returns how many there were.
  /// errors  as join(); what was found before stays subscribed
  Expected<std::size_t> refresh();

  /// The next message of the ring whose turn it is, of those that have one. Each ring has one message's turn.
  ///
  /// errors  empty; closed  all rings are, and were read: a new publisher may open one again
  ///         else as Subscriber::take(), of the ring that failed(): the others can be read on
  std::expected<TakenMessage, Status> take() noexcept;
  /// Whether take() has something to say other than empty.
  bool ready() const noexcept;
  /// Wait until it has; looks for new rings now and then.
  /// errors  timeout; interrupted; as refresh()
  Expected<void> wait(std::chrono::nanoseconds timeout);

  /// The subscriptions, for what is asked of each: lost(), lag(). refresh() moves them.
  std::span<Subscriber> rings() noexcept { return rings_; }
  /// The ring that take() spoke of last.
  Subscriber& last() noexcept { return rings_[last_]; }
  /// To wait for this beside others: until refresh(), or until the object moves.
  std::vector<WaitSource> sources() const;

 private:
  Expected<std::size_t> subscribe(const Start& start);
  std::vector<QueueId> rings_of_topic() const;

  Lane* lane_ = nullptr;
  std::string topic_;
  SubscriberOptions options_;
  std::string name_;  // what options_.name was
  std::vector<Subscriber> rings_;
  std::size_t last_ = 0;
};

}  // namespace sluice
