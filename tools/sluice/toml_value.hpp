// Values of a TOML file: each read as what it must be, or an error that names file, line and key.
#pragma once

#include "shm/status.hpp"

#include <toml++/toml.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace sluice::tools {

/// Where in a file something is, and how to say that it is wrong.
struct TomlPlace {
  std::string_view file;
  std::string_view key;
  const toml::node* node;

  std::unexpected<Error> wrong(std::string_view what) const;
};

Expected<void> read_value(const TomlPlace& place, std::optional<std::string>& out);
Expected<void> read_value(const TomlPlace& place, std::optional<bool>& out);
Expected<void> read_value(const TomlPlace& place, std::optional<std::uint64_t>& out);
Expected<void> read_value(const TomlPlace& place, std::optional<std::chrono::nanoseconds>& out);
/// A size is a string with a unit, or a number of bytes.
Expected<void> read_size(const TomlPlace& place, std::optional<std::uint64_t>& out);
/// One of these words.
Expected<void> read_word(const TomlPlace& place, std::initializer_list<std::string_view> words,
                         std::optional<std::string>& out);

}  // namespace sluice::tools
