// Work queue: many producers, many consumers, each message to one of them. A message that is taken is leased to the
// consumer's lane and stays in its slot until it is acknowledged: a consumer that dies gives it back, in its old place.
//
//   push    aux = CLAIM(q, p) ; slot EMPTY(p) -> WRITING(me) ; tail ; aux = PUBLISH ; slot ; FULL ; handle = 0 ; aux = 0
//   take    aux = LEASE(q, p) ; slot FULL -> LEASED(me)
//   done    aux = ACKNOWLEDGE ; handle ; slot EMPTY(p + capacity) ; aux = 0
//   reject  slot FULL, deliveries + 1 ; front <= p ; aux = 0
//
// Invariants
//   1. The slot's stamp is the truth: its state, and whose claim it is. Whoever claims a slot has a cell that says so
//      first, so that a death cannot leave a claim that nobody finds.
//   2. Positions are claimed in order. A slot that is EMPTY for p means that nothing was ever pushed at p or after it.
//   3. Hints: tail, at most behind; the front, at most behind too. What comes back lowers the front, and moves its
//      version on, so that who read slots before cannot raise it over that.
// Thread safety: a WorkQueue belongs to the thread of its lane; any number of them.
// source: Vyukov's bounded queue (turns in slots); docs/recovery.md#work, docs/decisions/0013-leases-in-slots.md
#pragma once

#include "ipc/queues.hpp"
#include "ipc/waiting.hpp"
#include "ipc/work_layout.hpp"

#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string_view>

namespace sluice {

struct WorkOptions {
  std::uint32_t capacity = 1024;  // messages, waiting and leased; rounded up to a power of two
  QueuePolicy policy = QueuePolicy::block;
  /// A message that was delivered so often goes to `dead_letter`, another work queue; [1, 255], 0: never. Where that is
  /// full its policy says what then: block leaves the message where it is, fail drops it, counted as refused there.
  std::uint32_t deliveries_max = 0;
  std::string_view dead_letter = {};  // NOLINT(readability-redundant-member-init): gcc asks for it
};

/// Create a work queue.
/// errors  as create_stream; bad_argument  a limit without a dead letter queue or the other way round
///         not_found  no such dead letter queue
Expected<QueueId> create_work_queue(Lane& lane, std::string_view name, const WorkOptions& options = {});

/// Find it, or create it where there is none.
/// errors  as both; bad_argument  there is one of another kind, capacity, policy or limit
Expected<QueueId> find_or_create_work_queue(Lane& lane, std::string_view name,
                                            const WorkOptions& options = {});

/// A message that this lane works on.
struct WorkLease {
  std::uint64_t position = 0;  // in the queue
  std::uint32_t cell = 0;
  std::uint32_t deliveries = 0;  // times that it was delivered before; 255: or more
};

/// One lane's end of a work queue, to push and to take.
class WorkQueue {
 public:
  WorkQueue() = default;
  /// errors  stale  the queue is gone; bad_argument  it is no work queue; corrupt; exhausted  no memory
  static std::expected<WorkQueue, Status> open(Lane& lane, QueueId queue) noexcept;

  // ---- Producing

  /// Push a message that carries `reference` (its handle takes the place of message.handle); the reference is the
  /// queue's afterwards. With QueuePolicy::drop_oldest it makes room for itself.
  /// errors  full, closed, stale; busy  a device has it. Nothing changed then
  Status push(const Message& message, Reference reference) noexcept;
  /// Push a message without a block.  errors  full, closed, no_cell
  Status push(const Message& message) noexcept;
  bool has_room() const noexcept;
  /// Position of the message that this object has pushed last.
  std::uint64_t last_pushed() const noexcept { return last_pushed_; }
  /// Whether what was pushed at `position`, not longer ago than a round of the ring, is done.
  bool is_done(std::uint64_t position) const noexcept;
  /// Nothing more is pushed; consumers end when all is done. Until somebody opens it again.
  void close() noexcept;
  void reopen() noexcept;
  bool closed() const noexcept { return load(row_->closed, seq_cst) != 0; }

  // ---- Consuming

  /// Lease the oldest message that nobody works on: those of one producer come in the order in which it pushed them.
  /// errors  empty, no_cell
  std::expected<WorkLease, Status> take() noexcept;
  /// The message; it and its block stay where they are until the lease is over. Null: no such lease.
  const Message* message(const WorkLease& lease) const noexcept;
  /// The bytes that the message tells of.  Empty: it has none, or names no live block
  std::span<std::byte> bytes(const WorkLease& lease) const noexcept;

  /// The message is done; its block is released.  errors  stale  no lease of this lane, or over; nothing changed
  Status acknowledge(const WorkLease& lease) noexcept;
  /// The message is done, and its block is this lane's: to be changed and pushed on.  errors  stale
  /// returns  a null reference if it had none
  std::expected<Reference, Status> keep(const WorkLease& lease) noexcept;
  /// Give it back, to be delivered again before those that were pushed later.  errors  stale
  Status reject(const WorkLease& lease) noexcept;
  /// Push `message` with the leased block to another queue, of which `to` is the end of the same lane, and acknowledge,
  /// in one: whenever this process dies, the block is in one of both.
  ///
  /// to      a StreamProducer, a WorkQueue, or a Publisher, which makes the block findable: nobody changes it any more
  /// errors  as push() of `to`; stale  no lease of this lane, or over, or no live block; no_cell
  ///         bad_argument  the same queue, or another lane's end. The lease is as it was then
  /// source  docs/recovery.md#forward
  template <class To>
  Status forward(const WorkLease& lease, To& to, const Message& message) noexcept;

  bool has_message() const noexcept;
  /// It is closed, and all messages are done, also those that others work on. Looks at every slot once it is closed.
  bool ended() const noexcept;
  /// All that was pushed is done. Looks at every slot.
  bool is_empty() const noexcept;
  /// How much is not. Looks at every slot.
  std::uint64_t in_use() const noexcept;

  // ---- Waiting: for wait_any(), as long as this object stays where it is

  WaitSource messages() const noexcept;  // a message, or the end
  WaitSource room_source() noexcept;     // room, or closed
  QueueRow& row() noexcept { return *row_; }
  QueueId id() const noexcept { return id_; }
  std::uint64_t capacity() const noexcept { return mask_ + 1; }
  explicit operator bool() const noexcept { return row_ != nullptr; }

 private:
  friend class Forward;
  std::expected<std::uint64_t, Status> make_place(Handle handle, std::uint32_t cell) noexcept;
  void arrive(std::uint64_t position, const Message& message, Handle handle, std::uint32_t cell) noexcept;
  void arrived(std::uint64_t position, std::uint64_t bytes) noexcept { pushed(position, bytes); }
  Message& at(std::uint64_t position) const noexcept { return ring_[position & mask_]; }
  std::uint64_t base_of(std::uint64_t position) const noexcept {
    return position & ~mask_ & work_word::Base::max;
  }
  std::uint64_t aux(std::uint64_t kind, std::uint64_t position) const noexcept {
    return cell_aux::make(kind, id_.index, id_.era, position);
  }
  static std::expected<WorkQueue, Status> attach(Lane& lane, QueueId queue) noexcept;
  std::expected<std::uint64_t, Status> claim_slot(std::uint32_t cell) noexcept;
  void publish(const Message& message, Handle handle, std::uint64_t position) noexcept;
  Status push(const Message& message, Handle handle, std::uint32_t cell) noexcept;
  void pushed(std::uint64_t position, std::uint64_t bytes) noexcept;
  bool drop(std::uint64_t position, std::uint64_t word) noexcept;
  // A search meets a slot that was never used before so many: the front is that little behind, unless the file is
  // damaged.
  std::uint64_t steps_max() const noexcept { return 2 * capacity() + 64; }
  bool is_over_limit(std::uint64_t word) const noexcept;
  std::expected<WorkLease, Status> lease_next(std::uint32_t cell, bool over_limit) noexcept;
  void read_front() noexcept;
  void raise_front() noexcept;
  Message* slot_of(const WorkLease& lease) const noexcept;
  void give_back(const WorkLease& lease, std::uint64_t deliveries) noexcept;
  Status bury(const WorkLease& lease) noexcept;
  bool takes_one() const noexcept;
  bool buries() const noexcept;
  std::uint64_t first_waiting(std::uint64_t first, std::uint64_t end, bool over_limit) const noexcept;
  void empty_slot(Message& slot, std::uint64_t position) noexcept;
  void finish(std::uint64_t bytes) noexcept;
  void count_done() noexcept;

  Lane* lane_ = nullptr;
  QueueRow* row_ = nullptr;
  Message* ring_ = nullptr;
  QueueId id_;
  std::uint64_t mask_ = 0;
  std::uint64_t front_ = 0;    // as this lane saw it last
  std::uint64_t version_ = 0;  // of that
  std::uint64_t scan_ = 0;     // nothing waits before it, unless the version has changed
  std::uint64_t last_pushed_ = 0;
  std::uint64_t bytes_done_ = 0;  // not counted in the row yet
  std::uint32_t done_ = 0;
  std::unique_ptr<WorkQueue> dead_letter_;
};

/// Bring a cell that moves into or out of a work queue to rest, as its dead lane: recovery step 2. The caller stores
/// at_rest then. Repeatable.
void settle_work_cell(const LaneView& lane, Cell& cell) noexcept;
/// Whether what a lane's cell says PUBLISH of is there.
bool is_published(const LaneView& lane, std::uint64_t aux) noexcept;
/// Whether a cell that moves into or out of a work queue holds the reference in it.
bool work_cell_holds(const Segment& segment, std::uint64_t aux) noexcept;

/// A message at `position` waits again.
void lower_work_front(QueueRow& row, std::uint64_t position) noexcept;

}  // namespace sluice
