// What is driven: one operation, what surrounds it, and what the model must say. The tables are in
// *_operations.cpp; a new operation is an entry there.
#pragma once

#include "ipc/broadcast.hpp"
#include "ipc/extent_store.hpp"
#include "ipc/stream.hpp"
#include "tests/support/model.hpp"
#include "tests/support/survivor.hpp"
#include "tests/verify/support/stepper.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::verify {

using test::Complaints;
using test::must;
using test::must_hold;

/// The process that dies: in `set_up` it gets ready, in `act` it is stepped. Only what an operation needs is set.
struct Actor {
  explicit Actor(std::string segment_path) : path(std::move(segment_path)) {}

  /// Open, join, claim a lane.
  void join();
  /// A second lane of this process, for what one lane does to another's blocks.
  Lane& second_lane();
  void produce();                // take the producer's end of the stream
  void consume(Lane& of);        // take the consumer's
  void push(std::size_t bytes);  // the next numbered message
  void hold(std::size_t bytes, int count = 1);
  Heap& heap() const { return lane->heap(); }
  QueueId stream() const;

  std::string path;
  Segment segment;        // for operations that begin before joining
  Membership membership;  // the same
  std::unique_ptr<Session> session;
  std::unique_ptr<Lane> lane, second;  // destroyed before the session
  StreamProducer producer;             // destroyed before the lanes
  StreamConsumer consumer;
  Publisher publisher;
  Subscriber subscriber;
  ExtentWriter writer;
  std::unique_ptr<ExtentStore> store;
  std::shared_ptr<void> ends;  // of other queues, as the operation has them
  std::vector<Reference> held;
  Message message{};
};

/// A segment after everybody in it, or everybody but the survivor, was recovered.
struct Recovered {
  Session& session;
  Lane& lane;
  Complaints& complaints;

  void expect(bool holds, std::string_view what) const {
    if (!holds) complaints.emplace_back(what);
  }
};

struct Operation {
  std::string_view name;
  std::function<void(Actor&)> set_up = [](Actor&) {};
  std::function<void(Actor&)> act;
  std::function<void(test::Survivor&)> prepare = [](test::Survivor&) {};  // before the actor exists
  // What `act` adds to the stream, message by message, and takes from it, at one instruction.
  std::uint64_t pushes = 0, pops = 0;
  // For what no stream shows: how often it has happened, as the segment tells, and how often `act` does it: not at
  // all, or once, at one instruction. Throws for what can be neither before nor after.
  std::function<std::uint64_t(const Segment&)> happened = [](const Segment&) { return std::uint64_t{0}; };
  std::uint64_t happens = 0;
  // Beyond the model: what must hold after recovery, whether the operation happened or not.
  std::function<void(const Recovered&)> check = [](const Recovered&) {};
  std::uint64_t units = 10;
  std::vector<std::size_t> kept_bytes = {1000, 20000, 70000};
  bool writes_blocks = false;  // it stores into blocks' bytes, so all of the payload is watched
};

std::vector<Operation> heap_operations();
std::vector<Operation> stream_operations();
std::vector<Operation> broadcast_operations();
std::vector<Operation> durable_operations();
std::vector<Operation> shared_operations();
std::vector<Operation> work_operations();
std::vector<Operation> forward_operations();
std::vector<Operation> extent_operations();
std::vector<Operation> store_operations();
std::vector<Operation> process_operations();
std::vector<Operation> recovery_operations();  // beyond those of every death in the others

/// All that happens between processes that may die: each is driven, and so is the recovery of each of its deaths.
std::vector<Operation> plain_operations();

/// What a recoverer does: open the segment, join; then recover.
void get_ready_to_recover(Actor& self);
void recover_the_dead(Actor& self);

/// For recovery_operations(): a process does `operation` in the survivor's segment and stands still at the first
/// state for which `here` holds (throws if there is none). It is killed when what is returned is destroyed.
std::unique_ptr<Stepper> stop_during(test::Survivor& survivor, const Operation& operation,
                                     const std::function<bool(const Segment&)>& here);

}  // namespace sluice::verify
