// What pipes and sockets have in common: descriptors, and calls that are tried again.
#pragma once

#include "shm/atomic.hpp"
#include "tests/bench/queues/processes.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace sluice::bench {

/// Both ends of a pipe, or of a pair of sockets.
class DescriptorPair {
 public:
  DescriptorPair() = default;
  ~DescriptorPair() {
    for (const int fd : fds)
      if (fd >= 0) ::close(fd);
  }
  DescriptorPair(const DescriptorPair&) = delete;
  DescriptorPair& operator=(const DescriptorPair&) = delete;

  int fds[2] = {-1, -1};
};

inline void never_block(int fd) {
  if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
    die("a descriptor cannot be set to O_NONBLOCK");
}

/// Until all bytes are through: one(from, bytes) is a system call that moves some of them.
template <class Byte, class One>
void move_all(const char* what, Byte* payload, std::size_t bytes, One&& one) {
  for (std::size_t done = 0; done < bytes;) {
    const auto moved = one(payload + done, bytes - done);
    if (moved > 0)
      done += static_cast<std::size_t>(moved);
    else if (moved == 0)
      die(fmt::format("{}: the other side is gone", what));
    else if (errno == EAGAIN)
      cpu_relax();
    else if (errno != EINTR)
      die(fmt::format("{}: {}", what, std::strerror(errno)));
  }
}

}  // namespace sluice::bench
