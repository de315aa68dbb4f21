#include "tools/sluice/fault_script.hpp"

#include "tools/common/parse.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <sstream>
#include <utility>

namespace sluice::tools {

namespace {

using Operation = ublk_abi::Operation;

constexpr std::array<std::pair<std::string_view, Operation>, 5> operation_names = {{
    {"read", Operation::read},
    {"write", Operation::write},
    {"flush", Operation::flush},
    {"discard", Operation::discard},
    {"write-zeroes", Operation::write_zeroes},
}};

constexpr std::array<std::pair<std::string_view, int>, 6> errno_names = {{
    {"EIO", EIO},
    {"ENOSPC", ENOSPC},
    {"ENOMEM", ENOMEM},
    {"EINVAL", EINVAL},
    {"ETIMEDOUT", ETIMEDOUT},
    {"EOPNOTSUPP", EOPNOTSUPP},
}};

// A word's problem; the caller knows the line.
using Problem = std::string;

std::vector<std::string> words_of(std::string line) {
  line.resize(std::min(line.size(), line.find('#')));
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::expected<std::uint32_t, Problem> operations_of(const std::string& word) {
  if (word == "any") return ~0U;
  std::uint32_t bits = 0;
  std::istringstream stream(word);
  for (std::string name; std::getline(stream, name, ',');) {
    const auto* found =
        std::ranges::find(operation_names, name, &std::pair<std::string_view, Operation>::first);
    if (found == operation_names.end())
      return std::unexpected(fmt::format(
          "'{}' is no operation, expected any, read, write, flush, discard or write-zeroes", name));
    bits |= 1U << static_cast<unsigned>(found->second);
  }
  return bits;
}

std::expected<std::uint64_t, Problem> number_of(const std::string& word) {
  std::uint64_t value = 0;
  const char* end = word.data() + word.size();
  const auto parsed = std::from_chars(word.data(), end, value);
  if (parsed.ec != std::errc{} || parsed.ptr != end)
    return std::unexpected(fmt::format("'{}' is not a number", word));
  return value;
}

std::expected<FaultRule, Problem> rule_of(const std::vector<std::string>& words) {
  FaultRule rule;
  const auto operations = operations_of(words[0]);
  if (!operations) return std::unexpected(operations.error());
  rule.operations = *operations;
  std::size_t at = 1;
  const auto next = [&]() -> std::string { return at < words.size() ? words[at++] : std::string(); };

  const auto action = next();
  if (action == "error") {
    const auto name = next();
    const auto* found = std::ranges::find(errno_names, name, &std::pair<std::string_view, int>::first);
    if (found == errno_names.end())
      return std::unexpected(fmt::format(
          "'{}' is no error, expected EIO, ENOSPC, ENOMEM, EINVAL, ETIMEDOUT or EOPNOTSUPP", name));
    rule.errno_value = found->second;
  } else if (action == "delay") {
    const auto duration = parse_duration(next());
    if (!duration) return std::unexpected(duration.error().message);
    rule.action = FaultRule::Action::delay;
    rule.delay = *duration;
  } else if (action == "stall") {
    rule.action = FaultRule::Action::stall;
  } else {
    return std::unexpected(fmt::format("'{}' is no action, expected error, delay or stall", action));
  }
  while (at < words.size()) {
    const auto condition = next();
    if (condition != "every" && condition != "after")
      return std::unexpected(fmt::format("'{}' is no condition, expected every or after", condition));
    const auto number = number_of(next());
    if (!number) return std::unexpected(number.error());
    if (condition == "every" && *number == 0) return std::unexpected("every 0: expected at least 1");
    (condition == "every" ? rule.every : rule.after) = *number;
  }
  return rule;
}

}  // namespace

Expected<std::vector<FaultRule>> parse_fault_script(std::string_view text, std::string_view name) {
  std::vector<FaultRule> rules;
  std::istringstream stream{std::string(text)};
  std::size_t number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    const auto words = words_of(line);
    if (words.empty()) continue;
    const auto rule = rule_of(words);
    if (!rule) return fail(Status::bad_argument, fmt::format("{}:{}: {}", name, number, rule.error()));
    rules.push_back(*rule);
  }
  return rules;
}

Expected<std::vector<FaultRule>> read_fault_script(const std::string& path) {
  errno = 0;
  const std::ifstream file(path);
  if (!file) return fail_errno("open " + path, errno != 0 ? errno : EIO);
  std::ostringstream text;
  text << file.rdbuf();
  return parse_fault_script(text.str(), path);
}

}  // namespace sluice::tools
