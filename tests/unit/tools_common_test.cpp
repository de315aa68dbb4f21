// The command-line helpers: what people type, what they read, and what scripts rely on.
#include "tools/common/exit_code.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/common/parse.hpp"
#include "tools/common/table.hpp"

#include <catch2/catch.hpp>

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace sluice::test {

using namespace sluice::tools;
using namespace std::chrono_literals;

namespace {

// What a printer writes, as text.
template <class Print>
std::string printed(Print&& print) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  print(out);
  std::fclose(out);
  std::string result(text, size);
  std::free(text);
  return result;
}

}  // namespace

TEST_CASE("tools: a size is a whole number and a unit, binary unless it ends in B alone", "[tools]") {
  const auto [text, bytes] = GENERATE(table<std::string, std::uint64_t>({
      {"0", 0},
      {"4096", 4096},
      {"7B", 7},
      {"64KiB", 64 * 1024},
      {"64kib", 64 * 1024},
      {"64K", 64 * 1024},
      {"64MiB", std::uint64_t{64} << 20},
      {"1GiB", std::uint64_t{1} << 30},
      {"1g", std::uint64_t{1} << 30},
      {"2TiB", std::uint64_t{2} << 40},
      {"1PiB", std::uint64_t{1} << 50},
      {"5KB", 5000},
      {"1GB", 1'000'000'000},
      {"18446744073709551615", std::numeric_limits<std::uint64_t>::max()},
  }));
  CAPTURE(text);
  const auto parsed = parse_size(text);
  REQUIRE(parsed.has_value());
  CHECK(*parsed == bytes);
}

TEST_CASE("tools: what is not a size is refused with a sentence that quotes it", "[tools]") {
  const auto* text =
      GENERATE("", " ", "KiB", "-1", "+1", "1.5GiB", "0x10", "64 MiB", "64MiBs", "1iB", "1XiB", "1 ",
               "18446744073709551616", "16777216TiB", "99999999999999999999GiB", "1KiB\n");
  CAPTURE(text);
  const auto parsed = parse_size(text);
  REQUIRE_FALSE(parsed.has_value());
  CHECK(parsed.error().status == Status::bad_argument);
  CHECK(parsed.error().message.find(text) != std::string::npos);
}

TEST_CASE("tools: a duration is a whole number and a unit", "[tools]") {
  const auto [text, duration] = GENERATE(table<std::string, std::chrono::nanoseconds>({
      {"0", 0ns},
      {"0s", 0ns},
      {"1ns", 1ns},
      {"15us", 15us},
      {"250ms", 250ms},
      {"250MS", 250ms},
      {"3s", 3s},
      {"2min", 2min},
      {"2m", 2min},
      {"1h", 1h},
      {"9223372036854775807ns", std::chrono::nanoseconds::max()},
  }));
  CAPTURE(text);
  const auto parsed = parse_duration(text);
  REQUIRE(parsed.has_value());
  CHECK(*parsed == duration);
}

TEST_CASE("tools: a duration without a unit, or too long, is refused", "[tools]") {
  const auto* text =
      GENERATE("", "5", "ms", "-1s", "1.5s", "1 s", "1d", "1sec", "9223372036854775808ns", "2562048h", "1s ");
  CAPTURE(text);
  const auto parsed = parse_duration(text);
  REQUIRE_FALSE(parsed.has_value());
  CHECK(parsed.error().status == Status::bad_argument);
}

TEST_CASE("tools: a file mode is octal and has permission bits only", "[tools]") {
  CHECK(parse_mode("600").value() == 0600);
  CHECK(parse_mode("0640").value() == 0640);
  CHECK(parse_mode("0777").value() == 0777);
  for (const auto* text : {"", "8", "1777", "0o600", "-1", "600x", "rw"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_mode(text).has_value());
  }
}

TEST_CASE("tools: sizes are printed with three digits that matter", "[tools]") {
  CHECK(format_size(0) == "0 B");
  CHECK(format_size(1023) == "1023 B");
  CHECK(format_size(1024) == "1 KiB");
  CHECK(format_size(1536) == "1.5 KiB");
  CHECK(format_size(64 * 1024) == "64 KiB");
  CHECK(format_size((std::uint64_t{1} << 20) - 1) == "1 MiB");
  CHECK(format_size(std::uint64_t{5} << 30) == "5 GiB");
  CHECK(format_size(std::numeric_limits<std::uint64_t>::max()) == "16 EiB");
}

TEST_CASE("tools: durations are printed with two units at most", "[tools]") {
  CHECK(format_duration(0ns) == "0 ns");
  CHECK(format_duration(250ms) == "250 ms");
  CHECK(format_duration(12'340ms) == "12.3 s");
  CHECK(format_duration(245s) == "4 min 5 s");
  CHECK(format_duration(3h + 12min) == "3 h 12 min");
  CHECK(format_duration(51h) == "2 d 3 h");
  CHECK(format_duration(-250ms) == "-250 ms");
  CHECK(format_duration(std::chrono::nanoseconds::min()) == "-106751 d 23 h");
}

TEST_CASE("tools: times far outside any calendar do not break the printer", "[tools]") {
  CHECK(format_utc_time(0) == "1970-01-01T00:00:00Z");
  CHECK(format_utc_time(1'700'000'000'000'000'000) == "2023-11-14T22:13:20Z");
  CHECK(format_utc_time(std::numeric_limits<std::uint64_t>::max()) == "2554-07-21T23:34:33Z");
  for (const std::uint64_t time :
       {std::uint64_t{0}, std::uint64_t{1} << 63, std::numeric_limits<std::uint64_t>::max()})
    CHECK_FALSE(format_duration(age_of(time)).empty());
}

TEST_CASE("tools: a name field ends at its size, and cannot write control sequences to a terminal",
          "[tools]") {
  const char full[4] = {'a', 'b', 'c', 'd'};
  const char hostile[8] = {'\x1b', '[', '2', 'J', '\xff', '\\', '\n', '\0'};
  const char ended[8] = {'o', 'k', '\0', 'x'};
  CHECK(field_text(full) == "abcd");
  CHECK(field_text(ended) == "ok");
  CHECK(field_text(hostile) == "\\x1b[2J\\xff\\x5c\\x0a");
  CHECK(escape_controls("/tmp/gr\xc3\xbc\xc3\x9f\x1b[2J") == "/tmp/gr\xc3\xbc\xc3\x9f\\x1b[2J");
}

TEST_CASE("tools: a table is as wide as its content and plain when it is not a terminal", "[tools]") {
  Table table({{"N", Align::right}, {"NAME"}, {"LAST"}});
  table.add({std::uint64_t{7}, "x", TableCell("bad", Tone::bad)});
  table.add({std::uint64_t{1234}, "longer", ""});
  CHECK(printed([&](std::FILE* out) { table.print(out); }) ==
        "   N  NAME    LAST\n"
        "   7  x       bad\n"
        "1234  longer\n");
}

TEST_CASE("tools: a JSON document begins with its schema and survives bytes that are not UTF-8", "[tools]") {
  auto document = json_document("sluice.test/1");
  document["segment"] = "/tmp/\xff";
  const auto text = printed([&](std::FILE* out) { print_json(document, out); });
  CHECK(text == "{\"schema\":\"sluice.test/1\",\"segment\":\"/tmp/\xef\xbf\xbd\"}\n");
}

TEST_CASE("tools: every status leads to an exit code of the list, and only ok to 0", "[tools]") {
  for (unsigned i = 0; i < 256; ++i) {
    const auto status = static_cast<Status>(i);
    const auto code = exit_code_of(status);
    CAPTURE(i, to_string(status));
    CHECK((code == ExitCode::ok) == (status == Status::ok));
    CHECK(static_cast<std::size_t>(code) < exit_code_meanings.size());
  }
}

TEST_CASE("tools: docs/tools.md lists the exit codes as --help does", "[tools]") {
  std::ifstream file(SLUICE_SOURCE_DIR "/docs/tools.md");
  REQUIRE(file);
  std::ostringstream page;
  page << file.rdbuf();
  for (std::size_t i = 0; i < exit_code_meanings.size(); ++i) {
    const auto& [code, meaning] = exit_code_meanings[i];
    CHECK(static_cast<std::size_t>(code) == i);
    CHECK(exit_code_footer().find(fmt::format("{:>2}  {}\n", i, meaning)) != std::string::npos);
    CAPTURE(i, meaning);
    CHECK(page.str().find(fmt::format("| {} | {} |\n", i, meaning)) != std::string::npos);
  }
}

}  // namespace sluice::test
