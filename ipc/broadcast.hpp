// Broadcast: one publisher, many subscribers, each of which reads every message. The ring is a stream whose
// publisher is also its consumer: it holds the references, and only the publisher drops them, when it needs the slots.
//
//   publish    [ floor raised over the oldest, which is dropped ] ; push as in message_ring.hpp
//   clear      floor_next = target ; fence ; read all cursors ; what nobody holds may be dropped, one at each push
//   subscribe  claim (its cursor is 0: holds everything) ; fence ; read floor_next ; cursor = start
//   read       stamp ; copy ; fence ; floor <= position, else lost ; clone ; cursor = position + 1
//   resume     a durable subscription that is parked (subscription.hpp): claim ; go on at its cursor
//
// Invariants (docs/recovery.md#broadcast, docs/decisions/0012-broadcast-ring.md)
//   1. floor <= floor_next <= tail. The floor is QueueRow::head.
//   2. The floor does not pass a subscriber with the policy block, nor one that is joining. Such a one reads in place.
//   3. The publisher never stores a cursor, a subscriber never drops.
// Thread safety: each object belongs to the thread of its lane.
// source: Thompson et al. 2011 (Disruptor: gating sequences); Lamport 1977 (reading beside a writer)
#pragma once

#include "ipc/message_ring.hpp"
#include "ipc/waiting.hpp"

#include <cstdint>
#include <expected>
#include <string_view>

namespace sluice {

struct BroadcastOptions {
  std::uint32_t capacity = 0;          // messages, rounded up to a power of two; [1, queue_capacity_max]
  std::uint32_t subscribers_max = 32;  // [1, subscribers_limit]
};

/// errors  as create_stream
Expected<QueueId> create_broadcast(Lane& lane, std::string_view name, const BroadcastOptions& options);
/// errors  as create_stream and find_or_create; bad_argument  it is there with another capacity or limit
Expected<QueueId> find_or_create_broadcast(Lane& lane, std::string_view name,
                                           const BroadcastOptions& options);

/// Messages that some subscriber has yet to read: of the one that is furthest behind, or of the durable subscription
/// `name`; 0 without any. Any process.
std::uint64_t unread_messages(const Segment& segment, const QueueRow& row,
                              std::string_view name = {}) noexcept;

class Publisher {
 public:
  Publisher() = default;
  /// Take the publisher's role; goes on where the last one stopped.
  /// errors  busy  another lane has it; stale  the queue is gone; bad_argument  it is no broadcast; corrupt
  static std::expected<Publisher, Status> claim(Lane& lane, QueueId queue) noexcept;
  Publisher(Publisher&& other) noexcept { *this = std::move(other); }
  Publisher& operator=(Publisher&& other) noexcept;
  ~Publisher() { release_role(); }

  /// Publish a message that carries `reference`, which is the ring's afterwards. The block becomes findable: nobody
  /// changes it any more.
  ///
  /// errors  full     a subscriber with the policy block, or one that is joining, holds the oldest message
  ///         closed   after close(); stale; busy  a device has it; no_cell
  ///         Nothing changed then, but that old messages may have been dropped.
  /// source  docs/recovery.md#broadcast
  Status push(const Message& message, Reference reference) noexcept;
  /// Publish a message without a block.  errors  full, closed, no_cell
  Status push(const Message& message) noexcept;

  /// Messages that can be published before somebody may have to be waited for, at least: cursors are looked at only
  /// when those known of are fewer than `wanted`. Who has the policy disconnect, and holds up so many, is disconnected.
  std::uint64_t room(std::uint64_t wanted = 1) noexcept;
  /// Drop old messages until `keep` are left, or until one that somebody holds. Policies are applied as by a push.
  /// errors  full  somebody holds older ones; no_cell
  Status trim(std::uint64_t keep) noexcept;
  /// Drop half of what everybody has read, so that its blocks can be used again; if there is nothing like that, of what
  /// those have not read that may be passed. True: it dropped something.
  bool shed() noexcept;
  /// Nothing will follow what was published: subscribers end when they have read it. Opened again by the next
  /// publisher.
  void close() noexcept;

  /// Messages that some subscriber has yet to read, whatever its policy; and one with the policy block.
  std::uint64_t unread() const noexcept;
  std::uint64_t held() const noexcept;
  std::uint64_t tail() const noexcept { return tail_; }
  std::uint64_t floor() const noexcept { return floor_; }  // position of the oldest message that is kept
  std::uint64_t capacity() const noexcept { return end_.capacity(); }
  QueueId id() const noexcept { return end_.id; }
  explicit operator bool() const noexcept { return end_.row != nullptr; }
  /// Ready when there is room. For as long as this object stays where it is; by the lane's thread.
  WaitSource room_source() noexcept;

 private:
  friend class Forward;
  static constexpr std::uint32_t nobody = ~std::uint32_t{0};
  struct Survey;

  std::expected<std::uint64_t, Status> make_place(Handle handle, std::uint32_t cell) noexcept;
  void arrive(std::uint64_t position, const Message& message, Handle handle, std::uint32_t cell) noexcept;
  void arrived(std::uint64_t position, std::uint64_t bytes) noexcept;
  Status make_slot() noexcept;
  Status drop_until(std::uint64_t floor) noexcept;
  void clear(std::uint64_t least, std::uint64_t target) noexcept;
  Survey survey(std::uint64_t target) const noexcept;
  std::uint64_t disconnect_below(std::uint64_t least, std::uint64_t limit) const noexcept;
  bool is_held_up() const noexcept;
  void release_role() noexcept;

  RingEnd end_;
  SubscriberRow* subscribers_ = nullptr;
  std::uint32_t subscribers_max_ = 0;
  std::uint32_t held_by_ = nobody;  // the subscriber that held us up when we looked last
  std::uint64_t tail_ = 0;
  std::uint64_t floor_ = 0;
  std::uint64_t cleared_ = 0;  // how far the floor may be raised: announced, and nobody holds what is below
  bool closed_ = false;
};

/// Where a subscriber begins.
struct Start {
  enum class From : std::uint8_t { now, last, position };
  From from = From::now;
  std::uint64_t value = 0;

  static constexpr Start from_now() noexcept { return {}; }
  static constexpr Start last(std::uint64_t messages) noexcept { return {From::last, messages}; }
  static constexpr Start at(std::uint64_t position) noexcept { return {From::position, position}; }
};

struct SubscriberOptions {
  SubscriberPolicy policy = SubscriberPolicy::block;
  Start start = {};  // NOLINT(readability-redundant-member-init): gcc asks for it
  // Not empty: a durable subscription, which outlives its subscriber. At most subscription_name_max bytes
  std::string_view name = {};  // NOLINT(readability-redundant-member-init)
};

/// A message and a reference to its block that is the subscriber's own; null if it has no block.
struct TakenMessage {
  Message message;
  Reference reference;
  bool redelivered = false;  // as Subscriber::redelivered()
};

class Subscriber {
 public:
  Subscriber() = default;
  /// Subscribe. Everything that is published from now on is read, unless the policy says otherwise.
  ///
  /// Under a name that the ring knows it goes on where the last subscriber of that name stopped, and `start` means
  /// nothing; but a subscription that was disconnected begins anew, at `start` or where it stopped, whichever is
  /// later. The policy is the new subscriber's. Messages that are skipped when another policy than block becomes
  /// another one are counted as lost().
  ///
  /// start    a position after the last message is the next one's
  /// errors   exhausted  as many subscribers as there may be
  ///          busy  a lane has the subscription of that name, or makes it at this moment
  ///          stale  the queue is gone; bad_argument  it is no broadcast, or there is no such policy or name; corrupt
  ///          incompatible  a name, and a segment of layout 1.0, which others may have that do not know of names
  /// threads  O(subscribers_max); waits for nobody
  /// source   docs/recovery.md#durable-subscriptions
  static std::expected<Subscriber, Status> join(Lane& lane, QueueId queue,
                                                const SubscriberOptions& options = {}) noexcept;
  Subscriber(Subscriber&& other) noexcept { *this = std::move(other); }
  Subscriber& operator=(Subscriber&& other) noexcept;
  ~Subscriber() { leave(); }
  /// The row is free again; a durable subscription stays, for the next one of its name.
  void leave() noexcept;
  /// leave(), and a durable subscription has ended.
  void unsubscribe() noexcept;

  /// The next message, with a reference of this lane's own to its block; goes on to the one after it. Who is killed
  /// with it in hand has had it: a durable subscriber that wants it shown again reads in place.
  ///
  /// errors  empty; closed  and never more will come; disconnected  it lagged, and must join again
  ///         no_cell, overflow  the message stays the next
  ///         corrupt  the bytes contradict themselves
  std::expected<TakenMessage, Status> take() noexcept;

  /// The next message in place: it and its block's bytes stay as they are until advance(). Null if there is none, or
  /// if the policy is not block.
  const Message* peek() noexcept;
  std::span<const std::byte> bytes(const Message& message) const noexcept;
  /// Go past the next message.  errors  as take(), but those of a reference
  Status advance() noexcept;
  /// An earlier subscriber of the name was shown the next message in place, and did not go past it.
  bool redelivered() const noexcept { return position_ < redeliver_below_; }

  // Any thread may ask these four.
  bool has_message() const noexcept;  // or has lost some
  bool ready() const noexcept;        // there is a message, or there is an end
  bool ended() const noexcept;        // the publisher has closed it and everything was read
  bool disconnected() const noexcept;
  std::uint64_t position() const noexcept { return position_; }  // of the next message
  std::uint64_t missed() const noexcept {
    return missed_;
  }  // what `start` asked for and was gone when it joined; of a subscription that begins anew what it has not read
  // Messages that were dropped since, or since the last subscriber of the name, before they were read.
  std::uint64_t lost() const noexcept { return lost_; }
  std::uint64_t lag() const noexcept;  // messages published and not read
  QueueId id() const noexcept { return end_.id; }
  explicit operator bool() const noexcept { return end_.row != nullptr; }
  /// Ready as ready(), for wait_any(), as long as this object stays where it is. Any thread may look.
  WaitSource messages() const noexcept;

 private:
  bool is_there(std::uint64_t position) const noexcept;
  friend std::expected<bool, Status> ensure_subscription(Lane& lane, QueueId queue,
                                                         const SubscriberOptions& options) noexcept;
  struct Opened;
  static std::expected<Opened, Status> open(Lane& lane, QueueId queue,
                                            const SubscriberOptions& options) noexcept;
  static std::expected<Subscriber, Status> make(const Opened& opened,
                                                const SubscriberOptions& options) noexcept;
  static std::expected<Subscriber, Status> join_named(const Opened& opened,
                                                      const SubscriberOptions& options) noexcept;
  Subscriber(const Opened& opened, SubscriberRow& row, SubscriberPolicy policy) noexcept;
  void resume(const StreamRing& ring, const Start& start) noexcept;
  void renew(const StreamRing& ring, const Start& start) noexcept;
  std::expected<Message, Status> next() noexcept;
  Status pass() noexcept;
  void step(std::uint32_t length) noexcept;
  void begin(const StreamRing& ring, const Start& start) noexcept;

  RingEnd end_;
  SubscriberRow* row_ = nullptr;
  SubscriberPolicy policy_ = SubscriberPolicy::block;
  bool is_durable_ = false;
  std::uint64_t join_ = 0;  // SubscriberRow::joins of this subscription
  std::uint64_t position_ = 0;
  std::uint64_t shown_ = 0;            // SubscriberRow::shown
  std::uint64_t redeliver_below_ = 0;  // the position behind what earlier subscribers of the name were shown
  std::uint64_t missed_ = 0;
  std::uint64_t lost_ = 0;
};

/// Make a durable subscription that nobody has yet, where options.start says; leave one of that name as it is,
/// whoever has it. So that nothing is missed between the publisher's first message and the subscriber's coming.
///
/// returns  whether it was made
/// errors   as Subscriber::join(), bad_argument also without a name; busy  another lane makes it at this moment
/// threads  the lane's; O(subscribers_max)
std::expected<bool, Status> ensure_subscription(Lane& lane, QueueId queue,
                                                const SubscriberOptions& options) noexcept;

}  // namespace sluice
