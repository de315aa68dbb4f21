#include "tools/common/format.hpp"

#include "shm/atomic.hpp"

#include <fmt/format.h>

#include <array>
#include <ctime>

namespace sluice::tools {

namespace {

std::string format_time(std::uint64_t realtime_ns, bool utc) {
  const auto seconds = static_cast<std::time_t>(realtime_ns / 1'000'000'000);
  std::tm parts{};
  if ((utc ? gmtime_r(&seconds, &parts) : localtime_r(&seconds, &parts)) == nullptr) return "?";
  char text[64];
  const auto length =
      std::strftime(text, sizeof text, utc ? "%Y-%m-%dT%H:%M:%SZ" : "%Y-%m-%d %H:%M:%S", &parts);
  return {text, length};
}

std::string format_nanoseconds(std::uint64_t ns) {
  if (ns < 1'000) return fmt::format("{} ns", ns);
  if (ns < 1'000'000) return fmt::format("{} us", ns / 1'000);
  if (ns < 1'000'000'000) return fmt::format("{} ms", ns / 1'000'000);
  const auto s = ns / 1'000'000'000;
  if (s < 60) return fmt::format("{}.{} s", s, ns / 100'000'000 % 10);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {} min", s / 3600, s / 60 % 60);
  return fmt::format("{} d {} h", s / 86400, s / 3600 % 24);
}

void append_escaped(std::string& out, unsigned char c) {
  fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
}

}  // namespace

std::string format_size(std::uint64_t bytes) {
  constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  std::size_t unit = 0;
  auto value = static_cast<double>(bytes);
  // 1023.5 and above would be printed as 1024 with no decimals.
  while (value >= 1023.5 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  const int decimals = value < 9.995 ? 2 : (value < 99.95 ? 1 : 0);
  auto text = fmt::format("{:.{}f}", value, decimals);
  if (decimals > 0) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return fmt::format("{} {}", text, units[unit]);
}

std::string format_duration(std::chrono::nanoseconds duration) {
  // The magnitude of the most negative count is one that only the unsigned type has.
  const bool negative = duration.count() < 0;
  const auto count = static_cast<std::uint64_t>(duration.count());
  return fmt::format("{}{}", negative ? "-" : "", format_nanoseconds(negative ? 0 - count : count));
}

std::chrono::nanoseconds age_of(std::uint64_t realtime_ns) {
  const auto now = std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch());
  return std::chrono::nanoseconds(
      static_cast<std::int64_t>(static_cast<std::uint64_t>(now.count()) - realtime_ns));
}

std::string format_local_time(std::uint64_t realtime_ns) { return format_time(realtime_ns, false); }
std::string format_utc_time(std::uint64_t realtime_ns) { return format_time(realtime_ns, true); }

std::string format_uuid(const std::uint8_t (&bytes)[16]) {
  std::string text;
  for (std::size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    fmt::format_to(std::back_inserter(text), "{:02x}", bytes[i]);
  }
  return text;
}

std::string format_handle(std::uint64_t handle) { return fmt::format("0x{:016x}", handle); }

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f || c == '\\')
      append_escaped(out, byte);
    else
      out += c;
  }
  return out;
}

std::string escape_controls(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      append_escaped(out, byte);
    else
      out += c;
  }
  return out;
}

std::string field_text(const char* field, std::size_t bytes) {
  std::string copy;
  for (std::size_t i = 0; i < bytes; ++i) {
    const char c = load(field[i], relaxed);
    if (c == '\0') break;
    copy += c;
  }
  return escape(copy);
}

}  // namespace sluice::tools
