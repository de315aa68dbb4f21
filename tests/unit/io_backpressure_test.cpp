// What the ingress does when something runs short: blocks, room, descriptors. It waits, and loses nothing.
#include "ipc/audit.hpp"
#include "runtime/ring.hpp"
#include "tests/support/child.hpp"
#include "tests/unit/io_allocation_counter.hpp"
#include "tests/unit/io_rig.hpp"

#include <catch2/catch.hpp>

#include <array>

#include <sys/resource.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

struct Sender {
  Sender(std::uint16_t port, std::uint64_t seed, std::size_t bytes)
      : thread([=] {
          Client client(port);
          client.send(content(seed, bytes));
        }) {}
  ~Sender() { thread.join(); }
  std::thread thread;
};

IngressOptions ingress_with(std::uint32_t buffers, std::uint32_t buffer_bytes, std::uint32_t share = 0) {
  IngressOptions options;
  options.buffers = buffers;
  options.buffer_bytes = buffer_bytes;
  options.connection_share = share;
  options.drain_grace = 10s;
  return options;
}

void check_arrived(IngressPipeline& pipeline, std::uint64_t clients, std::size_t bytes) {
  for (std::uint64_t seed = 0; seed < clients; ++seed) {
    CAPTURE(seed);
    const auto flow = pipeline.journal.flow_with(head_of(seed));
    CHECK((flow.bytes == content(seed, bytes)));
    CHECK(flow.ended == MessageKind::close);
  }
  REQUIRE(pipeline.stop());
  CHECK(pipeline.journal.faults() == std::vector<std::string>{});
  CHECK(audit(pipeline.rig.segment()).violations.empty());
}

}  // namespace

TEST_CASE("ingress: with every block in a stream connections wait, then all bytes arrive", "[io][ingress]") {
  // 8 units: the stream's ring takes one, 14 blocks of 32 KiB are left.
  IngressPipeline pipeline({.units = 8, .capacity = 64, .ingress = ingress_with(8, 32768, 64)});
  pipeline.hold();
  {
    std::array senders{Sender(pipeline.port(), 0, 1'000'000), Sender(pipeline.port(), 1, 1'000'000),
                       Sender(pipeline.port(), 2, 1'000'000)};
    REQUIRE(eventually([&] { return pipeline.counters().stalls_no_buffer != 0; }));
    std::this_thread::sleep_for(50ms);
    const auto stalled = pipeline.counters();
    CHECK(stalled.closed == 0);
    CHECK(stalled.reset == 0);
    CHECK(stalled.messages <= 14);
    pipeline.let_go();
  }
  check_arrived(pipeline, 3, 1'000'000);
}

TEST_CASE("ingress: connections of full streams are not read from until there is room", "[io][ingress]") {
  IngressPipeline pipeline({.streams = 2, .capacity = 4, .ingress = ingress_with(64, 4096, 1000)});
  pipeline.hold();
  {
    std::array senders{Sender(pipeline.port(), 0, 500'000), Sender(pipeline.port(), 1, 500'000)};
    REQUIRE(eventually([&] { return pipeline.counters().stalls_stream_full == 2; }));
    const auto stalled = pipeline.counters().bytes;
    std::this_thread::sleep_for(50ms);
    CHECK(pipeline.counters().bytes == stalled);  // TCP holds the senders back
    CHECK(stalled < 600'000);
    pipeline.let_go();
  }
  check_arrived(pipeline, 2, 500'000);
}

TEST_CASE("ingress: while nothing moves it sleeps", "[io][ingress]") {
  const auto ring = must(Ring::open(4, 16));
  if (!ring->supports(uring_abi::op_futex_wait)) {
    WARN("this kernel's io_uring cannot wait on a futex: a stalled ingress looks again each millisecond");
    return;
  }
  IngressPipeline pipeline({.capacity = 4, .ingress = ingress_with(16, 4096, 1000)});
  pipeline.hold();
  const Sender sender(pipeline.port(), 0, 200'000);
  REQUIRE(eventually([&] { return pipeline.counters().stalls_stream_full == 1; }));
  std::this_thread::sleep_for(100ms);
  const auto before = pipeline.counters().waits;
  std::this_thread::sleep_for(500ms);
  CHECK(pipeline.counters().waits - before <= 15);
  pipeline.let_go();
  CHECK((pipeline.journal.flow_with(head_of(0)).bytes == content(0, 200'000)));
}

TEST_CASE("ingress: one connection cannot take all blocks from the others", "[io][ingress]") {
  IngressPipeline pipeline({.units = 64, .capacity = 256, .ingress = ingress_with(64, 4096, 4)});
  pipeline.hold();
  {
    Client greedy(pipeline.port());
    const auto bytes = content(0, 1'000'000);
    std::thread sender([&] {
      greedy.send(bytes);
      greedy.close();
    });
    REQUIRE(eventually([&] { return pipeline.counters().stalls_share == 1; }));
    std::this_thread::sleep_for(50ms);
    const auto taken = pipeline.counters().messages;
    CHECK(taken >= 4);
    CHECK(taken <= 64);
    const Sender modest(pipeline.port(), 1, 3000);
    CHECK(eventually([&] { return pipeline.counters().messages == taken + 1; }));
    pipeline.let_go();
    sender.join();
  }
  CHECK((pipeline.journal.flow_with(head_of(1)).bytes == content(1, 3000)));
  CHECK((pipeline.journal.flow_with(head_of(0)).bytes == content(0, 1'000'000)));
}

TEST_CASE("ingress: a slow worker and every shortage at once lose nothing", "[io][ingress]") {
  IngressPipeline pipeline({.units = 8, .streams = 2, .capacity = 4, .ingress = ingress_with(6, 8192, 2)});
  std::thread brakes([&] {
    for (int i = 0; i < 100; ++i) {
      pipeline.hold();
      std::this_thread::sleep_for(2ms);
      pipeline.let_go();
      std::this_thread::sleep_for(1ms);
    }
  });
  {
    std::vector<std::unique_ptr<Sender>> senders;
    for (std::uint64_t seed = 0; seed < 16; ++seed)
      senders.push_back(std::make_unique<Sender>(pipeline.port(), seed, 200'000));
  }
  brakes.join();
  check_arrived(pipeline, 16, 200'000);
  const auto counters = pipeline.counters();
  CHECK(counters.stalls_share != 0);
  CHECK(counters.bytes == 16 * 200'000);
}

TEST_CASE("ingress: without descriptors accept backs off, and every client is served in the end",
          "[io][ingress]") {
  SharedWithChildren<std::atomic<std::uint32_t>> port;
  SharedWithChildren<std::atomic<std::uint64_t>> backoffs;
  Child child([&](ChildLink& link) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max = limit.rlim_cur = 24;
    setrlimit(RLIMIT_NOFILE, &limit);
    IngressPipeline pipeline({.ingress = ingress_with(16, 4096)});
    *port = pipeline.port();
    link.ready();
    for (std::uint64_t seed = 0; seed < 60; ++seed)
      must_hold(pipeline.journal.flow_with(head_of(seed)).bytes == content(seed, 2000), "every byte arrived");
    must(pipeline.stop());
    *backoffs = pipeline.counters().accept_backoffs;
  });
  REQUIRE(child.wait_ready());
  std::vector<Client> clients;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    clients.emplace_back(static_cast<std::uint16_t>(port->load()));
    clients.back().send(content(seed, 2000));
  }
  std::this_thread::sleep_for(50ms);
  clients.clear();
  const auto exit = child.wait();
  CHECK(exit.code == 0);
  CHECK(*backoffs >= 1);
}

TEST_CASE("ingress: the counter of allocations counts", "[io]") {
  if (!allocations_are_counted) return;
  const auto before = allocations_of_this_thread();
  const std::vector<int> vector(1000);
  const auto aligned = std::make_unique<Message>();
  CHECK(allocations_of_this_thread() == before + 2);
}

TEST_CASE("ingress: nothing is allocated for connections, messages and stalls", "[io][ingress]") {
  if (!allocations_are_counted) {
    WARN("the sanitizers have their own operator new: not counted");
    return;
  }
  Rig rig(small_options(32));
  must(create_stream(*rig.lane, "s", 16));
  std::atomic<bool> stop{false};
  std::atomic<std::uint32_t> port{0};
  std::uint64_t allocations = 0;
  std::thread ingress_thread([&] {
    auto options = ingress_with(16, 4096, 4);
    options.into = {"s"};
    const auto ingress = must(Ingress::open(rig.session, options));
    port = ingress->port();
    const auto before = allocations_of_this_thread();
    must(ingress->run(stop));
    allocations = allocations_of_this_thread() - before;
    CHECK(ingress->counters().accepted == 20);
    CHECK(ingress->counters().messages > 1000);
    CHECK(ingress->counters().stalls_share > 0);
  });
  std::thread worker([&] {
    const auto lane = rig.another_lane();
    const std::atomic<bool> never{false};
    must(run_worker(*lane, {.from = {"s"}}, [](const Delivery&) { return Status::ok; }, never));
  });
  REQUIRE(eventually([&] { return port != 0; }));
  for (std::uint64_t round = 0; round < 5; ++round) {
    std::vector<std::unique_ptr<Sender>> senders;
    for (std::uint64_t i = 0; i < 4; ++i)
      senders.push_back(std::make_unique<Sender>(static_cast<std::uint16_t>(port.load()), i, 400'000));
  }
  stop = true;
  ingress_thread.join();
  worker.join();
  CHECK(allocations == 0);
}

}  // namespace sluice::test
