#include "io/receiver.hpp"

#include "ipc/audit.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t block = 4096;

/// A receiver fed by socket pairs, its turns taken by the test.
struct Turns {
  explicit Turns(std::uint32_t buffer_count = 8, std::uint32_t share = 100, std::uint32_t capacity = 64)
      : worker(rig.another_lane()) {
    const auto queue = must(create_stream(*rig.lane, "s", capacity));
    consumer = must(StreamConsumer::claim(*worker, queue));
    buffers = must(BufferRing::open(*ring, rig.heap(), buffer_count, block, 0));
    dispatch = must(Dispatch::open(*rig.lane, pool, {"s"}, 64, 2));
    receiver.emplace(*ring, *buffers, pool, *dispatch, pipeline_state(rig.segment()), share);
    if (GENERATE(false, true)) receiver->forgo_bundles();  // kernels before 6.17
  }
  ~Turns() {
    for (const int fd : peers)
      if (fd >= 0) ::close(fd);
  }

  /// Connect a peer; returns its index.
  std::size_t connect() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) throw std::runtime_error("socketpair");
    peers.push_back(pair[0]);
    receiver->begin(pair[1], now());
    return peers.size() - 1;
  }
  void send(std::size_t peer, const std::string& text) {
    if (::send(peers[peer], text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
      throw std::runtime_error("send");
  }
  void hang_up(std::size_t peer) {
    ::close(peers[peer]);
    peers[peer] = -1;
  }

  static std::uint64_t now() {
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  }
  /// Completions that are there within a moment, copied.
  std::vector<io_uring_cqe> completions() {
    std::vector<io_uring_cqe> all;
    while (ring->wait(5ms) == Status::ok) {
      const auto batch = ring->completions();
      for (const auto* completion : batch) {
        all.emplace_back();
        std::memcpy(static_cast<void*>(&all.back()), completion, sizeof(io_uring_cqe));
      }
      ring->advance(batch.size());
    }
    return all;
  }
  void process(const io_uring_cqe& completion) {
    const auto data = UserData::decode(completion.user_data);
    if (data.op == RingOp::receive) receiver->complete(data, completion.res, completion.flags, now());
    if (data.op == RingOp::cancel) receiver->cancel_failed(data);
  }
  /// Turns until nothing happens any more.
  void settle() {
    for (int i = 0; i < 4; ++i) {
      receiver->settle(now());
      for (const auto& completion : completions()) process(completion);
    }
    receiver->settle(now());
  }
  /// What is in the stream, taken: "open", "data:…", "close", "abort:ERRNO".
  std::vector<std::string> take() {
    std::vector<std::string> taken;
    while (const Message* message = consumer.peek()) {
      switch (message->kind) {
        case MessageKind::open: taken.emplace_back("open"); break;
        case MessageKind::close: taken.emplace_back("close"); break;
        case MessageKind::abort: taken.push_back("abort:" + std::to_string(message->detail)); break;
        default: {
          const auto found = must(find_block(rig.segment(), Handle{message->handle}));
          taken.push_back("data:" + std::string(reinterpret_cast<const char*>(found.data), message->length));
        }
      }
      must(consumer.acknowledge());
    }
    worker->heap().flush();
    return taken;
  }
  const ReceiverCounters& counters() const { return receiver->counters(); }

  Rig rig{small_options(16)};
  std::unique_ptr<Lane> worker;
  StreamConsumer consumer;
  std::unique_ptr<Ring> ring = must(Ring::open(64, 256));
  std::unique_ptr<BufferRing> buffers;
  ConnectionPool pool{4};
  std::unique_ptr<Dispatch> dispatch;
  std::optional<Receiver> receiver;
  std::vector<int> peers;
};

using Taken = std::vector<std::string>;

}  // namespace

TEST_CASE("receiver: a flow opens, delivers its bytes in place, and closes after the last of them", "[io]") {
  Turns turns;
  const auto peer = turns.connect();
  turns.settle();
  turns.send(peer, "hello");
  turns.settle();
  turns.send(peer, "world");
  turns.hang_up(peer);
  turns.settle();
  CHECK(turns.take() == Taken{"open", "data:hello", "data:world", "close"});
  CHECK(turns.counters().closed == 1);
  CHECK(turns.pool.taken() == 0);
  CHECK(turns.buffers->with_kernel() == 8);
}

TEST_CASE("receiver: messages carry flow, position, length and time", "[io]") {
  Turns turns;
  store(pipeline_state(turns.rig.segment()).next_flow, 41, release);
  const auto before = Turns::now();
  const auto peer = turns.connect();
  CHECK(load(pipeline_state(turns.rig.segment()).next_flow, acquire) == 42);
  turns.settle();
  turns.send(peer, std::string(block + 100, 'x'));
  turns.hang_up(peer);
  turns.settle();
  std::uint64_t position = 0;
  while (const Message* message = turns.consumer.peek()) {
    CHECK(message->flow == 41);
    CHECK(message->position == position);
    CHECK(message->offset == 0);
    CHECK(message->receive_ns >= before);
    CHECK(message->receive_ns <= Turns::now());
    position += message->length;
    must(turns.consumer.acknowledge());
  }
  CHECK(position == block + 100);
}

TEST_CASE("receiver: a completion for an earlier holder of the slot is dropped and its buffer returned",
          "[io]") {
  Turns turns;
  const auto peer = turns.connect();
  turns.settle();
  turns.send(peer, "late");
  auto late = turns.completions();
  REQUIRE(late.size() == 1);
  auto data = UserData::decode(late[0].user_data);
  REQUIRE(data.op == RingOp::receive);
  SECTION("another generation") { ++data.generation; }
  SECTION("a free slot") { data.slot = 3; }
  SECTION("a slot that does not exist") { data.slot = 0xffffff; }
  late[0].user_data = data.encode();
  turns.process(late[0]);
  CHECK(turns.counters().stale_completions == 1);
  CHECK(turns.buffers->with_kernel() == 8);
  CHECK(turns.take() == Taken{"open"});
  turns.send(peer, "still here");
  turns.settle();
  CHECK(turns.take() == Taken{"data:still here"});
}

TEST_CASE("receiver: a completion that spans several buffers is delivered in their order", "[io]") {
  Turns turns;
  turns.connect();
  turns.settle();
  CHECK(turns.take() == Taken{"open"});
  const std::uint32_t first = 2;
  turns.receiver->complete({RingOp::receive, 0, 0}, 2 * block + 10,
                           IORING_CQE_F_MORE | IORING_CQE_F_BUFFER | first << IORING_CQE_BUFFER_SHIFT,
                           Turns::now());
  CHECK(turns.buffers->empty() == 3);
  std::vector<std::pair<std::uint64_t, std::uint32_t>> parts;
  while (const Message* message = turns.consumer.peek()) {
    parts.emplace_back(message->position, message->length);
    must(turns.consumer.acknowledge());
  }
  CHECK(parts == decltype(parts){{0, block}, {block, block}, {2 * block, 10}});
}

TEST_CASE("receiver: all buffers of a stale completion are returned", "[io]") {
  Turns turns;
  turns.receiver->complete({RingOp::receive, 1, 7}, 2 * block + 10, IORING_CQE_F_BUFFER, Turns::now());
  CHECK(turns.counters().stale_completions == 1);
  CHECK(turns.counters().bad_buffers == 0);
  CHECK(turns.buffers->with_kernel() == 8);
  for (const std::uint32_t id : {0U, 1U, 2U})
    CHECK(must(turns.buffers->take(id)).generation == 2);  // handed to the kernel again
  CHECK(must(turns.buffers->take(3)).generation == 1);
}

TEST_CASE("receiver: a completion that spans more buffers than the kernel had ends the flow", "[io]") {
  Turns turns(4);
  turns.connect();
  turns.settle();
  turns.receiver->complete({RingOp::receive, 0, 0}, 5 * block, IORING_CQE_F_BUFFER, Turns::now());
  CHECK(turns.counters().bad_buffers == 1);
  const auto taken = turns.take();
  REQUIRE(!taken.empty());
  CHECK(taken.back() == "abort:" + std::to_string(EIO));
}

TEST_CASE("receiver: a buffer id that the kernel cannot have is counted and touches nothing", "[io]") {
  Turns turns;
  turns.connect();
  turns.settle();
  CHECK(turns.take() == Taken{"open"});
  const std::uint32_t id = GENERATE(8U, 65535U);
  turns.receiver->complete({RingOp::receive, 0, 1234}, 100,
                           IORING_CQE_F_BUFFER | id << IORING_CQE_BUFFER_SHIFT, Turns::now());
  CHECK(turns.counters().bad_buffers == 1);
  CHECK(turns.counters().stale_completions == 1);
  CHECK(turns.buffers->with_kernel() == 8);
}

TEST_CASE("receiver: bytes that lie in no buffer of ours end the flow with EIO", "[io]") {
  Turns turns;
  turns.connect();
  turns.settle();
  turns.receiver->complete({RingOp::receive, 0, 0}, 100, 0, Turns::now());
  CHECK(turns.take() == Taken{"open", "abort:" + std::to_string(EIO)});
}

TEST_CASE("receiver: with no buffer left a flow waits, loses nothing and goes on", "[io]") {
  Turns turns(4);
  std::vector<Reference> taken;  // the heap's last blocks, so that nothing replaces a filled one
  while (auto reference = turns.rig.heap().allocate(block)) taken.push_back(*reference);
  const auto peer = turns.connect();
  turns.settle();
  std::string sent;
  for (char letter = 'a'; letter < 'k'; ++letter) sent += std::string(block, letter);
  turns.send(peer, sent);
  turns.settle();
  CHECK(turns.buffers->with_kernel() == 0);
  CHECK(turns.counters().stalls_no_buffer >= 1);
  CHECK(turns.counters().bytes == 4 * block);
  CHECK(turns.pool.taken() == 1);

  std::string received;
  for (int round = 0; round < 20 && received.size() < sent.size(); ++round) {
    for (const auto& text : turns.take())
      if (text.starts_with("data:")) received += text.substr(5);
    turns.settle();
  }
  CHECK(received == sent);
  turns.hang_up(peer);
  turns.settle();
  CHECK(turns.take() == Taken{"close"});
}

TEST_CASE("receiver: a connection over its share is not read from until half of it was taken", "[io]") {
  Turns turns(8, 4);
  const auto greedy = turns.connect();
  turns.settle();
  const auto text = std::string(block, 'x');
  for (int i = 0; i < 3; ++i) {
    turns.send(greedy, text);
    turns.settle();
  }
  CHECK(turns.counters().stalls_share == 0);
  turns.send(greedy, text);
  turns.settle();
  CHECK(turns.counters().stalls_share == 1);
  turns.send(greedy, text);
  turns.settle();
  CHECK(turns.counters().messages == 4);  // the fifth stays in the socket

  const auto modest = turns.connect();  // others are served meanwhile
  turns.settle();
  turns.send(modest, "here");
  turns.settle();
  CHECK(turns.counters().messages == 5);

  must(turns.consumer.acknowledge());  // OPEN
  must(turns.consumer.acknowledge());  // one block: three left
  turns.settle();
  CHECK(turns.counters().messages == 5);
  must(turns.consumer.acknowledge());  // two left
  turns.settle();
  CHECK(turns.counters().messages == 6);
}

TEST_CASE("receiver: a cancel that missed its receive is repeated", "[io]") {
  Turns turns(8, 2);
  const auto peer = turns.connect();
  turns.settle();
  turns.pool.at(0).cancelling = true;  // as if the kernel had been at work on the receive just then
  for (int i = 0; i < 3; ++i) {
    turns.send(peer, "x");
    turns.settle();
  }
  CHECK(turns.counters().messages == 3);
  CHECK(turns.counters().stalls_share == 0);
  turns.receiver->cancel_failed({RingOp::cancel, 0, 0});
  turns.settle();
  CHECK(turns.counters().stalls_share == 1);
  turns.send(peer, "x");
  turns.settle();
  CHECK(turns.counters().messages == 3);
}

TEST_CASE("receiver: while its stream is full a flow is not read from, and goes on with all its bytes",
          "[io]") {
  Turns turns(8, 100, 2);
  const auto peer = turns.connect();
  std::string sent;
  for (char letter = 'a'; letter < 'm'; ++letter) {
    sent += letter;
    turns.send(peer, std::string(1, letter));
    turns.settle();
  }
  CHECK(turns.counters().stalls_stream_full == 1);
  CHECK(turns.counters().bytes < sent.size());
  CHECK(turns.dispatch->pending() <= 3);
  std::string received;
  for (int round = 0; round < 40 && received.size() < sent.size(); ++round) {
    for (const auto& text : turns.take())
      if (text.starts_with("data:")) received += text.substr(5);
    turns.settle();
  }
  CHECK(received == sent);
}

TEST_CASE("receiver: cut flows deliver what was received and then abort", "[io]") {
  Turns turns;
  const auto armed = turns.connect();
  turns.connect();
  turns.settle();
  turns.send(armed, "before");
  turns.settle();
  turns.receiver->cut(Turns::now());
  turns.settle();
  CHECK(turns.take() == Taken{"open", "open", "data:before", "abort:125", "abort:125"});
  CHECK(turns.counters().aborted_at_drain == 2);
  CHECK(turns.pool.taken() == 0);
}

}  // namespace sluice::test
