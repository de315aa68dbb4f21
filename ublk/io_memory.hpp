// Page-aligned memory for the I/O of a queue, given back at the end; and the limit on locking it.
#pragma once

#include "shm/status.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

class IoMemory {
 public:
  /// bytes   0: none, bytes() is empty
  /// locked  keep it in memory: nothing that the device serves can then wait for it to be paged in
  /// errors  exhausted  no memory, or RLIMIT_MEMLOCK; what is needed and what is there
  static Expected<IoMemory> map(std::size_t bytes, bool locked);
  IoMemory() = default;
  IoMemory(IoMemory&& other) noexcept;
  IoMemory& operator=(IoMemory&&) = delete;
  ~IoMemory();

  std::span<std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

/// Make sure that this process may lock `bytes`: raise RLIMIT_MEMLOCK if that is permitted.
/// errors  exhausted  it is too low, and may not be raised; what is needed and what is there
Expected<void> ensure_lockable(std::uint64_t bytes);

}  // namespace sluice
