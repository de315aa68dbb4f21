// Boost.Interprocess message_queue: copies into the queue and out of it.
#include "tests/bench/queues/transports.hpp"

#include <fmt/format.h>
#include <boost/interprocess/ipc/message_queue.hpp>

#include <vector>

#include <unistd.h>

namespace sluice::bench {

namespace {

namespace ipc = boost::interprocess;

class MessageQueueEnd {
 public:
  MessageQueueEnd(const std::string& out, const std::string& in, std::uint64_t bytes, Waits waits)
      : out_(ipc::open_only, out.c_str()),
        in_(ipc::open_only, in.c_str()),
        to_send_(bytes),
        received_(bytes),
        waits_(waits) {}

  std::byte* loan() { return to_send_.data(); }

  void send() {
    if (waits_ == Waits::sleeps) return out_.send(to_send_.data(), to_send_.size(), 0);
    while (!out_.try_send(to_send_.data(), to_send_.size(), 0)) cpu_relax();
  }

  const std::byte* receive() {
    ipc::message_queue::size_type bytes = 0;
    unsigned priority = 0;
    if (waits_ == Waits::sleeps)
      in_.receive(received_.data(), received_.size(), bytes, priority);
    else
      while (!in_.try_receive(received_.data(), received_.size(), bytes, priority)) cpu_relax();
    if (bytes != received_.size()) die("message_queue: a message of another size");
    return received_.data();
  }

  void release() {}

 private:
  ipc::message_queue out_;
  ipc::message_queue in_;
  std::vector<std::byte> to_send_;
  std::vector<std::byte> received_;
  Waits waits_;
};

class MessageQueuePair final : public Pair {
 public:
  MessageQueuePair(const Task& task, Waits waits) : waits_(waits) {
    for (const auto& name : {there_, back_})
      ipc::message_queue(ipc::create_only, name.c_str(), in_flight(task.bytes), task.bytes);
  }
  ~MessageQueuePair() override {
    for (const auto& name : {there_, back_}) ipc::message_queue::remove(name.c_str());
  }

  void run(Side side, Board& board) override {
    const bool is_caller = side == Side::caller;
    MessageQueueEnd end(is_caller ? there_ : back_, is_caller ? back_ : there_, board.task.bytes, waits_);
    measure(end, side, board);
  }

 private:
  std::string there_ = fmt::format("sluice-bench-queues-{}-there", getpid());
  std::string back_ = fmt::format("sluice-bench-queues-{}-back", getpid());
  Waits waits_;
};

}  // namespace

std::unique_ptr<Pair> open_message_queue(const Task& task, Waits waits) {
  return std::make_unique<MessageQueuePair>(task, waits);
}

}  // namespace sluice::bench
