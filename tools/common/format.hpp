// Values as people read them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::tools {

/// "512 B", "64 KiB", "1.5 GiB": exact below 1 KiB, else three significant digits.
std::string format_size(std::uint64_t bytes);

/// "250 ms", "12.3 s", "4 min 5 s", "3 h 12 min", "2 d 3 h".
std::string format_duration(std::chrono::nanoseconds duration);

/// How long ago a time of CLOCK_REALTIME was; negative in the future. Any 64 bits will do.
std::chrono::nanoseconds age_of(std::uint64_t realtime_ns);

/// Nanoseconds of CLOCK_REALTIME as "2025-01-31 23:59:59" in local time, or as ISO 8601 UTC.
std::string format_local_time(std::uint64_t realtime_ns);
std::string format_utc_time(std::uint64_t realtime_ns);

/// 16 bytes in the usual grouping of a UUID.
std::string format_uuid(const std::uint8_t (&bytes)[16]);

/// "0x0000010000000c05"
std::string format_handle(std::uint64_t handle);

/// Text from outside as printable ASCII: everything else, and the backslash, as \xNN.
std::string escape(std::string_view text);

/// Only control characters escaped: for messages, which may name paths in any script.
std::string escape_controls(std::string_view text);

/// A name field of the file: ends at its first zero byte or at its size, escaped. Copied before it is looked
/// at, because another process may be writing it.
std::string field_text(const char* field, std::size_t bytes);
template <std::size_t Bytes>
std::string field_text(const char (&field)[Bytes]) {
  return field_text(field, Bytes);
}

}  // namespace sluice::tools
