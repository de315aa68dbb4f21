#include "tools/common/parse.hpp"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

namespace sluice::tools {

namespace {

struct Number {
  std::uint64_t value = 0;
  std::string unit;  // lower case
};

// Digits, then letters. nullopt: no digits, or more than 64 bits.
std::optional<Number> split_number(std::string_view text) {
  Number number;
  const char* end = std::to_address(text.end());
  const auto [rest, error] = std::from_chars(std::to_address(text.begin()), end, number.value);
  if (error != std::errc{}) return std::nullopt;
  for (const char* c = rest; c != end; ++c)
    number.unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*c)));
  return number;
}

// How many bytes a unit is; 0: not one.
std::uint64_t bytes_per(std::string_view unit) {
  if (unit.empty() || unit == "b") return 1;
  const auto power = std::string_view("kmgtp").find(unit.front());
  const auto suffix = unit.substr(1);
  if (power == std::string_view::npos || !(suffix.empty() || suffix == "b" || suffix == "ib")) return 0;
  std::uint64_t bytes = 1;
  for (std::size_t i = 0; i <= power; ++i) bytes *= suffix == "b" ? 1000U : 1024U;
  return bytes;
}

std::uint64_t nanoseconds_per(std::string_view unit) {
  if (unit == "ns") return 1;
  if (unit == "us") return 1'000;
  if (unit == "ms") return 1'000'000;
  if (unit == "s") return 1'000'000'000;
  if (unit == "min" || unit == "m") return 60'000'000'000;
  if (unit == "h") return 3'600'000'000'000;
  return 0;
}

// All of `text` as a number, or nullopt.
std::optional<std::uint64_t> whole_number(std::string_view text, int base) {
  std::uint64_t value = 0;
  const char* end = std::to_address(text.end());
  const auto [rest, error] = std::from_chars(std::to_address(text.begin()), end, value, base);
  if (error != std::errc{} || rest != end) return std::nullopt;
  return value;
}

}  // namespace

Expected<std::uint64_t> parse_size(std::string_view text) {
  const auto number = split_number(text);
  const auto unit = number ? bytes_per(number->unit) : 0;
  if (unit == 0)
    return fail(
        Status::bad_argument,
        fmt::format("'{}' is not a size: expected a whole number and B, KiB, MiB, GiB or TiB, e.g. 64MiB",
                    text));
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(number->value, unit, &bytes))
    return fail(Status::bad_argument, fmt::format("'{}' is more bytes than 64 bits can count", text));
  return bytes;
}

Expected<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  const auto number = split_number(text);
  if (number && number->value == 0 && number->unit.empty()) return std::chrono::nanoseconds(0);
  const auto unit = number ? nanoseconds_per(number->unit) : 0;
  if (unit == 0)
    return fail(
        Status::bad_argument,
        fmt::format("'{}' is not a duration: expected a whole number and ns, us, ms, s, min or h, e.g. 250ms",
                    text));
  std::int64_t nanoseconds = 0;
  if (__builtin_mul_overflow(number->value, unit, &nanoseconds))
    return fail(Status::bad_argument, fmt::format("'{}' is longer than 292 years", text));
  return std::chrono::nanoseconds(nanoseconds);
}

Expected<std::uint32_t> parse_mode(std::string_view text) {
  std::uint32_t mode = 0;
  const char* end = std::to_address(text.end());
  const auto [rest, error] = std::from_chars(std::to_address(text.begin()), end, mode, 8);
  if (error != std::errc{} || rest != end || mode > 0777)
    return fail(Status::bad_argument,
                fmt::format("'{}' is not a file mode: expected octal digits up to 0777, e.g. 0640", text));
  return mode;
}

Expected<BlockName> parse_block_name(std::string_view text) {
  const auto malformed = [&] {
    return fail(
        Status::bad_argument,
        fmt::format("'{}' is not a handle: expected 0x and up to 16 hexadecimal digits, UNIT:SLOT, or "
                    "UNIT:SLOT:GENERATION, e.g. 0x0000010000000c05 or 3:5",
                    text));
  };
  BlockName name;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    const auto handle = text.size() <= 18 ? whole_number(text.substr(2), 16) : std::nullopt;
    if (!handle) return malformed();
    if (*handle == 0)
      return fail(Status::bad_argument, fmt::format("'{}' is the null handle, which names no block", text));
    name.handle = *handle;
    return name;
  }
  const auto colon = text.find(':');
  if (colon == std::string_view::npos) return malformed();
  const auto second = text.find(':', colon + 1);
  const auto unit = whole_number(text.substr(0, colon), 10);
  const auto slot = whole_number(
      text.substr(colon + 1, second == std::string_view::npos ? second : second - colon - 1), 10);
  if (!unit || !slot) return malformed();
  name.unit = *unit;
  name.slot = *slot;
  if (second == std::string_view::npos) return name;
  const auto generation = whole_number(text.substr(second + 1), 10);
  if (!generation || *generation == 0) return malformed();
  name.generation = *generation;
  return name;
}

}  // namespace sluice::tools
