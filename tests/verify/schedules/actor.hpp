// One process of a schedule: it does what its part of the seed says, and tells the board.
#pragma once

#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"
#include "runtime/session.hpp"
#include "tests/verify/schedules/board.hpp"
#include "tests/verify/support/stepper.hpp"
#include "tests/verify/support/traps.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::verify {

/// Where an actor that asks for others to run stops: this program's sched_yield() is a mark.
std::uint64_t yield_address() noexcept;

class Script {
 public:
  Script(Board& board, const Plan& plan, std::size_t actor, std::string path, const Traps& traps,
         const StepMarks& marks);

  /// `joined`: it is in the segment before the first step; else joining is stepped.
  void run(bool joined);

 private:
  static constexpr std::size_t held_max = 24;

  struct Held {
    Reference reference;
    Lane* lane;
  };

  // Run `operation` where it is stepped; a death in it is judged by `doing`.
  template <class Operation>
  auto stepped(std::string_view what, Doing doing, Operation&& operation);
  void join(bool is_stepped);
  void leave();
  void release_all();
  Act choose();
  void act(Act act);

  void allocate(std::size_t bytes);
  void release();
  void clone();
  void share();
  void look_up();
  void resize();
  void push();
  void pop(bool acknowledges);
  void take_role();
  void give_role();
  void second_lane();
  void recover();

  WorkQueue& work(std::uint32_t queue);
  bool others_push(std::uint32_t queue) const;
  void work_push();
  void work_take();
  void work_end();
  void work_reject();
  void work_forward();
  void work_close();
  void check_taken(std::uint32_t queue, const WorkLease& lease, std::uint64_t since);
  void end_leases();

  void publish();
  void trim();
  void subscribe();
  void read();
  void read_in_place();
  void judge_read(std::uint64_t published, const Message& message, std::uint64_t expected);
  void judge_nothing(std::uint64_t published, Status status);
  void leave_broadcast();
  bool claim_publisher();
  void check_publisher();

  void hold(Lane& lane, Reference reference);
  Held* pick();
  void forget(const Held& held);
  void check_bytes(Lane& lane, Reference reference, std::string_view when);
  void expect(bool holds, std::string_view what);
  Lane& any_lane();

  Board& board_;
  const Plan& plan_;
  std::size_t self_;
  std::string path_;
  const Traps& traps_;
  const StepMarks& marks_;
  Random random_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Lane> lane_, second_;  // destroyed before the session
  std::array<StreamProducer, streams_max> producers_;
  std::array<StreamConsumer, streams_max> consumers_;
  std::array<std::uint64_t, streams_max> shown_here_{};  // messages, since this took the role
  struct Lease {
    std::uint32_t queue;
    WorkLease lease;
    std::uint64_t number;
  };
  Lease* pick_lease() { return leases_.empty() ? nullptr : &leases_[random_.below(leases_.size())]; }

  std::array<WorkQueue, work_queues_max> works_;
  std::vector<Lease> leases_;
  Publisher publisher_;
  Subscriber subscriber_;
  SubscriberPolicy policy_ = SubscriberPolicy::block;
  std::vector<Held> held_;
  std::uint32_t deaths_seen_ = 0;
};

}  // namespace sluice::verify
