// From flows to queues: several streams, of which each flow has one, or a single queue of another kind. Each message goes
// behind what its queue has not taken yet.
//
//   send ── room ───────────────────────────> queue ── taken: collect() ──> blocks counted off
//     └── none ──> pending, in order ── flush ──┘
//
// Invariants
//   1. While a queue has anything pending, everything for it goes behind that: order is the queue's.
//   2. What can be pending is bounded by the lane's cells (blocks) and two events for each connection, and all of it
//      was allocated at the start.
// Thread safety: the lane's thread.
#pragma once

#include "io/connections.hpp"
#include "io/outlet.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

/// Told about each block that a worker has taken, when its connection is still there.
class TakenListener {
 public:
  virtual void taken(Connection& connection) noexcept = 0;

 protected:
  ~TakenListener() = default;
};

class Dispatch {
 public:
  /// Open every queue in `names`.
  ///
  /// blocks  the most that can be pending at once
  /// errors  not_found, busy  naming the queue; bad_argument  several, and one of them is no stream
  static Expected<std::unique_ptr<Dispatch>> open(Lane& lane, ConnectionPool& pool,
                                                  const std::vector<std::string>& names, std::uint32_t blocks,
                                                  std::uint32_t pending_high);

  /// The stream with the fewest flows; the next one in turn among equals. Counts the new flow.
  std::uint32_t assign() noexcept;
  /// A flow of `stream` is over.
  void unassign(std::uint32_t stream) noexcept { --streams_[stream].flows; }

  /// Send a message with a block, which is held by this lane; its connection is charged with it.
  void send(std::uint32_t stream, const Message& message, Reference reference,
            Connection& connection) noexcept;
  /// Send a message without a block. `last` frees the connection's slot once it is in the stream.
  void send(std::uint32_t stream, const Message& message, Connection* last = nullptr) noexcept;

  /// Wake the workers that slept when something was sent to them. Once for all that a turn sends: woken for the
  /// first message a worker would often take this thread's CPU, find one message, and sleep again.
  void wake() noexcept;

  /// Push what is pending, as far as there is room. True if anything moved.
  bool flush() noexcept;

  /// Look at what workers took since the last time, and count it off its connections. True if anything moved.
  bool collect() noexcept;
  /// Whether collect() or flush() would find something.
  bool would_move() noexcept;
  /// A sleep is about to begin, in which consumers ring the lane when they take something; it is over.
  /// Returns the word of the lane's doorbell to sleep against.
  std::uint32_t begin_sleep() noexcept { return sluice::begin_sleep(lane_, marks_); }
  void end_sleep() noexcept;
  /// They do ring. Else it is for the lane to look again.
  bool consumers_ring() const noexcept;
  /// Have broadcasts drop what they keep beyond need, so that blocks come free. True: they did.
  bool shed() noexcept;
  void listen(TakenListener& listener) noexcept { listener_ = &listener; }

  /// The stream holds too much back: its connections are not to be read from. Ends with hysteresis.
  bool stalled(std::uint32_t stream) const noexcept { return streams_[stream].stalled; }
  std::uint32_t stream_count() const noexcept { return static_cast<std::uint32_t>(streams_.size()); }
  const std::string& name(std::uint32_t stream) const noexcept { return streams_[stream].name; }
  std::uint64_t pending() const noexcept { return pending_; }
  std::uint64_t pending(std::uint32_t stream) const noexcept { return streams_[stream].pending; }
  /// ok, or what a push or a stream's words said that must not be: the segment is damaged.
  Status health() const noexcept { return health_; }

  /// Nothing will follow in any queue.
  void close() noexcept;

 private:
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  struct Pending {
    Message message;
    Reference reference;
    ConnectionId owner;  // of the block, or whose slot is freed
    bool last = false;
    std::uint32_t next = none;
  };
  struct Stream {
    std::string name;
    Outlet outlet;
    std::vector<ConnectionId> owners;  // by position modulo capacity: who is charged with the block there
    std::uint64_t taken = 0;           // everything before it is counted off
    std::uint64_t end = 0;             // behind the last message that was pushed here
    std::uint64_t sweep = 0;           // where to look next for what was taken out of order
    std::uint32_t flows = 0;
    std::uint32_t first = none, final = none;
    std::uint32_t pending = 0;
    bool stalled = false;
    Doorbell* held_bell = nullptr;  // of a sleeping worker that wake() rings
  };

  Dispatch(Lane& lane, ConnectionPool& pool, std::uint32_t pending_high) noexcept
      : lane_(lane), pool_(pool), pending_high_(pending_high) {}
  void submit(std::uint32_t index, const Pending& entry) noexcept;
  Status push(Stream& stream, const Pending& entry) noexcept;
  void hold_bell(Stream& stream) noexcept;
  bool flush(Stream& stream) noexcept;
  bool collect(Stream& stream) noexcept;
  bool count_off(Stream& stream, std::uint64_t position) noexcept;
  bool look(Stream& stream) noexcept;
  static std::uint64_t next_sweep(Stream& stream) noexcept;
  static bool is_charged_and_taken(const Stream& stream, std::uint64_t position) noexcept;
  static bool has_room_again(Stream& stream) noexcept;
  bool would_move(Stream& stream) noexcept;

  Lane& lane_;
  ConnectionPool& pool_;
  TakenListener* listener_ = nullptr;
  std::uint32_t pending_high_;
  std::vector<Stream> streams_;
  std::vector<std::uint64_t*> marks_;  // to leave before a sleep
  std::vector<Pending> entries_;
  std::uint32_t free_ = none;
  std::uint64_t pending_ = 0;
  std::uint32_t turn_ = 0;
  Status health_ = Status::ok;
};

}  // namespace sluice
