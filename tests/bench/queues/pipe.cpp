// Two pipes, made larger where the system allows it.
#include "tests/bench/queues/descriptors.hpp"
#include "tests/bench/queues/transports.hpp"

#include <vector>

namespace sluice::bench {

namespace {

constexpr int pipe_bytes = 1 << 20;  // the most that an ordinary user may have

class PipeEnd {
 public:
  PipeEnd(int out, int in, std::uint64_t bytes) : out_(out), in_(in), to_send_(bytes), received_(bytes) {}
  std::byte* loan() { return to_send_.data(); }
  void send() {
    move_all("pipe", to_send_.data(), to_send_.size(),
             [&](const std::byte* from, std::size_t bytes) { return ::write(out_, from, bytes); });
  }
  const std::byte* receive() {
    move_all("pipe", received_.data(), received_.size(),
             [&](std::byte* to, std::size_t bytes) { return ::read(in_, to, bytes); });
    return received_.data();
  }
  void release() {}

 private:
  int out_;
  int in_;
  std::vector<std::byte> to_send_;
  std::vector<std::byte> received_;
};

class PipePair final : public Pair {
 public:
  explicit PipePair(Waits waits) {
    for (auto* each : {&there_, &back_}) {
      if (::pipe(each->fds) != 0) die("no pipe can be made");
      if (::fcntl(each->fds[1], F_SETPIPE_SZ, pipe_bytes) < 0 && errno != EPERM)
        die("a pipe cannot be made larger");
      if (waits == Waits::spins)
        for (const int fd : each->fds) never_block(fd);
    }
  }

  void run(Side side, Board& board) override {
    const bool is_caller = side == Side::caller;
    PipeEnd end((is_caller ? there_ : back_).fds[1], (is_caller ? back_ : there_).fds[0], board.task.bytes);
    measure(end, side, board);
  }

 private:
  DescriptorPair there_, back_;
};

}  // namespace

std::unique_ptr<Pair> open_pipe(const Task&, Waits waits) { return std::make_unique<PipePair>(waits); }

}  // namespace sluice::bench
