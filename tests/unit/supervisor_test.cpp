// The supervisor over stand-in children.
#include "tests/unit/supervisor_rig.hpp"

#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <string>
#include <vector>

#include <unistd.h>

using namespace sluice;
using namespace sluice::test;
using namespace std::chrono_literals;

TEST_CASE("supervisor: ready once, drained on a signal", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(2);
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(report.reason.empty());
  CHECK(pipeline.ready_addresses == std::vector<std::string>{"192.0.2.1:7"});
  CHECK(pipeline.streams_given == std::vector<std::string>{"ingress.0", "ingress.1"});
}

TEST_CASE("supervisor: flows are numbered from where it is told, never backwards", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.options.drain_patience = 100ms;  // the stand-ins take no message
  pipeline.options.first_flow = 41;
  pipeline.run();
  const auto& next_flow = pipeline_state(pipeline.session.segment()).next_flow;
  CHECK(load(next_flow, relaxed) == 41);
  pipeline.options.first_flow = 7;
  pipeline.run();
  CHECK(load(next_flow, relaxed) == 41);
}

TEST_CASE("supervisor: a worker that dies is started again, each time", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.worker_prelude =
      fmt::format("test -e {0} || {{ echo >>{0}.n; test $(wc -l <{0}.n) -lt 3 || : >{0}; kill -KILL $$; }};",
                  pipeline.file.directory().file("died"));
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(pipeline.worker_starts >= 4);
  CHECK(report.restarts >= 3);
  CHECK(pipeline.logged("was killed by SIGKILL; starting it again now"));
  CHECK(pipeline.logged("was killed by SIGKILL; starting it again in 100 ms"));
}

TEST_CASE("supervisor: an ingress that dies is started again where its predecessor listened",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.on_ready = nullptr;
  pipeline.ingress_body =
      fmt::format("test -e {0} || {{ : >{0}; kill -KILL $$; }};", pipeline.file.directory().file("died"));
  const auto original = pipeline.options.ingress_arguments;
  pipeline.options.ingress_arguments = [&](const auto& streams, const std::string& address, int ready_fd) {
    if (!address.empty()) signal_self();
    return original(streams, address, ready_fd);
  };
  const auto report = pipeline.run();
  CHECK(report.end != SupervisorEnd::stuck);
  CHECK(pipeline.addresses == std::vector<std::string>{"", "192.0.2.1:7"});
}

TEST_CASE("supervisor: a child that fails before the pipeline ever worked ends it, with its exit code",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  write_file(pipeline.file.directory().file("drain"), {});
  pipeline.options.ingress_arguments = [](const auto&, const auto&, int) {
    return Pipeline::script("exit 6");
  };
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::refused);
  CHECK(report.child_exit_code == 6);
  CHECK(report.reason.empty());
  CHECK(pipeline.ready_addresses.empty());
}

TEST_CASE("supervisor: a child that refuses to work three times in a row ends the pipeline",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  const auto died = pipeline.file.directory().file("died");
  pipeline.worker_prelude = fmt::format("test ! -e {} || exit 2;", died);
  pipeline.on_ready = nullptr;
  const auto original = pipeline.options.worker_command;
  pipeline.options.worker_command = [&](const WorkerPlace& place) {
    // The first one becomes ready, then dies; its successors refuse.
    if (pipeline.worker_starts++ > 0) return original(place);
    return Pipeline::command(
        fmt::format("echo >/proc/self/fd/{}; sleep 0.2; : >{}; kill -KILL $$", place.ready_fd, died));
  };
  const auto report = pipeline.run();
  CHECK(pipeline.ready_addresses.size() == 1);
  CHECK(report.end == SupervisorEnd::refused);
  CHECK(report.child_exit_code == 2);
  CHECK(report.reason.find("worker-0") != std::string::npos);
}

TEST_CASE("supervisor: a second signal kills", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.ingress_trap = deaf_to_term;
  pipeline.on_drain = signal_self;
  CHECK(pipeline.run().end == SupervisorEnd::forced);
}

TEST_CASE("supervisor: a drain without progress is given up, and says so", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.ingress_trap = deaf_to_term;
  pipeline.options.drain_patience = 300ms;
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::stuck);
  CHECK(report.reason.find("no progress") != std::string::npos);
}

TEST_CASE("supervisor: when the segment's file is removed it drains, and says so", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.on_ready = [&] {
    must_hold(::unlink(pipeline.file.path().c_str()) == 0, "unlink");
    write_file(pipeline.file.directory().file("drain"), {});
  };
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::removed);
  CHECK(report.reason.find(pipeline.file.path()) != std::string::npos);
}

TEST_CASE("supervisor: one per segment", "[runtime][supervisor]") {
  Pipeline pipeline;
  const auto first = must(Supervisor::create(pipeline.session, pipeline.options));
  auto other = must(Session::open(pipeline.file.path(), "supervisor"));
  const auto second = Supervisor::create(other, pipeline.options);
  REQUIRE(!second);
  CHECK(second.error().status == Status::busy);
}

TEST_CASE("supervisor: waits for who still holds a stream, and names it when it gives up",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.options.drain_patience = 300ms;
  const auto lane = must(pipeline.session.claim_lane({.cells = 64, .name = "worker"}));
  const auto stream = must(find_or_create_stream(*lane, "ingress.0", 16));
  const auto consumer = must(StreamConsumer::claim(*lane, stream));
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::busy);
  CHECK(report.reason.find(fmt::format("pid {}", ::getpid())) != std::string::npos);
  CHECK(pipeline.worker_starts == 0);
}

TEST_CASE("supervisor: streams of a run with more workers are ended and served", "[runtime][supervisor]") {
  Pipeline pipeline;
  {
    const auto lane = must(pipeline.session.claim_lane({.cells = 64}));
    for (const auto* name : {"ingress.0", "ingress.1", "ingress.2"})
      must(find_or_create_stream(*lane, name, 16));
  }
  std::vector<std::string> served;
  const auto original = pipeline.options.worker_command;
  pipeline.options.worker_command = [&](const WorkerPlace& place) {
    served = place.from;
    return original(place);
  };
  CHECK(pipeline.run().end == SupervisorEnd::drained);
  CHECK(pipeline.streams_given == std::vector<std::string>{"ingress.0"});
  CHECK(served == std::vector<std::string>{"ingress.0", "ingress.1", "ingress.2"});
}

TEST_CASE("supervisor: block devices alone, named when all of them work", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  pipeline.add_device("a");
  pipeline.add_device("b");
  pipeline.on_ready = [] {
    ::kill(::getpid(), SIGUSR1);
    signal_self();
  };
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(pipeline.ready_addresses == std::vector<std::string>{""});
  CHECK(pipeline.ready_devices == std::vector<std::string>{"/dev/a", "/dev/b"});
  CHECK(pipeline.worker_starts == 0);
  CHECK(pipeline.logged(" ublk.a="));
  CHECK(pipeline.logged(" ublk.b="));
}

TEST_CASE("supervisor: block devices beside an ingress and its workers", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.add_device("a");
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(pipeline.ready_addresses == std::vector<std::string>{"192.0.2.1:7"});
  CHECK(pipeline.ready_devices == std::vector<std::string>{"/dev/a"});
}

TEST_CASE("supervisor: a device's server that dies is started again, each time", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  pipeline.on_ready = nullptr;
  const auto died = pipeline.file.directory().file("died");
  pipeline.add_device(
      "a", fmt::format("echo >>{0}; test $(wc -l <{0}) -gt 3 || kill -KILL $$; kill -TERM {1}; {2}", died,
                       ::getpid(), stay));
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(pipeline.device_starts == 4);
  CHECK(report.restarts == 3);
  CHECK(pipeline.logged("ublk.a (pid "));
  CHECK(pipeline.logged("was killed by SIGKILL; starting it again in 100 ms"));
}

TEST_CASE("supervisor: a device that comes back under another name is told", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  pipeline.on_ready = nullptr;
  pipeline.add_device("a");
  pipeline.options.devices[0].arguments = [&](int ready_fd) {
    const bool first = pipeline.device_starts++ == 0;
    return Pipeline::script(fmt::format("{} echo /dev/{} >/proc/self/fd/{}; {}", until_term,
                                        first ? "a" : "b", ready_fd, first ? "kill -KILL $$" : stay));
  };
  const auto log = pipeline.options.log;
  pipeline.options.log = [&](std::string_view line) {
    log(line);
    if (line.find(" is /dev/b now") != std::string_view::npos) signal_self();
  };
  CHECK(pipeline.run().end == SupervisorEnd::drained);
  CHECK(pipeline.logged("ublk.a is /dev/b now, no longer /dev/a"));
}

TEST_CASE("supervisor: a device's server that dies in the drain comes back to stop its device",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  const auto died = pipeline.file.directory().file("died");
  pipeline.add_device("a", stay,
                      fmt::format("trap 'test -e {0} && exit 0; : >{0}; kill -KILL $$' TERM;", died));
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(report.restarts == 1);
  CHECK(pipeline.device_starts == 2);
}

TEST_CASE("supervisor: a device's server that is between two lives comes back to stop its device",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  const auto died = pipeline.file.directory().file("died");
  pipeline.add_device(
      "a", fmt::format("test $(wc -l <{0}) -gt 2 || {{ echo >>{0}; kill -KILL $$; }}; {1}", died, stay));
  write_file(died, {});
  pipeline.on_ready = nullptr;
  const auto log = pipeline.options.log;
  pipeline.options.log = [&](std::string_view line) {
    log(line);
    if (line.find("starting it again in 200 ms") != std::string_view::npos) signal_self();
  };
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(pipeline.device_starts == 4);
}

TEST_CASE("supervisor: devices that cannot be served end the pipeline with the first one's exit code",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(GENERATE(0U, 1U));
  pipeline.add_device("a");
  for (const auto* name : {"b", "c"}) {
    pipeline.add_device(name);
    pipeline.options.devices.back().arguments = [](int) { return Pipeline::script("exit 3"); };
  }
  write_file(pipeline.file.directory().file("drain"), {});
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::refused);
  CHECK(report.child_exit_code == 3);
  CHECK(report.reason.empty());
  CHECK(pipeline.ready_addresses.empty());
}

TEST_CASE("supervisor: a mirror ends when its device has, and its stream is closed and empty",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  pipeline.add_device("a");
  auto& device = pipeline.options.devices.back();
  pipeline.options.plan.queues.push_back({.name = "changes", .capacity = 16, .streams = 0});
  device.into = 0;
  device.mirror_name = "mirror.a";
  int mirror_starts = 0;
  device.mirror_arguments = [&](int ready_fd) {
    ++mirror_starts;
    // It ends too early once, in the drain.
    return Pipeline::script(fmt::format("echo >/proc/self/fd/{}; while ! test -e {}; do sleep 0.02; done",
                                        ready_fd, pipeline.file.directory().file("drain")));
  };
  const auto lane = must(pipeline.session.claim_lane({.cells = 64}));
  const auto stream = must(find_or_create_stream(*lane, "changes", 16));
  pipeline.on_ready = [&] {
    auto producer = must(StreamProducer::claim(*lane, stream));
    must_hold(producer.push(Message{}) == Status::ok, "push");
    signal_self();
  };
  bool consumed = false;
  const auto log = pipeline.options.log;
  pipeline.options.log = [&](std::string_view line) {
    log(line);
    if (line.find("mirror.a (pid ") == std::string_view::npos || std::exchange(consumed, true)) return;
    auto consumer = must(StreamConsumer::claim(*lane, stream));
    must_hold(consumer.peek() != nullptr && consumer.pop().has_value(), "pop");
  };
  const auto report = pipeline.run();
  CHECK(report.end == SupervisorEnd::drained);
  CHECK(consumed);
  CHECK(mirror_starts >= 1);
  CHECK(report.messages == 1);
  CHECK(load(queue_row(pipeline.session.segment(), stream.index).closed, relaxed) != 0);
}

TEST_CASE("supervisor: a consumer from outside keeps no published stream waiting, an old mirror does",
          "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  pipeline.options.drain_patience = 300ms;
  pipeline.add_device("a");
  auto& device = pipeline.options.devices.back();
  pipeline.options.plan.queues.push_back({.name = "changes", .capacity = 16, .streams = 0});
  device.into = 0;
  const auto lane = must(pipeline.session.claim_lane({.cells = 64, .name = "reader"}));
  const auto stream = must(find_or_create_stream(*lane, "changes", 16));
  const auto consumer = must(StreamConsumer::claim(*lane, stream));
  CHECK(pipeline.run().end == SupervisorEnd::drained);
  device.mirror_name = "mirror.a";
  device.mirror_arguments = [](int) { return Pipeline::script("exit 1"); };
  CHECK(pipeline.run().end == SupervisorEnd::busy);
}

TEST_CASE("supervisor: a device that takes long to start is reported", "[runtime][supervisor]") {
  Pipeline pipeline;
  pipeline.serve_with(0);
  pipeline.add_device("quick");
  pipeline.add_device("slow", stay, fmt::format("{} sleep 3;", until_term));
  CHECK(pipeline.run().end == SupervisorEnd::drained);
  CHECK(pipeline.logged("ublk.slow: starting, waiting for the driver ("));
  CHECK_FALSE(pipeline.logged("ublk.quick: starting"));
}
