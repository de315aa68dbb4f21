// Results of operations: one byte on hot paths, a sentence on control paths.
#pragma once

#include <cerrno>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace sluice {

/// What an operation came to. Values are stable: tools print them and files may hold them.
enum class [[nodiscard]] Status : std::uint8_t {
  ok = 0,
  exhausted = 1,      // no room and the file cannot grow, or the file system is full
  too_large = 2,      // above the largest block this segment can hold
  bad_argument = 3,   // zero bytes, an index out of range, a name too long
  stale = 4,          // the handle's generation is over, or the reference was given up already
  no_cell = 5,        // the lane's ledger is full
  full = 6,           // the queue has no free slot
  empty = 7,          // the queue has no message
  timeout = 8,        // the wait ended without its condition
  interrupted = 9,    // the wait was told to stop
  busy = 10,          // somebody else holds the role, name or claim
  not_found = 11,     // no such name
  exists = 12,        // the name is taken
  io_error = 13,      // the kernel refused; Error carries errno
  incompatible = 14,  // not a segment, or of another layout, byte order or page size
  corrupt = 15,       // the bytes break an invariant
  permission = 16,    // the file's mode forbids it
  disagreement = 17,  // evidence of death contradicts itself; nothing was done
  borrowed = 18,      // a borrowed view cannot be freed, only returned
  read_only = 19,     // the mapping is read-only
  closed = 20,        // the peer or the stream has ended
  overflow = 21,      // the block has 65535 references
  shared = 22,        // others hold the block too
  disconnected = 23,  // the subscription is over: its subscriber lagged too far
};

constexpr std::string_view to_string(Status status) noexcept {
  switch (status) {
    case Status::ok: return "ok";
    case Status::exhausted: return "exhausted";
    case Status::too_large: return "too_large";
    case Status::bad_argument: return "bad_argument";
    case Status::stale: return "stale";
    case Status::no_cell: return "no_cell";
    case Status::full: return "full";
    case Status::empty: return "empty";
    case Status::timeout: return "timeout";
    case Status::interrupted: return "interrupted";
    case Status::busy: return "busy";
    case Status::not_found: return "not_found";
    case Status::exists: return "exists";
    case Status::io_error: return "io_error";
    case Status::incompatible: return "incompatible";
    case Status::corrupt: return "corrupt";
    case Status::permission: return "permission";
    case Status::disagreement: return "disagreement";
    case Status::borrowed: return "borrowed";
    case Status::read_only: return "read_only";
    case Status::closed: return "closed";
    case Status::overflow: return "overflow";
    case Status::shared: return "shared";
    case Status::disconnected: return "disconnected";
  }
  return "unknown";
}

/// A failure on a control path: what kind, which errno (0 if none), and one line for a person that names
/// the thing, what was found and what was expected.
struct Error {
  Status status = Status::io_error;
  int errno_value = 0;
  std::string message;
};

template <class T>
using Expected = std::expected<T, Error>;

inline std::unexpected<Error> fail(Status status, std::string message, int errno_value = 0) {
  return std::unexpected(Error{status, errno_value, std::move(message)});
}

/// A system call's failure. `what` names the call and the thing, e.g. "open /dev/shm/demo".
std::unexpected<Error> fail_errno(std::string_view what, int errno_value = errno);

}  // namespace sluice
