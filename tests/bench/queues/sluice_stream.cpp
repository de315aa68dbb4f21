// Our stream: a block of the segment is allocated, written and pushed; popped, read and released.
#include "ipc/stream.hpp"
#include "tests/bench/queues/sluice_side.hpp"
#include "tests/bench/queues/transports.hpp"

#include <chrono>

namespace sluice::bench {

namespace {

using namespace std::chrono_literals;

class StreamEnd {
 public:
  StreamEnd(const std::string& path, Side side, std::uint64_t bytes, Waits waits)
      : side_(path, side == Side::caller ? "caller" : "partner", bytes), waits_(waits) {
    const char* names[] = {"there", "back"};
    const auto mine = static_cast<unsigned>(side);
    producer_ = must(StreamProducer::claim(side_.lane(), side_.queue(names[mine])));
    consumer_ = must(StreamConsumer::claim(side_.lane(), side_.queue(names[1 - mine])));
  }

  std::byte* loan() { return side_.loan(); }

  void send() {
    const auto message = side_.message();
    for (;;) {
      const auto status = producer_.push(message, side_.loaned());
      if (status == Status::ok) return;
      if (status != Status::full) must(status);
      wait([&] { return producer_.room() != 0; });
    }
  }

  const std::byte* receive() {
    const Message* message;
    while ((message = consumer_.peek()) == nullptr) wait([&] { return !consumer_.empty(); });
    return side_.payload(*message);
  }

  void release() { must(consumer_.acknowledge()); }

 private:
  template <class Ready>
  void wait(Ready&& ready) {
    if (waits_ == Waits::spins) return cpu_relax();
    side_.lane().heap().flush();  // nobody waits for blocks that a sleeper has freed
    const auto status = wait_until(side_.lane().spin(), side_.lane().row().doorbell, 1s, ready);
    if (status != Status::timeout) must(status);
  }

  SluiceSide side_;
  StreamProducer producer_;
  StreamConsumer consumer_;
  Waits waits_;
};

class StreamPair final : public Pair {
 public:
  StreamPair(const Task& task, Waits waits) : waits_(waits) {
    create_segment(path_.str(), task.bytes, [&](Lane& lane) {
      for (const char* name : {"there", "back"}) must(create_stream(lane, name, in_flight(task.bytes)));
    });
  }

  void run(Side side, Board& board) override {
    StreamEnd end(path_.str(), side, board.task.bytes, waits_);
    measure(end, side, board);
  }

 private:
  ScratchPath path_{"queues"};
  Waits waits_;
};

}  // namespace

std::unique_ptr<Pair> open_stream(const Task& task, Waits waits) {
  return std::make_unique<StreamPair>(task, waits);
}

}  // namespace sluice::bench
