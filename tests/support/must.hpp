// Unwrap results in tests. A failure throws: Catch reports it in the parent, run_child() in a child.
#pragma once

#include "shm/status.hpp"

#include <expected>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace sluice::test {

inline std::string describe(const Error& error) {
  return std::string(to_string(error.status)) + ": " + error.message;
}
inline std::string describe(Status status) { return std::string(to_string(status)); }

template <class T, class E>
T must(std::expected<T, E> result) {
  if (!result) throw std::runtime_error("unexpected failure: " + describe(result.error()));
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline void must(Status status) {
  if (status != Status::ok) throw std::runtime_error("unexpected status: " + describe(status));
}

/// For conditions inside a child, where no test macro may be used.
inline void must_hold(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(std::string("does not hold: ") + what);
}

}  // namespace sluice::test
