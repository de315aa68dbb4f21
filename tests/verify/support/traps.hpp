// Breakpoints at every instruction of the library that may touch a segment. A process with them runs at full speed
// to the next one: about one instruction in six, and without the step trap, which costs a virtual machine's exit.
//
// The instruction itself is executed from a copy, so the breakpoint stays: set a stopped tracee's rip to copy_of().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace sluice::verify {

class Traps {
 public:
  /// Finds the instructions by `objdump`, of this program. Before processes are forked that are to have them.
  /// Throws if there is no objdump.
  Traps();
  ~Traps();
  Traps(const Traps&) = delete;
  Traps& operator=(const Traps&) = delete;

  /// Set all breakpoints in the calling process, for good.
  void plant() const;
  /// Where the instruction at `address` can be executed if a breakpoint is set there.
  std::optional<std::uint64_t> copy_of(std::uint64_t address) const noexcept;
  std::size_t size() const noexcept { return addresses_.size(); }

 private:
  void add(std::uint64_t address, std::size_t length);

  std::vector<std::uint64_t> addresses_;  // ascending
  std::byte* copies_ = nullptr;
  std::size_t copies_max_ = 0;
};

}  // namespace sluice::verify
