// Work queues with their witness: each delivery is compared with what is known of the message, and by whom.
//
// What is wrong throws, as in stream_ends.hpp.
#pragma once

#include "ipc/work_queue.hpp"
#include "tests/verify/soak/journal.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace sluice::verify {

/// All work queues of a segment, for one lane.
class WitnessedWork {
 public:
  WitnessedWork(Lane& lane, Witness& witness, std::uint32_t slot);

  /// Open or create them. false: there is no room for that at the moment.
  bool open();
  /// false: there is no room, or it is closed, or no ticket; the reference is the caller's still.
  bool push(std::uint32_t queue, Reference reference, std::uint64_t bytes);
  /// Lease the next message, after comparing it. false: there is none.
  bool take(std::uint32_t queue);

  std::size_t leases() const noexcept { return leases_.size(); }
  void acknowledge(std::size_t index);
  Reference keep(std::size_t index);  // null: it had no block
  void reject(std::size_t index);
  /// false: it stays where it is, or there is no room, or it is closed; the lease goes on.
  bool forward(std::size_t index, std::uint32_t to);
  /// Say that all leases come back: the lane ends.
  void forget_leases();
  /// Close it, or open it again.
  void turn(std::uint32_t queue);

  WorkQueue& queue(std::uint32_t index) { return queues_[index]; }

 private:
  struct Lease {
    std::uint32_t queue;
    WorkLease lease;
    Ticket* ticket;
    std::uint64_t word;
  };
  struct Expected {
    std::uint64_t returns;      // at least
    std::uint64_t unexplained;  // times that somebody must have died in a take, and said nothing
  };
  struct Order {
    std::uint64_t producer = 0, number = 0;
  };

  Ticket* next_ticket(std::uint32_t queue, std::uint32_t& index);
  bool may_reuse(Ticket& ticket);
  Message message_for(std::uint32_t queue, std::uint64_t ticket, std::uint64_t bytes);
  bool is_alive(std::uint64_t word) const noexcept;
  Ticket& ticket_of(const Message& message, std::uint32_t queue);
  std::optional<Expected> expect(std::uint64_t word, const Message& message, std::uint32_t queue) const;
  void check_order(const Message& message, std::uint32_t queue);
  void check_contents(const Message& message, const Ticket& ticket, std::uint32_t queue) const;
  std::uint64_t begin(Lease& lease, TicketStage stage, std::uint64_t returns);
  Lease remove(std::size_t lease);
  WorkHands& hands() const noexcept { return witness_.hands[slot_]; }

  Lane& lane_;
  Witness& witness_;
  std::uint32_t slot_;
  std::uint64_t life_;
  std::uint32_t next_ticket_ = 0;
  bool is_open_ = false;
  std::array<WorkQueue, work_queues> queues_;
  std::array<std::array<Order, slots_max>, work_queues> last_;  // first deliveries, by the producer's slot
  std::vector<Lease> leases_;
};

}  // namespace sluice::verify
