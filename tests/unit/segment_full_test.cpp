// File systems without room: a refusal at allocation, never a SIGBUS, and no harm done.
#include "ipc/audit.hpp"
#include "ipc/queues.hpp"
#include "tests/support/census.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

namespace sluice::test {

namespace {

/// Run `body` in a child with a tmpfs of `bytes` bytes mounted over `directory`, seen by nobody else.
Exit run_on_small_tmpfs(const std::string& directory, std::uint64_t bytes,
                        const std::function<void()>& body) {
  return run_child(
      [&] {
        const auto options = "size=" + std::to_string(bytes);
        if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("none", directory.c_str(), "tmpfs", 0, options.c_str()) != 0) {
          std::fprintf(stderr, "skipped: no mount namespace here: %s\n", std::strerror(errno));
          ::_exit(exit_skipped);
        }
        body();
      },
      std::chrono::seconds(60));
}

void check_ended_well(const Exit& ended) {
  if (ended.code == exit_skipped) {
    WARN("skipped: mounting a tmpfs of its own is not permitted here");
    return;
  }
  CHECK(ended.signal == 0);  // SIGBUS is what must not be
  CHECK(ended.code == 0);
}

SegmentOptions larger_than_the_disk() {
  auto options = small_options(1024);  // 64 MiB
  options.cells_per_lane = 1 << 18;
  return options;
}

// Take blocks and write every byte of each until there is no room.
std::vector<Reference> fill_up(Lane& lane, std::size_t bytes) {
  std::vector<Reference> taken;
  for (;;) {
    const auto reference = lane.heap().allocate(bytes);
    if (!reference) {
      must_hold(reference.error() == Status::exhausted, "refused as exhausted");
      return taken;
    }
    fill_pattern(lane.heap().bytes(*reference), taken.size());
    taken.push_back(*reference);
  }
}

void release_all(Lane& lane, const std::vector<Reference>& taken) {
  for (std::size_t i = 0; i < taken.size(); ++i) {
    must_hold(has_pattern(lane.heap().bytes(taken[i]), i), "bytes are as written");
    must(lane.heap().release(taken[i]));
  }
}

}  // namespace

TEST_CASE("full disk: allocation is refused, nothing faults, and freed room serves again", "[shm]") {
  const auto bytes = GENERATE(std::size_t{64}, std::size_t{1000}, std::size_t{4096}, 3 * unit_bytes);
  CAPTURE(bytes);
  const TempDirectory directory;
  check_ended_well(run_on_small_tmpfs(directory.path(), 12 << 20, [&] {
    const auto path = directory.file("segment");
    must(Segment::create(path, larger_than_the_disk()));
    auto session = must(Session::open(path, "test"));
    const auto lane = must(session.claim_lane({.cells = 1 << 18}));
    const auto taken = fill_up(*lane, bytes);
    must_hold(taken.size() * bytes > 1 << 20, "a good part of the disk was usable");
    must_hold(audit(session.segment()).violations.empty(), "sound when full");
    release_all(*lane, taken);
    const auto again = fill_up(*lane, bytes);
    must_hold(again.size() >= taken.size(), "what was freed can be taken again");
    release_all(*lane, again);
    must_hold(audit(session.segment()).violations.empty(), "sound when empty");
    must_hold(take_census(session.segment()).live.empty(), "nothing is left");
  }));
}

TEST_CASE("full disk: queues, lanes and processes are refused as well, and leave nothing behind", "[ipc]") {
  const TempDirectory directory;
  check_ended_well(run_on_small_tmpfs(directory.path(), 4 << 20, [&] {
    const auto path = directory.file("segment");
    must(Segment::create(path, larger_than_the_disk()));
    auto session = must(Session::open(path, "test"));
    const auto lane = must(session.claim_lane({.cells = 4096}));
    const auto taken = fill_up(*lane, unit_bytes);
    const auto stream = create_stream(*lane, "large", 65536);
    must_hold(!stream && stream.error().status == Status::exhausted, "the queue is refused");
    must_hold(!find_queue(session.segment(), "large"), "the name is free");
    for (int i = 0; i < 3; ++i) {
      const auto more = session.claim_lane({.cells = 65536});
      must_hold(more || more.error().status == Status::exhausted, "a lane or a refusal");
    }
    must_hold(audit(session.segment()).violations.empty(), "sound when full");
    release_all(*lane, taken);
    must(create_stream(*lane, "small", 64));
  }));
}

TEST_CASE("full disk: a copy with holes is not opened while there is no room for the pages that belong there",
          "[shm]") {
  const TempDirectory directory;
  check_ended_well(run_on_small_tmpfs(directory.path(), 8 << 20, [&] {
    const auto path = directory.file("segment");
    auto options = small_options(32);
    options.payload_bytes_initial = 1 << 20;
    must(Segment::create(path, options));
    copy_sparse(path, directory.file("copy"));
    {
      std::ofstream rest(directory.file("rest"), std::ios::binary);
      const std::vector<char> page(4096, 1);
      while (rest.write(page.data(), 4096).flush()) continue;
    }
    const auto refused = Session::open(directory.file("copy"), "test");
    must_hold(!refused && refused.error().status == Status::exhausted, "refused as exhausted");
    std::filesystem::remove(directory.file("rest"));
    auto session = must(Session::open(directory.file("copy"), "test"));
    const auto lane = must(session.claim_lane({.cells = 4096}));
    release_all(*lane, fill_up(*lane, 1000));
  }));
}

TEST_CASE("full disk: a segment whose tables do not fit is not made", "[shm]") {
  const TempDirectory directory;
  check_ended_well(run_on_small_tmpfs(directory.path(), 64 << 10, [&] {
    const auto created = Segment::create(directory.file("segment"), {});
    must_hold(!created && created.error().status == Status::exhausted, "creation is refused");
    must_hold(!std::filesystem::exists(directory.file("segment")), "there is no file");
    for (const auto& entry : directory.entries()) must_hold(entry.ends_with(".lock"), "nothing lies about");
  }));
}

}  // namespace sluice::test
