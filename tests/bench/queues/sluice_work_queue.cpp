// Our work queue, with one process at each end: a block is allocated, written and pushed; leased, read and acknowledged.
#include "ipc/work_queue.hpp"
#include "tests/bench/queues/sluice_side.hpp"
#include "tests/bench/queues/transports.hpp"

#include <chrono>

namespace sluice::bench {

namespace {

using namespace std::chrono_literals;

class WorkQueueEnd {
 public:
  WorkQueueEnd(const std::string& path, Side side, std::uint64_t bytes, Waits waits)
      : side_(path, side == Side::caller ? "caller" : "partner", bytes), waits_(waits) {
    const char* names[] = {"there", "back"};
    const auto mine = static_cast<unsigned>(side);
    out_ = must(WorkQueue::open(side_.lane(), side_.queue(names[mine])));
    in_ = must(WorkQueue::open(side_.lane(), side_.queue(names[1 - mine])));
  }

  std::byte* loan() { return side_.loan(); }

  void send() {
    const auto message = side_.message();
    for (;;) {
      const auto status = out_.push(message, side_.loaned());
      if (status == Status::ok) return;
      if (status != Status::full) must(status);
      wait(out_.room_source());
    }
  }

  const std::byte* receive() {
    for (;;) {
      const auto taken = in_.take();
      if (taken) {
        lease_ = *taken;
        return in_.bytes(lease_).data();
      }
      if (taken.error() != Status::empty) must(taken.error());
      wait(in_.messages());
    }
  }

  void release() { must(in_.acknowledge(lease_)); }

 private:
  void wait(const WaitSource& source) {
    if (waits_ == Waits::spins) return cpu_relax();
    side_.lane().heap().flush();  // nobody waits for blocks that a sleeper has freed
    const auto ready = wait_any(side_.lane(), {&source, 1}, 1s);
    if (!ready && ready.error() != Status::timeout) must(ready.error());
  }

  SluiceSide side_;
  WorkQueue out_;
  WorkQueue in_;
  WorkLease lease_;
  Waits waits_;
};

class WorkQueuePair final : public Pair {
 public:
  WorkQueuePair(const Task& task, Waits waits) : waits_(waits) {
    create_segment(path_.str(), task.bytes, [&](Lane& lane) {
      for (const char* name : {"there", "back"})
        must(create_work_queue(lane, name, {.capacity = in_flight(task.bytes)}));
    });
  }

  void run(Side side, Board& board) override {
    WorkQueueEnd end(path_.str(), side, board.task.bytes, waits_);
    measure(end, side, board);
  }

 private:
  ScratchPath path_{"queues"};
  Waits waits_;
};

}  // namespace

std::unique_ptr<Pair> open_work_queue(const Task& task, Waits waits) {
  return std::make_unique<WorkQueuePair>(task, waits);
}

}  // namespace sluice::bench
