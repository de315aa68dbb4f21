// The configuration of `sluice run`: defaults, file, flags, and what is refused.
#include "tools/sluice/pipeline_config.hpp"

#include "tests/support/must.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <string>

using namespace sluice;
using namespace sluice::test;
using namespace sluice::tools;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

std::string error_of(std::string_view toml) {
  const auto parsed = parse_settings(toml, "test.toml");
  REQUIRE(!parsed);
  CHECK(parsed.error().status == Status::bad_argument);
  return parsed.error().message;
}

PipelineSettings minimal() {
  PipelineSettings settings;
  settings.segment = "/dev/shm/x";
  settings.tcp = "127.0.0.1:0";
  settings.sink = "/tmp/out";
  return settings;
}

std::string refusal_of(const PipelineSettings& settings) {
  const auto config = resolve(settings);
  REQUIRE(!config);
  CHECK(config.error().status == Status::bad_argument);
  return config.error().message;
}

}  // namespace

TEST_CASE("config: every key of the documentation's example is read", "[tools][config]") {
  const auto bytes = read_file(SLUICE_SOURCE_DIR "/docs/pipeline.md");
  const std::string page(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string fence = "```toml\n";
  const auto begin = page.find(fence);
  REQUIRE(begin != std::string::npos);
  const auto example =
      page.substr(begin + fence.size(), page.find("```", begin + fence.size()) - begin - fence.size());
  const auto config = must(resolve(must(parse_settings(example, "docs/pipeline.md"))));
  CHECK(config.segment == "/dev/shm/demo");
  CHECK(config.size == std::uint64_t{4} << 30);
  CHECK(config.host == "127.0.0.1");
  CHECK(config.port == 9000);
  CHECK(config.workers == 4);
  CHECK(config.sink == "/var/tmp/flows");
  CHECK(config.queue_capacity == 8192);
  CHECK(config.buffers == 1024);
  CHECK(config.buffer_size == 64 * 1024);
  CHECK(config.max_connections == 2000);
  CHECK(config.share == 128);
  CHECK(config.drain == 10s);
  CHECK(config.status == 1s);
}

TEST_CASE("config: an unknown key is an error that names line and key", "[tools][config]") {
  CHECK_THAT(error_of("workers = 2\nwokers = 3\n"), Contains("test.toml:2: unknown key 'wokers'"));
  CHECK_THAT(error_of("[workers]\ncount = 2\n"), Contains("workers"));
}

TEST_CASE("config: a value of the wrong kind is an error that names line, key and what is expected",
          "[tools][config]") {
  CHECK_THAT(error_of("workers = \"two\""), Contains("test.toml:1: workers: expected a whole number"));
  CHECK_THAT(error_of("\nworkers = -1"), Contains("test.toml:2: workers: expected a whole number"));
  CHECK_THAT(error_of("workers = 1.5"), Contains("whole number"));
  CHECK_THAT(error_of("segment = 3"), Contains("segment: expected a string"));
  CHECK_THAT(error_of("count = 1"), Contains("count: expected true or false"));
  CHECK_THAT(error_of("drain = 5"), Contains("drain: expected a duration"));
  CHECK_THAT(error_of("drain = \"5 parsecs\""), Contains("drain: '5 parsecs' is not a duration"));
  CHECK_THAT(error_of("size = \"many\""), Contains("size: 'many' is not a size"));
  CHECK_THAT(error_of("workers = "), Contains("test.toml:1:"));
}

TEST_CASE("config: flags override the file, and a handler replaces the other", "[tools][config]") {
  auto settings =
      must(parse_settings("segment = \"a\"\ntcp = \"127.0.0.1:1\"\nsink = \"s\"\nworkers = 3\n", "f"));
  PipelineSettings flags;
  flags.workers = 5;
  flags.count = true;
  settings.override_with(flags);
  const auto config = must(resolve(settings));
  CHECK(config.segment == "a");
  CHECK(config.workers == 5);
  CHECK(config.sink.empty());
}

TEST_CASE("config: defaults where nothing is said", "[tools][config]") {
  const auto config = must(resolve(minimal()));
  CHECK(config.size == std::uint64_t{1} << 30);
  CHECK(config.workers == 2);
  CHECK(config.drain == 5s);
  CHECK(config.status == 0s);
}

TEST_CASE("config: what is missing, contradictory or out of range is refused by name", "[tools][config]") {
  auto settings = minimal();
  SECTION("no segment") {
    settings.segment.reset();
    CHECK_THAT(refusal_of(settings), Contains("segment: missing"));
  }
  SECTION("no address") {
    settings.tcp.reset();
    CHECK_THAT(refusal_of(settings), Contains("tcp: missing"));
  }
  SECTION("no handler") {
    settings.sink.reset();
    CHECK_THAT(refusal_of(settings), Contains("sink: missing"));
  }
  SECTION("two handlers") {
    settings.count = true;
    CHECK_THAT(refusal_of(settings), Contains("exclude each other"));
  }
  SECTION("no workers") {
    settings.workers = 0;
    CHECK_THAT(refusal_of(settings), Contains("workers: found 0, expected 1 to 64"));
  }
  SECTION("too many workers") {
    settings.workers = 65;
    CHECK_THAT(refusal_of(settings), Contains("workers: found 65"));
  }
  SECTION("one buffer") {
    settings.buffers = 1;
    CHECK_THAT(refusal_of(settings), Contains("buffers: found 1"));
  }
  SECTION("a drain of a day") {
    settings.drain = 24h;
    CHECK_THAT(refusal_of(settings), Contains("drain: expected"));
  }
}

TEST_CASE("config: endpoints", "[tools][config]") {
  CHECK(must(parse_endpoint("127.0.0.1:9000")).host == "127.0.0.1");
  CHECK(must(parse_endpoint("127.0.0.1:9000")).port == 9000);
  CHECK(must(parse_endpoint("[::1]:0")).host == "::1");
  CHECK(format_endpoint(must(parse_endpoint("[::1]:80"))) == "[::1]:80");
  CHECK(format_endpoint(must(parse_endpoint("0.0.0.0:80"))) == "0.0.0.0:80");
  for (const auto* wrong : {"", ":80", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                            "::1:80", "[]:80", "a:b"}) {
    CAPTURE(wrong);
    CHECK(!parse_endpoint(wrong));
  }
}

TEST_CASE("config: a file that cannot be read is an error that names it", "[tools][config]") {
  TempDirectory directory;
  const auto missing = read_settings(directory.file("none.toml"));
  REQUIRE(!missing);
  CHECK(missing.error().status == Status::not_found);
  CHECK_THAT(missing.error().message, Contains("none.toml"));
  CHECK(!read_settings(directory.path()));
}
