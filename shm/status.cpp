#include "shm/status.hpp"

#include <fmt/format.h>

#include <cstring>

namespace sluice {

namespace {

Status status_of(int errno_value) noexcept {
  switch (errno_value) {
    case EACCES:
    case EPERM:
    case EROFS: return Status::permission;
    case ENOENT: return Status::not_found;
    case EEXIST: return Status::exists;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EFBIG: return Status::exhausted;
    default: return Status::io_error;
  }
}

}  // namespace

std::unexpected<Error> fail_errno(std::string_view what, int errno_value) {
  char buffer[128];
  const char* text = strerror_r(errno_value, buffer, sizeof buffer);
  return fail(status_of(errno_value), fmt::format("{}: {}", what, text), errno_value);
}

}  // namespace sluice
