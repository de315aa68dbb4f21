// A device that writes after its process has died: simulated by an io_uring whose registered buffer pins the pages
// of the block, as a request in flight does, and that reads into it late.
#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <liburing.h>
#include <unistd.h>

namespace sluice::test {

namespace {

constexpr std::size_t block_bytes = 8192;

/// Pins a span of memory at once, and writes into it when it is told.
class LateDevice {
 public:
  explicit LateDevice(std::span<std::byte> target) : target_(target) {
    must_hold(::io_uring_queue_init(4, &ring_, 0) == 0, "there is an io_uring");
    const iovec buffer{target.data(), target.size()};
    must_hold(::io_uring_register_buffers(&ring_, &buffer, 1) == 0, "the pages can be pinned");
    must_hold(::pipe(pipe_) == 0, "there is a pipe");
  }
  ~LateDevice() {
    ::io_uring_queue_exit(&ring_);
    for (const int end : pipe_) ::close(end);
  }
  LateDevice(const LateDevice&) = delete;
  LateDevice& operator=(const LateDevice&) = delete;

  void write_now() {
    const std::vector<char> late(target_.size(), '!');
    must_hold(::write(pipe_[1], late.data(), late.size()) == static_cast<ssize_t>(late.size()),
              "the pipe takes it");
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_read_fixed(entry, pipe_[0], target_.data(), static_cast<unsigned>(target_.size()), 0, 0);
    ::io_uring_submit(&ring_);
    io_uring_cqe* done = nullptr;
    must_hold(::io_uring_wait_cqe(&ring_, &done) == 0, "the device is done");
    must_hold(done->res == static_cast<int>(target_.size()), "the device wrote it all");
    ::io_uring_cqe_seen(&ring_, done);
  }

 private:
  std::span<std::byte> target_;
  io_uring ring_{};
  int pipe_[2] = {-1, -1};
};

// A child allocates a block, lends it to the device if `marked`, and dies. Returns the block's bytes, here.
Handle let_holder_die(const Rig& rig, std::size_t bytes, bool marked, std::unique_ptr<LateDevice>* device) {
  SharedWithChildren<Handle> handle;
  Child child([&](ChildLink& link) {
    auto session = must(Session::open(rig.file.path(), "holder"));
    const auto lane = must(session.claim_lane());
    const auto block = must(lane->heap().allocate(bytes));
    if (marked) must(lane->heap().begin_io(block));
    *handle = block.handle;
    link.ready();
    link.wait_go();
  });
  REQUIRE(child.wait_ready());
  const auto view = must(find_block(rig.segment(), *handle));
  if (device != nullptr) *device = std::make_unique<LateDevice>(view.span());
  child.kill_and_wait();
  return *handle;
}

// Everything that can be had in blocks of this size, each with its pattern.
std::vector<Reference> take_everything(Rig& rig, std::size_t bytes) {
  std::vector<Reference> all;
  while (const auto reference = rig.heap().allocate(bytes)) {
    fill_pattern(rig.heap().bytes(*reference), all.size());
    all.push_back(*reference);
  }
  return all;
}

std::size_t damaged(Rig& rig, const std::vector<Reference>& all) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (!has_pattern(rig.heap().bytes(all[i]), i)) ++count;
  return count;
}

}  // namespace

TEST_CASE("io: a late write of a dead process's device lands nowhere", "[shm][io]") {
  Rig rig(small_options(4), Place::shared_memory, {.cells = 4096});
  std::unique_ptr<LateDevice> device;
  const auto handle = let_holder_die(rig, block_bytes, true, &device);
  CHECK(rig.session.recover_dead().references == 1);
  const auto all = take_everything(rig, block_bytes);
  CHECK(all.size() == 4 * unit_bytes / block_bytes);  // none is lost
  const auto same_place = std::count_if(all.begin(), all.end(), [&](Reference reference) {
    return rig.segment().split().unit(reference.handle) == rig.segment().split().unit(handle) &&
           rig.segment().split().slot(reference.handle) == rig.segment().split().slot(handle);
  });
  CHECK(same_place == 1);
  device->write_now();
  CHECK(damaged(rig, all) == 0);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("io: without the mark the same late write does damage, so that it is seen here", "[shm][io]") {
  Rig rig(small_options(4), Place::shared_memory, {.cells = 4096});
  std::unique_ptr<LateDevice> device;
  let_holder_die(rig, block_bytes, false, &device);
  CHECK(rig.session.recover_dead().references == 1);
  const auto all = take_everything(rig, block_bytes);
  device->write_now();
  CHECK(damaged(rig, all) == 1);
}

TEST_CASE("io: a block that shares its page is set aside, and comes back when no device can know it",
          "[shm][io]") {
  Rig rig(small_options(4), Place::shared_memory, {.cells = 8192});
  const auto handle = let_holder_die(rig, 64, true, nullptr);
  CHECK(rig.session.recover_dead().references == 1);
  CHECK(audit(rig.segment()).counts.blocks_quarantined == 1);
  CHECK(audit(rig.segment()).violations.empty());
  for (const auto& reference : take_everything(rig, 64))
    CHECK(std::pair(rig.segment().split().unit(reference.handle),
                    rig.segment().split().slot(reference.handle)) !=
          std::pair(rig.segment().split().unit(handle), rig.segment().split().slot(handle)));

  const auto copy = rig.file.directory().file("copy");
  copy_sparse(rig.file.path(), copy);
  const auto session = must(Session::open(copy, "elsewhere"));
  CHECK(audit(session.segment()).counts.blocks_quarantined == 0);
  CHECK(audit(session.segment()).violations.empty());
}

TEST_CASE("io: pages are replaced on a disk's file system too", "[shm][io]") {
  Rig rig(small_options(4), Place::disk, {.cells = 4096});
  let_holder_die(rig, block_bytes, true, nullptr);
  CHECK(rig.session.recover_dead().references == 1);
  CHECK(take_everything(rig, block_bytes).size() == 4 * unit_bytes / block_bytes);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("io: while a device has a block its sole holder cannot give it up, own it or move it",
          "[shm][io]") {
  Rig rig;
  auto& heap = rig.heap();
  for (const std::size_t bytes : {std::size_t{5000}, 2 * unit_bytes}) {
    const auto block = must(heap.allocate(bytes));
    must(heap.begin_io(block));
    CHECK(heap.release(block) == Status::busy);
    CHECK(heap.own(block).error() == Status::busy);
    CHECK(heap.resize(block, 60000).error() == Status::busy);
    CHECK(audit(rig.segment()).violations.empty());
    must(heap.end_io(block));
    CHECK(heap.own(block).has_value());
    must(heap.release(block));
    CHECK(heap.begin_io(block) == Status::stale);
    CHECK(heap.end_io(block) == Status::stale);
  }
}

TEST_CASE("io: the operation belongs to the reference that began it", "[shm][io]") {
  Rig rig;
  auto other = rig.another_lane();
  const auto mine = must(rig.heap().allocate(block_bytes));
  must(rig.heap().make_findable(mine));
  const auto theirs = must(other->heap().look_up(mine.handle));
  CHECK(rig.heap().end_io(mine) == Status::bad_argument);
  must(rig.heap().begin_io(mine));
  CHECK(rig.heap().begin_io(mine) == Status::busy);
  CHECK(other->heap().begin_io(theirs) == Status::busy);
  CHECK(other->heap().end_io(theirs) == Status::bad_argument);
  CHECK(rig.heap().release(mine) == Status::busy);

  const auto queue = must(create_stream(*rig.lane, "lent", 4));
  auto producer = must(StreamProducer::claim(*rig.lane, queue));
  CHECK(producer.push(Message{}, mine) == Status::busy);
  must(other->heap().release(theirs));  // the other holder may go
  must(rig.heap().end_io(mine));
  must(producer.push(Message{}, mine));
  CHECK(rig.heap().bytes(mine).empty());  // it is the queue's now
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("io: what a device was given by a dead holder stays marked for the others", "[shm][io]") {
  Rig rig;
  auto dead = rig.another_lane();
  const auto mine = must(rig.heap().allocate(block_bytes));
  must(rig.heap().make_findable(mine));
  must(dead->heap().begin_io(must(dead->heap().look_up(mine.handle))));
  dead.reset();
  CHECK(rig.heap().end_io(mine) == Status::bad_argument);
  CHECK(rig.heap().begin_io(mine) == Status::busy);
  CHECK(rig.heap().own(mine).error() == Status::busy);
  fill_pattern(rig.heap().bytes(mine), 1);
  must(rig.heap().release(mine));
  CHECK(audit(rig.segment()).violations.empty());
  // Its pages were replaced before it was free: they hold nothing any more.
  while (const auto next = rig.heap().allocate(block_bytes))
    CHECK_FALSE(has_pattern(rig.heap().bytes(*next), 1));
}

}  // namespace sluice::test
