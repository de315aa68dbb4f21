// Tables on stdout: columns as wide as their content, numbers to the right, the head in bold on a terminal.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace sluice::tools {

enum class Align : std::uint8_t { left, right };
enum class Tone : std::uint8_t { plain, good, bad, faint };

struct TableCell {
  std::string text;
  Tone tone = Tone::plain;

  TableCell(std::string value, Tone how = Tone::plain)
      : text(std::move(value)), tone(how) {}                       // NOLINT(google-explicit-constructor)
  TableCell(const char* value) : text(value) {}                    // NOLINT(google-explicit-constructor)
  TableCell(std::uint64_t value) : text(std::to_string(value)) {}  // NOLINT(google-explicit-constructor)
};

struct Column {
  std::string title;
  Align align = Align::left;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// One cell per column; missing ones are empty.
  void add(std::vector<TableCell> row) { rows_.push_back(std::move(row)); }
  bool empty() const noexcept { return rows_.empty(); }
  void print(std::FILE* out = stdout) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<TableCell>> rows_;
};

/// "name  value" lines, the values in one column.
class Fields {
 public:
  void add(std::string name, TableCell value) { rows_.emplace_back(std::move(name), std::move(value)); }
  void print(std::FILE* out = stdout) const;

 private:
  std::vector<std::pair<std::string, TableCell>> rows_;
};

/// Whether `out` takes colours: a terminal, TERM not "dumb", and NO_COLOR unset or empty.
bool use_color(std::FILE* out) noexcept;

}  // namespace sluice::tools
