#include "tools/common/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include <unistd.h>

namespace sluice::tools {

namespace {

constexpr std::string_view gap = "  ";

std::string_view escape_of(Tone tone) {
  switch (tone) {
    case Tone::plain: return "";
    case Tone::good: return "\x1b[32m";
    case Tone::bad: return "\x1b[1;31m";
    case Tone::faint: return "\x1b[2m";
  }
  return "";
}

std::string painted(const TableCell& cell, bool color) {
  if (!color || cell.tone == Tone::plain) return cell.text;
  return fmt::format("{}{}\x1b[0m", escape_of(cell.tone), cell.text);
}

// All cells are ASCII or short sentences at the end of a row: bytes are columns.
std::string padded(const std::string& shown, std::size_t text_width, std::size_t width, Align align,
                   bool last) {
  const std::string space(width > text_width ? width - text_width : 0, ' ');
  if (align == Align::right) return space + shown;
  return last ? shown : shown + space;
}

}  // namespace

bool use_color(std::FILE* out) noexcept {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_color != nullptr && *no_color != '\0') return false;
  if (term == nullptr || std::string_view(term) == "dumb") return false;
  return isatty(fileno(out)) == 1;
}

void Table::print(std::FILE* out) const {
  const bool color = use_color(out);
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    auto width = columns_[i].title.size();
    for (const auto& row : rows_)
      if (i < row.size()) width = std::max(width, row[i].text.size());
    widths.push_back(width);
  }
  std::string line;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    if (i > 0) line += gap;
    const auto& title = columns_[i].title;
    line += padded(title, title.size(), widths[i], columns_[i].align, i + 1 == columns_.size());
  }
  fmt::print(out, "{}{}{}\n", color ? "\x1b[1m" : "", line, color ? "\x1b[0m" : "");
  for (const auto& row : rows_) {
    line.clear();
    for (std::size_t i = 0; i < columns_.size() && i < row.size(); ++i) {
      if (i > 0) line += gap;
      line += padded(painted(row[i], color), row[i].text.size(), widths[i], columns_[i].align,
                     i + 1 == columns_.size());
    }
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print(out, "{}\n", line);
  }
}

void Fields::print(std::FILE* out) const {
  const bool color = use_color(out);
  std::size_t width = 0;
  for (const auto& [name, value] : rows_) width = std::max(width, name.size());
  for (const auto& [name, value] : rows_)
    fmt::print(out, "{:<{}}{}{}\n", name, width, gap, painted(value, color));
}

}  // namespace sluice::tools
