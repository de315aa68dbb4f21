#include "tools/sluice/toml_value.hpp"

#include "tools/common/parse.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace sluice::tools {

std::unexpected<Error> TomlPlace::wrong(std::string_view what) const {
  return fail(Status::bad_argument, fmt::format("{}:{}: {}: {}", file, node->source().begin.line, key, what));
}

Expected<void> read_value(const TomlPlace& place, std::optional<std::string>& out) {
  out = place.node->value_exact<std::string>();
  if (!out) return place.wrong("expected a string");
  return {};
}

Expected<void> read_value(const TomlPlace& place, std::optional<bool>& out) {
  out = place.node->value_exact<bool>();
  if (!out) return place.wrong("expected true or false");
  return {};
}

Expected<void> read_value(const TomlPlace& place, std::optional<std::uint64_t>& out) {
  const auto number = place.node->value_exact<std::int64_t>();
  if (!number || *number < 0) return place.wrong("expected a whole number from 0");
  out = static_cast<std::uint64_t>(*number);
  return {};
}

Expected<void> read_value(const TomlPlace& place, std::optional<std::chrono::nanoseconds>& out) {
  const auto text = place.node->value_exact<std::string>();
  if (!text) return place.wrong("expected a duration in quotes, e.g. \"250ms\"");
  const auto duration = parse_duration(*text);
  if (!duration) return place.wrong(duration.error().message);
  out = *duration;
  return {};
}

Expected<void> read_size(const TomlPlace& place, std::optional<std::uint64_t>& out) {
  const auto text = place.node->value_exact<std::string>();
  if (!text) return read_value(place, out);
  const auto size = parse_size(*text);
  if (!size) return place.wrong(size.error().message);
  out = *size;
  return {};
}

Expected<void> read_word(const TomlPlace& place, std::initializer_list<std::string_view> words,
                         std::optional<std::string>& out) {
  if (auto read = read_value(place, out); !read) return read;
  if (std::ranges::find(words, *out) != words.end()) return {};
  return place.wrong(fmt::format("found '{}', expected one of {}", *out, fmt::join(words, ", ")));
}

}  // namespace sluice::tools
