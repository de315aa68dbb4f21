#include "tests/verify/support/memory_operand.hpp"

#if defined(__x86_64__)
#include <array>
#include <bit>

namespace sluice::verify {

namespace {

using Byte = unsigned char;

const Byte* code_at(std::uint64_t address) noexcept {
  return reinterpret_cast<const Byte*>(address);  // NOLINT(performance-no-int-to-ptr)
}

constexpr bool is_prefix(Byte byte) noexcept {
  switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x66:
    case 0xf0:
    case 0xf2:
    case 0xf3: return true;
    default: return false;
  }
}

constexpr bool in(Byte byte, Byte first, Byte last) noexcept { return byte >= first && byte <= last; }

// Opcodes of one byte that are followed by a ModRM byte and touch what it names.
constexpr bool one_byte_touches(Byte opcode) noexcept {
  if (opcode < 0x40) return (opcode & 7) < 4;
  if (opcode == 0x8d) return false;  // lea
  return opcode == 0x63 || opcode == 0x69 || opcode == 0x6b || in(opcode, 0x80, 0x8f) ||
         in(opcode, 0xc0, 0xc1) || in(opcode, 0xc6, 0xc7) || in(opcode, 0xd0, 0xd3) ||
         in(opcode, 0xd8, 0xdf) || in(opcode, 0xf6, 0xf7) || in(opcode, 0xfe, 0xff);
}

// The same behind 0x0f. Prefetches and hints touch nothing.
constexpr bool two_byte_touches(Byte opcode) noexcept {
  return in(opcode, 0x10, 0x17) || in(opcode, 0x28, 0x2f) || in(opcode, 0x40, 0x76) ||
         in(opcode, 0x7c, 0x7f) || in(opcode, 0x90, 0x9f) || in(opcode, 0xa3, 0xa5) ||
         in(opcode, 0xab, 0xaf) || in(opcode, 0xb0, 0xc7) || in(opcode, 0xd0, 0xff);
}

constexpr bool is_string(Byte opcode) noexcept { return in(opcode, 0xa4, 0xa7) || in(opcode, 0xaa, 0xaf); }

std::uint64_t read_signed(const Byte* at, unsigned bytes) noexcept {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < bytes; ++i) value |= std::uint32_t{at[i]} << (8 * i);
  const auto wide = bytes == 1 ? static_cast<std::int64_t>(static_cast<std::int8_t>(value))
                               : static_cast<std::int64_t>(static_cast<std::int32_t>(value));
  return static_cast<std::uint64_t>(wide);
}

std::optional<std::uint64_t> address_of(const Byte* modrm, Byte rex, const user_regs_struct& r) noexcept {
  const std::array<unsigned long long, 16> values = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                                                     r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  const unsigned mode = *modrm >> 6;
  const unsigned low = *modrm & 7;
  if (mode == 3) return std::nullopt;              // a register
  if (mode == 0 && low == 5) return std::nullopt;  // relative to rip
  const unsigned rex_b = (rex & 1U) << 3, rex_x = (rex & 2U) << 2;
  const Byte* next = modrm + 1;
  unsigned displacement = mode == 1 ? 1 : mode == 2 ? 4 : 0;
  std::uint64_t address = 0;
  if (low == 4) {
    const Byte sib = *next++;
    if ((sib & 7) == 5 && mode == 0)
      displacement = 4;
    else
      address = values[(sib & 7U) | rex_b];
    if (const unsigned index = ((sib >> 3) & 7U) | rex_x; index != 4) address += values[index] << (sib >> 6);
  } else {
    address = values[low | rex_b];
  }
  return displacement == 0 ? address : address + read_signed(next, displacement);
}

struct Operand {
  const Byte* modrm = nullptr;  // null: none that names memory
  Byte rex = 0;
  Byte opcode = 0;  // of one byte; 0x0f for all others
  bool is_string = false;
};

Operand operand_of(const Byte* at) noexcept {
  Operand found;
  while (is_prefix(*at)) ++at;
  if (in(*at, 0x40, 0x4f)) found.rex = *at++;
  found.opcode = *at++;
  if (found.opcode == 0x0f) {
    const Byte second = *at++;
    if (second == 0x38 || second == 0x3a)
      found.modrm = at + 1;
    else if (two_byte_touches(second))
      found.modrm = at;
  } else if (is_string(found.opcode)) {
    found.is_string = true;
  } else if (one_byte_touches(found.opcode)) {
    found.modrm = at;
  }
  return found;
}

}  // namespace

std::optional<std::uint64_t> memory_operand(const user_regs_struct& registers) noexcept {
  const auto found = operand_of(code_at(registers.rip));
  if (found.is_string) return found.opcode == 0xac || found.opcode == 0xad ? registers.rsi : registers.rdi;
  return found.modrm == nullptr ? std::nullopt : address_of(found.modrm, found.rex, registers);
}

bool may_touch_segment(std::uint64_t address) noexcept {
  const auto found = operand_of(code_at(address));
  if (found.is_string) return true;
  if (found.modrm == nullptr) return false;
  const unsigned mode = *found.modrm >> 6;
  const unsigned low = *found.modrm & 7;
  if (mode == 3 || (mode == 0 && low == 5)) return false;
  if (found.opcode == 0x8f || (found.opcode == 0xff && (*found.modrm & 0x38) > 0x08))
    return false;  // pop, jumps, push
  const unsigned base = low == 4 ? found.modrm[1] & 7U : low;
  const bool stack = (found.rex & 1) == 0 && (base == 4 || (base == 5 && mode != 0));
  return !stack;
}

bool is_mark(const user_regs_struct& registers) noexcept { return *code_at(registers.rip) == 0xcc; }

}  // namespace sluice::verify
#endif
