// The connection pool: slots with generations, and lists of slots. Everything is allocated when it opens.
//
// A slot is taken when its connection becomes a flow and freed when the flow's last message is in its stream:
// so what can wait to be pushed is bounded by the pool. The generation moves on when the slot is freed; whatever
// still names the old one finds nothing.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

/// A connection by its slot and the generation of that slot's holder.
struct ConnectionId {
  static constexpr std::uint32_t nobody = ~std::uint32_t{0};
  std::uint32_t slot = nobody;
  std::uint32_t generation = 0;
  bool operator==(const ConnectionId&) const noexcept = default;
};

/// What an unarmed connection waits for before it is read from again. At most one at a time.
enum class Waiting : std::uint8_t {
  nothing,
  arming,   // room in the ring's submission queue
  buffers,  // the buffer ring to fill up
  stream,   // its stream to have room
  share,    // its blocks to be taken by the worker
};

struct Connection {
  enum class State : std::uint8_t {
    free,
    open,
    ending
  };  // ending: closed, its last message is not pushed yet

  int fd = -1;
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  State state = State::free;
  Waiting waiting = Waiting::nothing;
  bool armed = false;       // the kernel has a multishot receive for it
  bool cancelling = false;  // and was asked to end that
  bool ended = false;       // the peer has closed; nothing follows
  bool cut = false;         // the drain's grace is over
  int failure = 0;          // errno that ends the flow
  std::uint32_t stream = 0;
  std::uint32_t outstanding = 0;  // blocks that no worker has taken yet
  std::uint64_t flow = 0;
  std::uint64_t position = 0;  // bytes received
  std::uint32_t next = ConnectionId::nobody;
  std::uint32_t previous = ConnectionId::nobody;

  ConnectionId id() const noexcept { return {slot, generation}; }
};

class ConnectionPool {
 public:
  explicit ConnectionPool(std::uint32_t count);
  ConnectionPool(const ConnectionPool&) = delete;
  ConnectionPool& operator=(const ConnectionPool&) = delete;
  /// Closes what is open.
  ~ConnectionPool();

  /// Take a slot for the socket `fd`, which is the pool's then. Null when all are taken.
  Connection* take(int fd) noexcept;
  /// Close the socket, keep the slot.
  void close(Connection& connection) noexcept;
  /// Free the slot. Nothing finds the connection by its id any more.
  void free(Connection& connection) noexcept;

  /// Null: no such slot, or it has another holder.
  Connection* find(ConnectionId id) noexcept;
  Connection& at(std::uint32_t slot) noexcept { return slots_[slot]; }

  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(slots_.size()); }
  std::uint32_t taken() const noexcept { return taken_; }
  bool full() const noexcept { return taken_ == slots_.size(); }

 private:
  std::vector<Connection> slots_;
  std::uint32_t free_head_ = ConnectionId::nobody;
  std::uint32_t taken_ = 0;
};

/// First-in first-out list of connections, linked through them. A connection is in one list at most.
class ConnectionList {
 public:
  void push(ConnectionPool& pool, Connection& connection) noexcept;
  /// The slot that is first; nobody when empty.
  std::uint32_t front() const noexcept { return head_; }
  void remove(ConnectionPool& pool, Connection& connection) noexcept;
  bool empty() const noexcept { return count_ == 0; }
  std::uint32_t count() const noexcept { return count_; }

 private:
  std::uint32_t head_ = ConnectionId::nobody;
  std::uint32_t tail_ = ConnectionId::nobody;
  std::uint32_t count_ = 0;
};

}  // namespace sluice
