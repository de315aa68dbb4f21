// Counts what a thread allocates through operator new. In its own file: the compiler must not see the pairs.
#pragma once

#include <cstdint>

namespace sluice::test {

/// The sanitizers bring an operator new of their own; then nothing is counted.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool allocations_are_counted = false;
#else
inline constexpr bool allocations_are_counted = true;
#endif

std::uint64_t allocations_of_this_thread() noexcept;

}  // namespace sluice::test
