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
  CHECK(config.plan.stages.at(0).workers == 4);
  CHECK(config.sinks() == std::vector<std::string>{"/var/tmp/flows"});
  CHECK(config.topology.queue_capacity == 8192);
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
  CHECK(config.plan.stages.at(0).workers == 5);
  CHECK(config.sinks().empty());
}

TEST_CASE("config: defaults where nothing is said", "[tools][config]") {
  const auto config = must(resolve(minimal()));
  CHECK(config.size == std::uint64_t{1} << 30);
  CHECK(config.plan.stages.at(0).workers == 2);
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

namespace {

// A configuration that has nothing but this [[ublk]] table.
std::string table(std::string_view lines) { return "segment = \"/s\"\n[[ublk]]\n" + std::string(lines); }

std::string command_of(std::string_view toml) {
  const auto config = must(resolve(must(parse_settings(toml, "test.toml"))));
  std::string command;
  for (const auto& argument : device_arguments(config.topology.devices.at(0), config.segment, 5))
    command += (command.empty() ? "" : " ") + argument;
  return command;
}

constexpr std::string_view disk = "name = \"d\"\ntarget = \"store\"\n";

}  // namespace

TEST_CASE("config: the documentation's example of block devices is read", "[tools][config]") {
  const auto bytes = read_file(SLUICE_SOURCE_DIR "/docs/pipeline.md");
  const std::string page(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string fence = "```toml\n";
  const auto begin = page.rfind(fence) + fence.size();
  const auto config = must(
      resolve(must(parse_settings(page.substr(begin, page.find("```", begin) - begin), "docs/pipeline.md"))));
  REQUIRE(config.topology.devices.size() == 2);
  CHECK(config.topology.devices[0].name == "scratch");
  CHECK(config.topology.devices[1].target == "file");
  // And every key is in the table above it.
  for (const auto* key :
       {"name", "target", "path", "size", "queues", "depth", "max-io", "data", "recovery", "faults",
        "lock-memory", "read-only", "thin", "id", "publish", "publish-policy", "mirror"}) {
    CAPTURE(key);
    CHECK(page.find("`" + std::string(key) + "`", page.find("## Block devices")) < begin);
  }
}

TEST_CASE("config: the documentation's example of stages is read, and can run", "[tools][config]") {
  const auto bytes = read_file(SLUICE_SOURCE_DIR "/docs/pipeline.md");
  const std::string page(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string fence = "```toml\n";
  auto begin = page.find(fence);
  while (begin != std::string::npos &&
         page.substr(begin, page.find("```\n", begin + fence.size()) - begin).find("[[stage]]") ==
             std::string::npos)
    begin = page.find(fence, begin + 1);
  REQUIRE(begin != std::string::npos);
  const auto example =
      page.substr(begin + fence.size(), page.find("```\n", begin + fence.size()) - begin - fence.size());
  const auto config = must(resolve(must(parse_settings(example, "docs/pipeline.md"))));
  CHECK(config.plan.queues.size() == 4);
  CHECK(config.plan.stages.size() == 4);
  CHECK(config.plan.queues.at(0).dead_letter == 1);
}

TEST_CASE("config: block devices need no tcp, and nothing that belongs to it", "[tools][config]") {
  auto settings = must(parse_settings(table(disk), "f"));
  const auto config = must(resolve(settings));
  CHECK(!config.plan.ingress_into);
  CHECK(config.topology.devices.size() == 1);
  SECTION("workers") {
    settings.workers = 2;
    CHECK_THAT(refusal_of(settings), Contains("workers: found without tcp"));
  }
  SECTION("a sink") {
    settings.sink = "/tmp/out";
    CHECK_THAT(refusal_of(settings), Contains("sink: found without tcp"));
  }
  SECTION("buffers") {
    settings.buffers = 64;
    CHECK_THAT(refusal_of(settings), Contains("buffers: found without tcp"));
  }
  SECTION("with tcp there must be a handler") {
    settings.tcp = "127.0.0.1:0";
    CHECK_THAT(refusal_of(settings), Contains("sink: missing"));
    settings.count = true;
    CHECK(must(resolve(settings)).plan.stages.at(0).workers == 2);
  }
  SECTION("no segment") {
    settings.segment.reset();
    CHECK_THAT(refusal_of(settings), Contains("segment: missing"));
  }
}

TEST_CASE("config: every key of a block device becomes its flag", "[tools][config]") {
  CHECK(
      command_of(
          table("name = \"disk\"\ntarget = \"file\"\npath = \"/p\"\nsize = \"1MiB\"\nqueues = 2\n"
                "depth = 32\nmax-io = \"64KiB\"\ndata = \"copy\"\nrecovery = \"wait\"\nfaults = \"/f\"\n"
                "lock-memory = true\nread-only = true\nid = 7\n")) ==
      "sluice ublk add --take-over --target file --path /p --size 1048576 --queues 2 --depth 32 --max-io 65536 "
      "--data copy --recovery wait --faults /f --lock-memory --read-only --id 7 --ready-fd 5");
  CHECK(command_of(table("name = \"disk\"\ntarget = \"null\"\nsize = 4096\nread-only = false\n")) ==
        "sluice ublk add --take-over --target null --size 4096 --ready-fd 5");
  CHECK(command_of(table("name = \"disk\"\ntarget = \"store\"\nsize = \"1MiB\"\n")) ==
        "sluice ublk add --take-over --target store --segment /s --name disk --size 1048576 --ready-fd 5");
  CHECK(command_of(table("name = \"disk\"\ntarget = \"store\"\nsize = 65536\nthin = true\npublish = \"q\"\n"
                         "publish-policy = \"fail\"\n")) ==
        "sluice ublk add --take-over --target store --segment /s --name disk --size 65536 --thin --publish q "
        "--publish-policy fail --ready-fd 5");
}

TEST_CASE("config: a mirror is a worker on the stream that its device publishes into", "[tools][config]") {
  const auto config = must(resolve(must(parse_settings(
      table("name = \"disk\"\ntarget = \"store\"\nsize = 4096\npublish = \"q\"\nmirror = \"/m\"\n"), "f"))));
  const auto& device = config.topology.devices.at(0);
  CHECK(device_child_name(device) == "ublk.disk");
  CHECK(mirror_arguments(device, config.segment, 5) ==
        std::vector<std::string>{"sluice", "worker", "--segment", "/s", "--name", "mirror.disk", "--from",
                                 "q", "--mirror", "/m", "--ready-fd", "5"});
}

TEST_CASE(
    "config: what is wrong with a block device is named with its line, what was found and what is expected",
    "[tools][config]") {
  const auto with = [](std::string_view line) {
    return error_of(table(std::string(disk) + std::string(line)));
  };
  CHECK_THAT(
      with("quues = 2"),
      Contains(
          "test.toml:5: unknown key 'quues' in [[ublk]], expected one of name, target, path, size, queues"));
  CHECK_THAT(with("data = \"fast\""),
             Contains("test.toml:5: data: found 'fast', expected one of auto, user-copy, copy"));
  CHECK_THAT(with("recovery = \"no\""),
             Contains("recovery: found 'no', expected one of none, wait, reissue, fail-io"));
  CHECK_THAT(with("publish = \"q\"\npublish-policy = \"drop\""),
             Contains("publish-policy: found 'drop', expected one of block, fail"));
  CHECK_THAT(with("publish-policy = \"fail\""), Contains("publish-policy: found without publish"));
  CHECK_THAT(with("mirror = \"/m\""), Contains("mirror: found without publish"));
  CHECK_THAT(with("publish = \"\""), Contains("publish: found '', expected a stream's name"));
  CHECK_THAT(with("publish = \"ingress.0\""), Contains("publish: found 'ingress.0', but"));
  CHECK_THAT(with("queues = \"two\""), Contains("test.toml:5: queues: expected a whole number"));
  CHECK_THAT(with("size = \"big\""), Contains("size: 'big' is not a size"));
  CHECK_THAT(with("read-only = 1"), Contains("read-only: expected true or false"));
  CHECK_THAT(error_of(table("target = \"null\"")), Contains("test.toml:2: name: missing"));
  CHECK_THAT(error_of(table("name = \"d\"")), Contains("target: missing, expected one of null, file, store"));
  CHECK_THAT(error_of(table("name = \"d\"\ntarget = \"loop\"")),
             Contains("test.toml:4: target: found 'loop', expected one of null, file, store"));
  for (const auto* name : {"", "a b", "a/b", "a=b", "abcdefghijklmnopqrstuvwxy"})
    CHECK_THAT(error_of(table("target = \"null\"\nname = \"" + std::string(name) + "\"")),
               Contains("name: found '" + std::string(name) + "', expected 1 to 24 letters"));
  CHECK_THAT(error_of(table("name = \"d\"\ntarget = \"null\"\npublish = \"q\"")),
             Contains("publish: found with target 'null', expected it with store"));
  CHECK_THAT(error_of("[ublk]\nname = \"d\""),
             Contains("ublk: expected tables, each with [[ublk]] above it"));
  CHECK_THAT(error_of("ublk = 3"), Contains("test.toml:1: ublk: expected tables"));
  CHECK_THAT(error_of("ublk = [3]"), Contains("ublk: expected tables"));
}

TEST_CASE("config: what only one block device can have is refused a second time", "[tools][config]") {
  const auto two = [](std::string_view first, std::string_view second) {
    return error_of("[[ublk]]\ntarget = \"store\"\n" + std::string(first) +
                    "\n[[ublk]]\ntarget = \"store\"\n" + std::string(second));
  };
  CHECK_THAT(two("name = \"a\"", "name = \"a\""),
             Contains("test.toml:4: name: found 'a', which device 'a' has already"));
  CHECK_THAT(two("name = \"a\"\npublish = \"q\"", "name = \"b\"\npublish = \"q\""),
             Contains("publish: found 'q', which device 'a' has already"));
  CHECK_THAT(
      two("name = \"a\"\npublish = \"q\"\nmirror = \"/m\"", "name = \"b\"\npublish = \"r\"\nmirror = \"/m\""),
      Contains("mirror: found '/m', which device 'a' has already"));
}
