#include "tests/verify/fuzz/targets/victims.hpp"

#include "ipc/stream.hpp"
#include "runtime/session.hpp"
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/support/must.hpp"
#include "tests/verify/fuzz/targets/arena.hpp"

#include <csignal>

namespace sluice::fuzz {

namespace {

using test::ChildLink;
using test::must;

constexpr std::size_t run_bytes = 2 * unit_bytes;

// Makes the streams, fills one, holds blocks of two classes; dies with a message published and its cell full.
void push_and_die(const std::string& path, ChildLink& link) {
  auto session = must(Session::open(path, "pusher"));
  const auto lane = must(session.claim_lane({.cells = 64, .name = "pusher"}));
  const auto queue = must(create_stream(*lane, stream_name, 8));
  must(create_stream(*lane, spare_stream_name, 4));
  auto producer = must(StreamProducer::claim(*lane, queue));
  for (const auto bytes : {64U, 64U, 4096U, 64U}) {
    auto message = message_of(MessageKind::data);
    message.length = bytes;
    must(producer.push(message, must(lane->heap().allocate(bytes))));
  }
  must(producer.push(message_of(MessageKind::open)));
  must(lane->heap().allocate(64));
  must(lane->heap().allocate(4000));
  const auto last = must(lane->heap().allocate(64));
  link.ready();
  link.wait_go();
  test::kill_self_at("stream.push.published");
  must(producer.push(message_of(MessageKind::data), last));
}

// Holds a block that it took, has freed another one without telling its owner; dies with a filled cell.
void pop_and_die(const std::string& path, ChildLink& link) {
  auto session = must(Session::open(path, "popper"));
  const auto lane = must(session.claim_lane({.cells = 64, .name = "popper"}));
  auto consumer = must(StreamConsumer::claim(*lane, must(find_queue(session.segment(), stream_name))));
  must(consumer.pop());
  must(lane->heap().release(must(consumer.pop())));
  consumer.peek();
  link.ready();
  link.wait_go();
  test::kill_self_at("stream.pop.filled");
  must(consumer.pop());
}

void take_run_and_die(const std::string& path, ChildLink& link) {
  auto session = must(Session::open(path, "taker"));
  const auto lane = must(session.claim_lane({.cells = 64, .name = "taker"}));
  link.ready();
  link.wait_go();
  test::kill_self_at("run.take.interior");
  must(lane->heap().allocate(run_bytes));
}

void free_run_and_die(const std::string& path, ChildLink& link) {
  auto session = must(Session::open(path, "freer"));
  const auto lane = must(session.claim_lane({.cells = 64, .name = "freer"}));
  const auto run = must(lane->heap().allocate(run_bytes));
  link.ready();
  link.wait_go();
  test::kill_self_at("run.free.freeing");
  must(lane->heap().release(run));
}

// Shares a findable block with itself; dies with one reference more in the count than in its cells.
void clone_and_die(const std::string& path, ChildLink& link) {
  auto session = must(Session::open(path, "cloner"));
  const auto lane = must(session.claim_lane({.cells = 64, .name = "cloner"}));
  const auto block = must(lane->heap().allocate(64));
  must(lane->heap().make_findable(block));
  must(lane->heap().clone(block));
  link.ready();
  link.wait_go();
  test::kill_self_at("block.clone.counted");
  must(lane->heap().clone(block));
}

}  // namespace

void leave_victims(const std::string& path) {
  // All join before the first dies: who joins recovers the dead.
  test::Child pusher([&](ChildLink& link) { push_and_die(path, link); });
  test::must_hold(pusher.wait_ready(), "the pusher is ready");
  test::Child popper([&](ChildLink& link) { pop_and_die(path, link); });
  test::must_hold(popper.wait_ready(), "the popper is ready");
  test::Child freer([&](ChildLink& link) { free_run_and_die(path, link); });
  test::must_hold(freer.wait_ready(), "the freer is ready");
  test::Child taker([&](ChildLink& link) { take_run_and_die(path, link); });
  test::must_hold(taker.wait_ready(), "the taker is ready");
  test::Child cloner([&](ChildLink& link) { clone_and_die(path, link); });
  test::must_hold(cloner.wait_ready(), "the cloner is ready");
  for (auto* victim : {&pusher, &popper, &freer, &taker, &cloner}) {
    victim->go();
    test::must_hold(victim->wait().signal == SIGKILL, "a victim died where it should");
  }
}

}  // namespace sluice::fuzz
