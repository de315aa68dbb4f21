// A work queue of a small segment, and two lanes at it.
#pragma once

#include "ipc/audit.hpp"
#include "ipc/work_queue.hpp"
#include "tests/support/census.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

namespace sluice::test {

inline Message work_message(std::uint64_t number, std::uint32_t length = 0) {
  Message message{};
  message.kind = MessageKind::user;
  message.position = number;
  message.length = length;
  return message;
}

struct WorkRig : Rig {
  explicit WorkRig(const WorkOptions& work_options = {.capacity = 8})
      : other(another_lane()),
        id(must(create_work_queue(*lane, "w", work_options))),
        queue(open(*lane)),
        peer(open(*other)) {}

  WorkQueue open(Lane& of) const { return must(WorkQueue::open(of, id)); }
  QueueRow& row() const { return queue_row(segment(), id.index); }

  /// Push a message with a block of its own, whose bytes tell the number.
  Status push_block(WorkQueue& by, Lane& of, std::uint64_t number, std::uint32_t length = 100) {
    const auto block = must(of.heap().allocate(length));
    fill_pattern(of.heap().bytes(block).first(length), number);
    const auto status = by.push(work_message(number, length), block);
    if (status != Status::ok) must(of.heap().release(block));
    return status;
  }
  std::uint64_t number_of(const WorkQueue& by, const WorkLease& lease) const {
    const auto* message = by.message(lease);
    REQUIRE(message != nullptr);
    return message->position;
  }
  /// Take the next message and say which it is.
  std::pair<WorkLease, std::uint64_t> take(WorkQueue& by) const {
    const auto lease = must(by.take());
    return {lease, number_of(by, lease)};
  }
  void check_quiet() const {
    for (const auto& violation : audit(segment()).violations) FAIL_CHECK("audit: " << violation.what);
  }
  /// And nothing is leased.
  void check_sound() {
    lane->heap().flush();
    other->heap().flush();
    check_quiet();
    for (const auto& line : take_census(segment()).contradictions()) FAIL_CHECK("census: " << line);
  }

  std::unique_ptr<Lane> other;
  QueueId id;
  WorkQueue queue;  // of `lane`
  WorkQueue peer;   // of `other`
};

}  // namespace sluice::test
