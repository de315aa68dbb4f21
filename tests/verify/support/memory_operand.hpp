// Which memory the next instruction of a stopped process touches: where orders of several processes differ.
#pragma once

#include <cstdint>
#include <optional>

#if defined(__x86_64__)
#include <sys/user.h>

namespace sluice::verify {

/// The address of the memory operand of the instruction at `registers.rip`, whose bytes are the caller's code too.
///
/// returns  nothing if it has none; nor for operands relative to rip, fs or gs, for the stack's own instructions
///          and for those with a VEX or EVEX prefix (copies of bytes in bulk), which this decoder leaves out
/// source   Intel SDM volume 2, chapter 2 and appendix A
std::optional<std::uint64_t> memory_operand(const user_regs_struct& registers) noexcept;

/// Whether the instruction at `address`, which is the caller's code too, has a memory operand that is not on the
/// stack (no frame pointer is omitted: rbp is the stack's), and can be executed elsewhere.
bool may_touch_segment(std::uint64_t address) noexcept;

/// Whether the next instruction is a tracee's mark (StepMarks::mark).
bool is_mark(const user_regs_struct& registers) noexcept;

}  // namespace sluice::verify
#endif
