// The sink: flows become files, whatever is delivered twice, killed or in the way.
#include "tools/sluice/sink.hpp"

#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <sys/resource.h>

using namespace sluice;
using namespace sluice::test;
using namespace sluice::tools;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

Message message_of(MessageKind kind, std::uint64_t flow, std::uint64_t position = 0) {
  Message message{};
  message.kind = kind;
  message.flow = flow;
  message.position = position;
  return message;
}

// A stream's sink with a short way to hand it messages.
struct Stream {
  explicit Stream(const std::string& directory, std::string_view name = "ingress.0",
                  std::size_t files_max = 256)
      : sink(must(FlowSink::open(directory, name, files_max))) {}

  void open(std::uint64_t flow, bool again = false) {
    must(sink.handle({message_of(MessageKind::open, flow), {}, again}));
  }
  void data(std::uint64_t flow, std::uint64_t position, std::string_view text, bool again = false) {
    must(sink.handle({message_of(MessageKind::data, flow, position), bytes_of(text), again}));
  }
  void close(std::uint64_t flow, std::uint64_t position, bool again = false) {
    must(sink.handle({message_of(MessageKind::close, flow, position), {}, again}));
  }
  void abort(std::uint64_t flow, std::uint64_t position, bool again = false) {
    must(sink.handle({message_of(MessageKind::abort, flow, position), {}, again}));
  }
  void restart(std::uint64_t flow, bool again = false) {
    must(sink.handle({message_of(MessageKind::restart, flow), {}, again}));
  }

  FlowSink sink;
};

std::string text_of(const TempDirectory& directory, std::string_view name) {
  const auto bytes = read_file(directory.file(name));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("sink: a flow becomes a file under its number when it ends", "[tools][sink]") {
  TempDirectory directory;
  Stream stream(directory.path());
  stream.open(7);
  stream.data(7, 0, "hello ");
  CHECK(directory.entries() == Names{"7.ingress.0.part"});
  stream.data(7, 6, "world");
  stream.close(7, 11);
  CHECK(directory.entries() == Names{"7.bin"});
  CHECK(text_of(directory, "7.bin") == "hello world");
  CHECK(stream.sink.counters().closed == 1);
}

TEST_CASE("sink: what comes behind a gap is left out, and the flow is not whole", "[tools][sink]") {
  TempDirectory directory;
  {
    Stream stream(directory.path());
    stream.open(7);
    stream.data(7, 0, "hello ");
    stream.data(7, 8, "rld");
  }
  Stream successor(directory.path());
  successor.data(7, 11, "!");
  successor.close(7, 12);
  CHECK(directory.entries() == Names{"7.bin.aborted"});
  CHECK(text_of(directory, "7.bin.aborted") == "hello ");
  CHECK(successor.sink.counters().damaged == 1);
}

TEST_CASE("sink: a flow without bytes becomes an empty file", "[tools][sink]") {
  TempDirectory directory;
  Stream stream(directory.path());
  stream.open(0);
  stream.close(0, 0);
  CHECK(directory.entries() == Names{"0.bin"});
  CHECK(text_of(directory, "0.bin").empty());
}

TEST_CASE("sink: a flow that was cut off is marked, and keeps what came", "[tools][sink]") {
  TempDirectory directory;
  Stream stream(directory.path());
  stream.open(3);
  stream.data(3, 0, "half");
  stream.abort(3, 4);
  CHECK(directory.entries() == Names{"3.bin.aborted"});
  CHECK(text_of(directory, "3.bin.aborted") == "half");
  CHECK(stream.sink.counters().aborted == 1);
}

TEST_CASE("sink: messages delivered again to a successor change nothing, whenever the worker died",
          "[tools][sink]") {
  TempDirectory directory;
  const auto ended_by = GENERATE(MessageKind::close, MessageKind::abort);
  const auto end = [&](Stream& stream, bool again) {
    ended_by == MessageKind::close ? stream.close(5, 6, again) : stream.abort(5, 6, again);
  };
  {
    Stream first(directory.path());
    first.open(5);
    first.data(5, 0, "abc");
    first.data(5, 3, "def");
    end(first, false);
  }
  Stream second(directory.path());
  second.open(5, true);
  second.data(5, 0, "abc", true);
  second.data(5, 3, "def", true);
  end(second, true);
  const std::string name = ended_by == MessageKind::close ? "5.bin" : "5.bin.aborted";
  CHECK(directory.entries() == Names{name});
  CHECK(text_of(directory, name) == "abcdef");
}

TEST_CASE("sink: a successor goes on with the open flows of its stream", "[tools][sink]") {
  TempDirectory directory;
  {
    Stream first(directory.path());
    first.open(1);
    first.data(1, 0, "abc");
  }
  Stream second(directory.path());
  second.data(1, 0, "abc", true);
  second.data(1, 3, "def");
  second.close(1, 6);
  CHECK(text_of(directory, "1.bin") == "abcdef");
}

TEST_CASE("sink: restart ends the open flows of its own stream below its number, and no others",
          "[tools][sink]") {
  TempDirectory directory;
  {
    Stream first(directory.path(), "ingress.0");
    first.open(1);
    first.data(1, 0, "one");
    first.open(9);
  }
  Stream other(directory.path(), "ingress.1");
  other.open(2);
  Stream second(directory.path(), "ingress.0");
  second.open(4);
  second.restart(9);
  CHECK(directory.entries() ==
        Names{"1.bin.aborted", "2.ingress.1.part", "4.bin.aborted", "9.ingress.0.part"});
  CHECK(second.sink.counters().aborted == 2);
  second.restart(9, true);
  second.data(1, 0, "one", true);
  CHECK(directory.entries().size() == 4);
}

TEST_CASE("sink: a file that somebody else put there is neither written nor replaced", "[tools][sink]") {
  TempDirectory directory;
  const auto name = GENERATE(as<std::string>(), "6.bin", "6.bin.aborted");
  write_file(directory.file(name), bytes_of("precious"));
  Stream stream(directory.path());
  const auto opened = stream.sink.handle({message_of(MessageKind::open, 6), {}, false});
  REQUIRE(!opened);
  CHECK(opened.error().status == Status::exists);
  CHECK(opened.error().message.find(name) != std::string::npos);
  CHECK(text_of(directory, name) == "precious");
}

TEST_CASE("sink: a name that appears before the end is not replaced either", "[tools][sink]") {
  TempDirectory directory;
  Stream stream(directory.path());
  stream.open(6);
  write_file(directory.file("6.bin"), bytes_of("precious"));
  const auto closed = stream.sink.handle({message_of(MessageKind::close, 6, 0), {}, false});
  REQUIRE(!closed);
  CHECK(closed.error().status == Status::exists);
  CHECK(text_of(directory, "6.bin") == "precious");
}

TEST_CASE("sink: a flow whose file was changed by somebody is counted, not retried for ever",
          "[tools][sink]") {
  TempDirectory directory;
  Stream stream(directory.path());
  stream.open(1);
  stream.data(1, 0, "abc");
  stream.open(2);
  std::filesystem::remove(directory.file("1.ingress.0.part"));
  write_file(directory.file("2.ingress.0.part"), bytes_of("longer than the flow"));
  stream.close(1, 3);
  stream.close(2, 0);
  CHECK(stream.sink.counters().damaged == 2);
  CHECK(stream.sink.counters().closed == 0);
  CHECK(directory.entries() == Names{"2.bin.aborted"});
}

TEST_CASE("sink: more open flows than open files", "[tools][sink]") {
  TempDirectory directory;
  Stream stream(directory.path(), "ingress.0", 2);
  constexpr std::uint64_t flows = 20;
  for (std::uint64_t flow = 0; flow < flows; ++flow) stream.open(flow);
  for (const auto* part : {"ab", "cd", "ef"})
    for (std::uint64_t flow = 0; flow < flows; ++flow)
      stream.data(flow, part[0] == 'a' ? 0 : part[0] == 'c' ? 2 : 4, part);
  for (std::uint64_t flow = 0; flow < flows; ++flow) stream.close(flow, 6);
  for (std::uint64_t flow = 0; flow < flows; ++flow)
    CHECK(text_of(directory, fmt::format("{}.bin", flow)) == "abcdef");
}

TEST_CASE("sink: fewer descriptors than it would like are enough", "[tools][sink]") {
  TempDirectory directory;
  const auto exit = run_child([&] {
    Stream stream(directory.path());
    const rlimit few{24, 24};
    must_hold(::setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
    for (std::uint64_t flow = 0; flow < 100; ++flow) stream.open(flow);
    for (std::uint64_t flow = 0; flow < 100; ++flow) stream.data(flow, 0, "x");
    for (std::uint64_t flow = 0; flow < 100; ++flow) stream.close(flow, 1);
  });
  CHECK(exit.code == 0);
  CHECK(directory.entries().size() == 100);
}

TEST_CASE("sink: without room the message is refused, and accepted once there is room", "[tools][sink]") {
  TempDirectory directory;
  const auto exit = run_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    Stream stream(directory.path());
    stream.open(1);
    const std::string text(6000, 'x');
    must_hold(::setrlimit(RLIMIT_FSIZE, std::make_unique<rlimit>(rlimit{4096, RLIM_INFINITY}).get()) == 0,
              "setrlimit");
    const auto refused = stream.sink.handle({message_of(MessageKind::data, 1, 0), bytes_of(text), false});
    must_hold(!refused && refused.error().status == Status::exhausted, "refused for want of room");
    must_hold(
        ::setrlimit(RLIMIT_FSIZE, std::make_unique<rlimit>(rlimit{RLIM_INFINITY, RLIM_INFINITY}).get()) == 0,
        "setrlimit");
    stream.data(1, 0, text, true);
    stream.close(1, text.size());
  });
  CHECK(exit.code == 0);
  CHECK(text_of(directory, "1.bin") == std::string(6000, 'x'));
}

TEST_CASE("sink: a directory is prepared, and has one pipeline at a time", "[tools][sink]") {
  TempDirectory directory;
  const auto path = directory.file("new/sink");
  const auto first = must(prepare_sink(path));
  CHECK(first.first_flow == 0);
  const auto second = prepare_sink(path);
  REQUIRE(!second);
  CHECK(second.error().status == Status::busy);
}

TEST_CASE("sink: flows are numbered above every file that is there", "[tools][sink]") {
  TempDirectory directory;
  for (const auto* name :
       {"3.bin", "17.ingress.0.part", "5.bin.aborted", "99", "x.bin", "99999999999999999999.bin"})
    write_file(directory.file(name), bytes_of(""));
  CHECK(must(prepare_sink(directory.path())).first_flow == 18);
}

TEST_CASE("sink: what is not a directory is an error that names it", "[tools][sink]") {
  TempDirectory directory;
  write_file(directory.file("file"), bytes_of(""));
  const auto prepared = prepare_sink(directory.file("file"));
  REQUIRE(!prepared);
  CHECK(prepared.error().message.find(directory.file("file")) != std::string::npos);
  CHECK(!FlowSink::open(directory.file("none"), "ingress.0"));
  CHECK(!FlowSink::open(directory.path(), "in/gress"));
}
