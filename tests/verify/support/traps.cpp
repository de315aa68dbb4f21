#include "tests/verify/support/traps.hpp"

#include "tests/verify/support/memory_operand.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string_view>

#include <sys/mman.h>
#include <unistd.h>

extern "C" const char __executable_start, etext;  // the linker's: where the program's code begins and ends

namespace sluice::verify {

namespace {

constexpr std::size_t copy_bytes = 32;  // an instruction has at most 15, the jump behind it 14
constexpr unsigned char int3 = 0xcc;

std::uint64_t program_base() noexcept { return reinterpret_cast<std::uint64_t>(&__executable_start); }

// Of the library's own functions: those of tests see the segment only through them.
bool is_of_library(std::string_view symbol) noexcept {
  return symbol.find("sluice::") != std::string_view::npos &&
         symbol.find("sluice::verify") == std::string_view::npos &&
         symbol.find("sluice::test") == std::string_view::npos;
}

// "  1a2b:\t48 89 c7 \tmov ..." : how many bytes the instruction has.
std::size_t count_bytes(std::string_view line) noexcept {
  const auto from = line.find('\t');
  if (from == std::string_view::npos) return 0;
  const auto to = line.find('\t', from + 1);
  std::size_t bytes = 0;
  for (auto at = from + 1;
       at + 1 < std::min(to, line.size()) && std::isxdigit(static_cast<unsigned char>(line[at])) != 0;
       at += 3)
    ++bytes;
  return bytes;
}

}  // namespace

Traps::Traps() {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto command = fmt::format("objdump -d -C --wide --insn-width=16 '{}' 2>/dev/null", program);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe{::popen(command.c_str(), "re"), ::pclose};
  copies_max_ = static_cast<std::size_t>(&etext - &__executable_start) / 4;
  copies_max_ *= copy_bytes;
  void* memory = ::mmap(nullptr, copies_max_, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("no memory for copies of instructions");
  copies_ = static_cast<std::byte*>(memory);
  std::array<char, 8192> buffer{};
  bool wanted = false;
  while (pipe && std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
    const std::string_view line(buffer.data());
    if (line.find(">:\n") != std::string_view::npos) {
      wanted = is_of_library(line);
      continue;
    }
    const auto length = count_bytes(line);
    if (wanted && length != 0) add(program_base() + std::strtoull(buffer.data(), nullptr, 16), length);
  }
  if (addresses_.empty()) throw std::runtime_error("objdump names no instructions of this program");
}

Traps::~Traps() { ::munmap(copies_, copies_max_); }

void Traps::add(std::uint64_t address, std::size_t length) {
  const auto* code = reinterpret_cast<const std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
  if (length > 15 || !may_touch_segment(address) || (addresses_.size() + 1) * copy_bytes > copies_max_)
    return;
  if (!addresses_.empty() && addresses_.back() >= address) return;  // the same code under another name
  auto* copy = copies_ + addresses_.size() * copy_bytes;
  std::memcpy(copy, code, length);
  // jmp *0(%rip), and behind it where to.
  constexpr std::array<unsigned char, 6> jump = {0xff, 0x25, 0, 0, 0, 0};
  const auto next = address + length;
  std::memcpy(copy + length, jump.data(), jump.size());
  std::memcpy(copy + length + jump.size(), &next, sizeof next);
  addresses_.push_back(address);
}

void Traps::plant() const {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = addresses_.front() / page * page;
  const auto bytes = addresses_.back() + 1 - begin;
  auto* text = reinterpret_cast<unsigned char*>(begin);  // NOLINT(performance-no-int-to-ptr)
  if (::mprotect(text, bytes, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
    throw std::runtime_error("the program's code cannot be made writable");
  for (const auto address : addresses_) text[address - begin] = int3;
}

std::optional<std::uint64_t> Traps::copy_of(std::uint64_t address) const noexcept {
  const auto at = std::ranges::lower_bound(addresses_, address);
  if (at == addresses_.end() || *at != address) return std::nullopt;
  return reinterpret_cast<std::uint64_t>(copies_) +
         static_cast<std::uint64_t>(at - addresses_.begin()) * copy_bytes;
}

}  // namespace sluice::verify
