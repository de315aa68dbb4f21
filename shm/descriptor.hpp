// Descriptors of files that must not be taken for standard input, output or error.
#pragma once

#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace sluice {

/// The same open file at a descriptor above 2. A process that was started with a standard stream closed is given its
/// number by open(), and what it prints would land in the segment. On an error `fd` is closed: -1, and errno.
inline int above_standard(int fd) noexcept {
  if (fd < 0 || fd > 2) return fd;
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  const int error = errno;
  ::close(fd);
  errno = error;
  return moved;
}

}  // namespace sluice
