// Unix datagrams. What is larger than a piece goes in several: a datagram must fit the send buffer, whose limit an
// ordinary user cannot raise.
#include "tests/bench/queues/descriptors.hpp"
#include "tests/bench/queues/transports.hpp"

#include <algorithm>
#include <vector>

#include <sys/socket.h>

namespace sluice::bench {

namespace {

constexpr std::size_t piece_bytes = 64 * 1024;
constexpr int buffer_bytes = 1 << 20;  // asked for; the kernel gives what net.core.wmem_max allows

class SocketEnd {
 public:
  SocketEnd(int fd, std::uint64_t bytes) : fd_(fd), to_send_(bytes), received_(bytes) {}
  std::byte* loan() { return to_send_.data(); }
  void send() {
    move_all("socket", to_send_.data(), to_send_.size(), [&](const std::byte* from, std::size_t bytes) {
      return ::send(fd_, from, std::min(bytes, piece_bytes), MSG_NOSIGNAL);
    });
  }
  const std::byte* receive() {
    move_all("socket", received_.data(), received_.size(), [&](std::byte* to, std::size_t bytes) {
      return ::recv(fd_, to, std::min(bytes, piece_bytes), 0);
    });
    return received_.data();
  }
  void release() {}

 private:
  int fd_;
  std::vector<std::byte> to_send_;
  std::vector<std::byte> received_;
};

class SocketPair final : public Pair {
 public:
  explicit SocketPair(Waits waits) {
    if (::socketpair(AF_UNIX, SOCK_DGRAM, 0, both_.fds) != 0) die("no socket can be made");
    for (const int fd : both_.fds) {
      if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes) != 0)
        die("SO_SNDBUF cannot be set");
      if (waits == Waits::spins) never_block(fd);
    }
  }

  void run(Side side, Board& board) override {
    SocketEnd end(both_.fds[static_cast<unsigned>(side)], board.task.bytes);
    measure(end, side, board);
  }

 private:
  DescriptorPair both_;
};

}  // namespace

std::unique_ptr<Pair> open_socket(const Task&, Waits waits) { return std::make_unique<SocketPair>(waits); }

}  // namespace sluice::bench
