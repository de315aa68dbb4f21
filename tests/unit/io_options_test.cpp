// What Ingress::open refuses, and the sentence it refuses with.
#include "io/listener.hpp"
#include "tests/unit/io_rig.hpp"

#include <catch2/catch.hpp>

#include <cerrno>
#include <vector>

#include <sys/resource.h>

namespace sluice::test {

namespace {

struct Opener {
  Opener() {
    must(create_stream(*rig.lane, "s", 16));
    options.into = {"s"};
    options.buffers = 4;
    options.buffer_bytes = 4096;
  }
  Error refused() {
    const auto opened = Ingress::open(rig.session, options);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().message.find('\n') == std::string::npos);
    return opened.error();
  }
  void bad_argument(const std::string& message) {
    const auto error = refused();
    CHECK(error.status == Status::bad_argument);
    CHECK(error.message == message);
  }

  Rig rig{small_options(16)};
  IngressOptions options;
};

}  // namespace

TEST_CASE("ingress: options out of range are refused by name, value and range", "[io]") {
  Opener opener;
  SECTION("too few buffers") {
    opener.options.buffers = 1;
    opener.bad_argument("ingress: buffers is 1, expected 2 to 32768");
  }
  SECTION("too many buffers") {
    opener.options.buffers = 32769;
    opener.bad_argument("ingress: buffers is 32769, expected 2 to 32768");
  }
  SECTION("more buffers than a ledger has cells") {
    opener.options.buffers = 32768;
    opener.bad_argument("ingress: 32768 buffers need a ledger of 32840 cells, segment " +
                        opener.rig.file.path() + " has 32768 per lane");
  }
  SECTION("small buffers") {
    opener.options.buffer_bytes = 63;
    opener.bad_argument("ingress: buffer_bytes is 63, expected 64 to 1048576");
  }
  SECTION("large buffers") {
    opener.options.buffer_bytes = (1U << 20) + 1;
    opener.bad_argument("ingress: buffer_bytes is 1048577, expected 64 to 1048576");
  }
  SECTION("no connections") {
    opener.options.connections_max = 0;
    opener.bad_argument("ingress: connections_max is 0, expected 1 to 65536");
  }
  SECTION("a negative grace") {
    opener.options.drain_grace = std::chrono::milliseconds(-1);
    opener.bad_argument("ingress: drain_grace is -1 ms, expected 0 to 3600000");
  }
  SECTION("no stream") {
    opener.options.into.clear();
    opener.bad_argument("ingress: no queue is named, expected at least one");
  }
}

TEST_CASE("ingress: a host that is not a numeric address is refused", "[io]") {
  Opener opener;
  opener.options.host = GENERATE("localhost", "", "127.0.0.1:80", "300.0.0.1");
  opener.bad_argument("listen on \"" + opener.options.host +
                      "\": expected a numeric IPv4 or IPv6 address, like 127.0.0.1 or ::1");
}

TEST_CASE("ingress: a port in use and an address of another machine are named", "[io]") {
  Opener opener;
  SECTION("port in use") {
    const auto ring = must(Ring::open(4, 16));
    const auto other = must(Listener::open(*ring, "127.0.0.1", 0, 4));
    opener.options.port = other->port();
    const auto error = opener.refused();
    CHECK(error.message ==
          "listen on 127.0.0.1:" + std::to_string(other->port()) + ": Address already in use");
    CHECK(error.errno_value == EADDRINUSE);
  }
  SECTION("address not local") {
    opener.options.host = "192.0.2.1";
    opener.options.port = 4242;
    CHECK(opener.refused().message == "listen on 192.0.2.1:4242: Cannot assign requested address");
  }
}

TEST_CASE("ingress: a missing stream, a stream with a producer and a full segment are named", "[io]") {
  Opener opener;
  SECTION("missing") {
    opener.options.into = {"s", "t"};
    const auto error = opener.refused();
    CHECK(error.status == Status::not_found);
    CHECK(error.message.find('t') != std::string::npos);
  }
  SECTION("taken") {
    const auto first = must(Ingress::open(opener.rig.session, opener.options));
    const auto error = opener.refused();
    CHECK(error.status == Status::busy);
    CHECK(error.message == "queue s: another producer has it");
  }
  SECTION("full") {
    while (opener.rig.heap().allocate(4096)) {}
    const auto error = opener.refused();
    CHECK(error.status == Status::exhausted);
    CHECK(error.message.starts_with("segment " + opener.rig.file.path() + ": room for 0 receive buffers"));
  }
}

TEST_CASE("ingress: a refused open leaves nothing behind", "[io]") {
  Opener opener;
  opener.options.into = {"s", "missing"};
  opener.refused();
  opener.options.into = {"s"};
  CHECK(Ingress::open(opener.rig.session, opener.options));
}

TEST_CASE("listener: accept backs off while descriptors or memory are short", "[io]") {
  const auto ring = must(Ring::open(4, 16));
  const auto listener = must(Listener::open(*ring, "127.0.0.1", 0, 4));
  const auto now = Listener::Clock::now();
  listener->steer(10, 10, now);
  const int error = GENERATE(EMFILE, ENFILE, ENOBUFS, ENOMEM);
  listener->complete({RingOp::accept, 0, 1}, -error, 0, now);
  CHECK(listener->backoffs() == 1);
  CHECK(listener->failure() == 0);
  CHECK(listener->retry_at() == now + Listener::backoff);
  listener->steer(10, 10, now + Listener::backoff / 2);
  CHECK(listener->retry_at() == now + Listener::backoff);  // not armed yet
  listener->steer(10, 10, now + Listener::backoff);
  CHECK(listener->retry_at() == Listener::Clock::time_point::max());
}

TEST_CASE("listener: one client's failure is not the listener's", "[io]") {
  const auto ring = must(Ring::open(4, 16));
  const auto listener = must(Listener::open(*ring, "127.0.0.1", 0, 4));
  const auto now = Listener::Clock::now();
  listener->steer(10, 10, now);
  listener->complete({RingOp::accept, 0, 1}, -GENERATE(ECONNABORTED, EINTR, EAGAIN, EPROTO), 0, now);
  CHECK(listener->failure() == 0);
  CHECK(listener->backoffs() == 0);
}

TEST_CASE("listener: a completion of an earlier accept is counted, its socket kept", "[io]") {
  const auto ring = must(Ring::open(4, 16));
  const auto listener = must(Listener::open(*ring, "127.0.0.1", 0, 4));
  const auto now = Listener::Clock::now();
  listener->steer(10, 10, now);
  listener->complete({RingOp::accept, 0, 77}, 1'000'000, 0, now);
  CHECK(listener->stale() == 1);
  CHECK(listener->next() == 1'000'000);
  CHECK(listener->next() == -1);
}

TEST_CASE("listener: who is in the backlog at the stop is accepted once more", "[io]") {
  const auto ring = must(Ring::open(4, 16));
  const auto listener = must(Listener::open(*ring, "127.0.0.1", 0, 4));
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i) clients.emplace_back(listener->port());
  listener->stop();
  CHECK(listener->stopped());
  CHECK(listener->waiting() == 3);
  CHECK_THROWS(Client(listener->port()));
}

TEST_CASE("listener: the soft limit of descriptors is raised to the hard one", "[io]") {
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit lower = before;
  lower.rlim_cur = before.rlim_max / 2;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &lower) == 0);
  CHECK(raise_descriptor_limit() == before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST_CASE("ring: a kernel that refuses io_uring is told in one line", "[io]") {
  // More entries than any kernel allows would be clamped: a limit on descriptors is what can be had here.
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit none = before;
  none.rlim_cur = 0;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  const auto ring = Ring::open(4, 16);
  setrlimit(RLIMIT_NOFILE, &before);
  REQUIRE_FALSE(ring);
  CHECK(ring.error().message == "io_uring_setup: Too many open files");
}

}  // namespace sluice::test
