// One queue that the ingress fills, of any kind, and what of it has been taken since.
//
// Taken is: from a stream what was popped, from a work queue what is done, of a broadcast what every subscriber has
// read that is waited for. A broadcast keeps what was read for who comes late, until shed() asks for it.
// Thread safety: the lane's thread.
#pragma once

#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"

#include <cstdint>
#include <expected>
#include <string>
#include <variant>

namespace sluice {

class Outlet {
 public:
  Outlet() = default;
  /// Open a queue that exists; of a stream or broadcast take the producer's role.
  /// errors  not_found; busy  another producer has it; bad_argument  an extent map; corrupt
  static Expected<Outlet> open(Lane& lane, const std::string& name);

  /// Push a message, with a block or a null reference.
  /// returns  its position in the queue
  /// errors   full, and those of the kinds
  std::expected<std::uint64_t, Status> push(const Message& message, Reference reference) noexcept;
  /// What is pushed next gets this position, or in a work queue a later one.
  std::uint64_t next() const noexcept;
  std::uint64_t capacity() const noexcept { return capacity_; }

  /// Look how far the queue has been taken, for is_taken().  errors  corrupt  the queue's words contradict themselves
  Status look() noexcept;
  /// The message at a position that was pushed here has been taken.
  bool is_taken(std::uint64_t position) const noexcept;
  /// Everything before it was taken when this was opened.
  std::uint64_t first_untaken() const noexcept { return taken_; }
  /// It is a stream, of which a flow can have one among several.
  bool in_flow_order() const noexcept { return std::holds_alternative<StreamProducer>(end_); }
  /// Messages may be taken out of order.
  bool out_of_order() const noexcept { return std::holds_alternative<WorkQueue>(end_); }
  /// Room for so many more, at least.
  std::uint64_t room() noexcept;

  /// Publisher::shed(), of a broadcast.
  bool shed() noexcept;

  /// Whoever takes from it rings this lane if it sleeps: a stream's consumer, or who finds its mark (room_marks()). A
  /// broadcast's subscribers ring only when the ring is full.
  bool rings() const noexcept { return !std::holds_alternative<Publisher>(end_); }
  /// Marks to leave before a sleep; null: who takes knows the lane.
  std::uint64_t* room_marks() const noexcept { return out_of_order() ? &row_->producers_waiting : nullptr; }
  /// The doorbell of its only consumer, if it has one.
  Doorbell* consumer_bell() const noexcept;

  /// Nothing will follow. A work queue stays open: others may push into it, and who knows that they do not closes it.
  void close() noexcept;

 private:
  using End = std::variant<StreamProducer, WorkQueue, Publisher>;
  Outlet(Lane& lane, QueueRow& row, std::uint64_t capacity, End end) noexcept
      : lane_(&lane), row_(&row), capacity_(capacity), end_(std::move(end)) {}

  Lane* lane_ = nullptr;
  QueueRow* row_ = nullptr;
  std::uint64_t capacity_ = 0;
  std::uint64_t taken_ = 0;  // everything before it is, if what is taken is taken in order
  End end_;
};

}  // namespace sluice
