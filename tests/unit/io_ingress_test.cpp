// The whole ingress: flows, their ends, limits, the drain.
#include "ipc/audit.hpp"
#include "tests/unit/io_rig.hpp"

#include <catch2/catch.hpp>

#include <cerrno>
#include <csignal>
#include <set>

#include <pthread.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

IngressOptions small_ingress(std::uint32_t buffers, std::uint32_t buffer_bytes) {
  IngressOptions options;
  options.buffers = buffers;
  options.buffer_bytes = buffer_bytes;
  options.drain_grace = 10s;
  return options;
}

void check_nothing_left(IngressPipeline& pipeline) {
  CHECK(pipeline.journal.faults() == std::vector<std::string>{});
  const auto report = audit(pipeline.rig.segment());
  for (const auto& violation : report.violations) FAIL_CHECK("audit: " << violation.what);
  CHECK(report.counts.queue_messages == 0);
}

double seconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TEST_CASE("ingress: many connections arrive byte for byte, each in one stream and in order",
          "[io][ingress]") {
  IngressPipeline pipeline({.units = 24, .streams = 3, .capacity = 32, .ingress = small_ingress(32, 4096)});
  constexpr std::uint64_t clients = 24;
  std::vector<std::thread> senders;
  for (std::uint64_t seed = 0; seed < clients; ++seed)
    senders.emplace_back([&, seed] {
      Client client(pipeline.port());
      client.send(content(seed, 300'000 + seed * 7919));
    });
  for (auto& sender : senders) sender.join();
  REQUIRE(pipeline.stop());

  const auto flows = pipeline.journal.flows();
  REQUIRE(flows.size() == clients);
  std::set<std::uint32_t> streams;
  for (std::uint64_t seed = 0; seed < clients; ++seed) {
    CAPTURE(seed);
    const auto flow = pipeline.journal.flow_with(head_of(seed));
    CAPTURE(flow.bytes.size(), flow.detail);
    CHECK((flow.bytes == content(seed, 300'000 + seed * 7919)));
    CHECK((flow.ended == MessageKind::close));
    streams.insert(flow.stream);
  }
  CHECK(streams.size() == 3);
  const auto counters = pipeline.counters();
  CHECK(counters.accepted == clients);
  CHECK(counters.closed == clients);
  CHECK(counters.bad_buffers == 0);
  CHECK(counters.stale_completions == 0);
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: flow numbers count connections from zero and go on in the next run", "[io][ingress]") {
  IngressPipeline pipeline({.ingress = small_ingress(8, 4096)});
  Client(pipeline.port()).send(content(0, 100));
  CHECK(pipeline.journal.flow_with(head_of(0)).ended == MessageKind::close);
  CHECK(pipeline.journal.flows().contains(0));
  REQUIRE(pipeline.stop());
  CHECK(pipeline.journal.restarts().empty());

  pipeline.restart();
  Client(pipeline.port()).send(content(1, 100));
  CHECK(pipeline.journal.flow_with(head_of(1)).ended == MessageKind::close);
  CHECK(pipeline.journal.flows().contains(1));
  REQUIRE(pipeline.stop());
  CHECK(pipeline.journal.restarts() == std::vector<std::uint64_t>{1});
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: a client that resets ends its flow with the errno and disturbs no other",
          "[io][ingress]") {
  IngressPipeline pipeline({.ingress = small_ingress(8, 4096)});
  Client other(pipeline.port());
  other.send(content(1, 100));
  Client client(pipeline.port());
  client.send(content(0, 100));
  REQUIRE(eventually([&] { return pipeline.counters().messages == 2; }));
  client.reset();
  const auto flow = pipeline.journal.flow_with(head_of(0));
  CHECK(flow.ended == MessageKind::abort);
  CHECK(flow.detail == ECONNRESET);
  CHECK((flow.bytes == content(0, 100)));
  other.send("more");
  other.close();
  CHECK((pipeline.journal.flow_with(head_of(1)).bytes == content(1, 100) + "more"));
  REQUIRE(pipeline.stop());
  CHECK(pipeline.counters().reset == 1);
  CHECK(pipeline.counters().closed == 1);
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: a client that sends nothing holds up nobody, and is cut off by the drain",
          "[io][ingress]") {
  PipelineOptions options{.ingress = small_ingress(8, 4096)};
  options.ingress.drain_grace = 200ms;
  IngressPipeline pipeline(options);
  Client idle(pipeline.port());
  Client(pipeline.port()).send(content(1, 50'000));
  CHECK((pipeline.journal.flow_with(head_of(1)).bytes == content(1, 50'000)));
  const double took = seconds_of([&] { REQUIRE(pipeline.stop()); });
  CHECK(took > 0.19);
  CHECK(took < 2);
  CHECK(pipeline.counters().aborted_at_drain == 1);
  const auto flows = pipeline.journal.flows();
  CHECK(flows.at(0).ended == MessageKind::abort);
  CHECK(flows.at(0).detail == ECANCELED);
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: connections over the limit wait and are served later, never more at a time",
          "[io][ingress]") {
  PipelineOptions options{.ingress = small_ingress(8, 4096)};
  options.ingress.connections_max = GENERATE(1U, 4U);
  IngressPipeline pipeline(options);
  std::vector<Client> clients;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    clients.emplace_back(pipeline.port());
    clients.back().send(content(seed, 5000));
  }
  CHECK(eventually([&] { return pipeline.counters().accepted == options.ingress.connections_max; }));
  CHECK(pipeline.counters().accept_pauses >= 1);
  std::this_thread::sleep_for(20ms);
  CHECK(pipeline.counters().accepted == options.ingress.connections_max);
  clients.clear();
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    const auto flow = pipeline.journal.flow_with(head_of(seed));
    CHECK((flow.bytes == content(seed, 5000)));
    CHECK(flow.ended == MessageKind::close);
  }
  CHECK(pipeline.journal.open_flows_max() <= options.ingress.connections_max);
  REQUIRE(pipeline.stop());
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: the drain serves what is connected to its end and accepts no more", "[io][ingress]") {
  IngressPipeline pipeline({.ingress = small_ingress(8, 4096)});
  Client client(pipeline.port());
  client.send(content(0, 1000));
  std::thread rest([&] {
    std::this_thread::sleep_for(200ms);  // the stop is long known by then
    CHECK_THROWS(Client(pipeline.port()));
    client.send("after the stop");
    client.close();
  });
  const auto stopped = pipeline.stop();
  rest.join();
  REQUIRE(stopped);
  const auto flow = pipeline.journal.flow_with(head_of(0));
  CHECK((flow.bytes == content(0, 1000) + "after the stop"));
  CHECK(flow.ended == MessageKind::close);
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: clients that wait for a slot at the stop are served", "[io][ingress]") {
  PipelineOptions options{.ingress = small_ingress(8, 4096)};
  options.ingress.connections_max = 2;
  IngressPipeline pipeline(options);
  std::vector<Client> clients;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    clients.emplace_back(pipeline.port());
    clients.back().send(content(seed, 5000));
    clients.back().finish();
  }
  REQUIRE(pipeline.stop());
  CHECK(pipeline.counters().refused_at_drain == 0);
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    CHECK((pipeline.journal.flow_with(head_of(seed)).bytes == content(seed, 5000)));
  check_nothing_left(pipeline);
}

TEST_CASE("ingress: a worker that takes nothing ends the drain with an error that tells what is lost",
          "[io][ingress]") {
  PipelineOptions options{.capacity = 2, .ingress = small_ingress(8, 4096)};
  options.ingress.drain_grace = 100ms;
  options.ingress.connection_share = 1000;
  IngressPipeline pipeline(options);
  pipeline.hold();
  Client client(pipeline.port());
  client.send(content(0, 30'000));
  REQUIRE(eventually([&] { return pipeline.counters().stalls_stream_full != 0; }));
  const auto stopped = pipeline.stop(true);
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().status == Status::timeout);
  CHECK(stopped.error().message.starts_with("drain: queue stream.0 has no room for "));
}

TEST_CASE("ingress: the stop is noticed within a tenth of a second", "[io][ingress]") {
  PipelineOptions options{.capacity = 4, .ingress = small_ingress(8, 4096)};
  options.ingress.drain_grace = 0ms;
  options.ingress.connection_share = 1000;
  IngressPipeline pipeline(options);
  SECTION("with nothing to do") {}
  SECTION("with an idle client") {
    const Client client(pipeline.port());
    CHECK(eventually([&] { return pipeline.counters().accepted == 1; }));
    CHECK(seconds_of([&] { CHECK(pipeline.stop()); }) < 0.15);
  }
  SECTION("while a stream is full") {
    pipeline.hold();
    Client client(pipeline.port());
    client.send_some(content(0, 100'000));
    CHECK(eventually([&] { return pipeline.counters().stalls_stream_full != 0; }));
    std::thread later([&] {
      std::this_thread::sleep_for(100ms);
      pipeline.let_go();
    });
    CHECK(seconds_of([&] { CHECK(pipeline.stop()); }) < 0.25);
    later.join();
  }
  CHECK(seconds_of([&] { CHECK(pipeline.stop()); }) < 0.15);
}

TEST_CASE("ingress: signals interrupt nothing", "[io][ingress]") {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) {};  // without SA_RESTART
  sigaction(SIGUSR1, &action, &before);
  {
    IngressPipeline pipeline({.ingress = small_ingress(8, 4096)});
    Client client(pipeline.port());
    std::thread sender([&] {
      client.send(content(0, 4'000'000));
      client.close();
    });
    for (int i = 0; i < 300; ++i) {
      pthread_kill(pipeline.thread().native_handle(), SIGUSR1);
      std::this_thread::sleep_for(100us);
    }
    sender.join();
    CHECK((pipeline.journal.flow_with(head_of(0)).bytes == content(0, 4'000'000)));
    for (int i = 0; i < 20; ++i) {  // and while it sleeps
      pthread_kill(pipeline.thread().native_handle(), SIGUSR1);
      std::this_thread::sleep_for(2ms);
    }
    REQUIRE(pipeline.stop());
    check_nothing_left(pipeline);
  }
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("ingress: it listens on IPv6", "[io][ingress]") {
  PipelineOptions options{.ingress = small_ingress(8, 4096)};
  options.ingress.host = "::1";
  std::optional<IngressPipeline> pipeline;
  try {
    pipeline.emplace(options);
  } catch (const std::runtime_error& error) {
    if (std::string(error.what()).find("Cannot assign requested address") == std::string::npos) throw;
    WARN("this machine has no IPv6 loopback");
    return;
  }
  Client(pipeline->port(), "::1").send(content(0, 1000));
  CHECK((pipeline->journal.flow_with(head_of(0)).bytes == content(0, 1000)));
  REQUIRE(pipeline->stop());
}

}  // namespace sluice::test
