// The writer's role of an extent map, between processes that live, leave, die and are recovered.
#include "tests/support/child.hpp"
#include "tests/support/crash.hpp"
#include "tests/unit/extents_rig.hpp"

#include <csignal>

namespace sluice::test {

namespace {

/// A child that writes the map, and lives until it is told to go or is killed.
struct OtherWriter {
  explicit OtherWriter(const std::string& path, bool in_a_take = false)
      : child([&](ChildLink& link) {
          auto session = must(Session::open(path, "writer"));
          auto writer = claim_writer(session);
          const auto lane = must(session.claim_lane());
          const Meanwhile moving("extents.take.stored", [&] {
            link.ready();
            link.wait_go();
          });
          if (in_a_take) {
            must(writer.put(*lane, 0, patterned(*lane, extent_page_bytes, 1)));
            must(writer.take(*lane, 0));
          }
          link.ready();
          link.wait_go();
        }) {
    must_hold(child.wait_ready(), "the other process has the role");
  }
  Child child;
};

}  // namespace

TEST_CASE("extents: one process writes at a time, and gives the role back", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  CHECK(rig.try_claim().error() == Status::busy);
  const auto refused = run_child([&] {
    const auto session = must(Session::open(rig.file.path(), "second"));
    const auto second = ExtentWriter::claim(session.segment(), session.membership(), rig.map);
    must_hold(!second && second.error() == Status::busy, "refused");
  });
  CHECK(refused.code == 0);

  auto moved = std::move(writer);
  CHECK_FALSE(writer);  // NOLINT(bugprone-use-after-move): that is what it looks like afterwards
  writer = {};
  CHECK(rig.try_claim().error() == Status::busy);  // the moved one has it
  moved = ExtentWriter{};
  CHECK(rig.row().writer == 0);
  { const auto again = must(rig.try_claim()); }
  CHECK(rig.row().writer == 0);
}

TEST_CASE("extents: a dead writer's role is free once its process was recovered, not before", "[ipc]") {
  MapRig rig;
  OtherWriter other(rig.file.path());
  CHECK(rig.try_claim().error() == Status::busy);
  other.child.kill_and_wait();
  CHECK(rig.try_claim().error() == Status::busy);
  CHECK(rig.session.recover_dead().processes == 1);
  const auto writer = must(rig.try_claim());
  CHECK(process_claim::Row::get(rig.row().writer) == rig.session.membership().row());
}

TEST_CASE("extents: a role whose process is being recovered is not free yet", "[ipc]") {
  const auto point = GENERATE("recover.process.claimed", "recover.lane.moves", "recover.lane.released");
  CAPTURE(point);
  MapRig rig;
  OtherWriter other(rig.file.path(), true);
  other.child.kill_and_wait();
  const auto recoverer = run_child([&] {
    kill_self_at(point);
    must(Session::open(rig.file.path(), "recoverer"));
  });
  REQUIRE(recoverer.signal == SIGKILL);
  CHECK(rig.try_claim().error() == Status::busy);
  CHECK(rig.session.recover_dead().processes == 2);
  CHECK(rig.try_claim());
}

TEST_CASE("extents: a dead writer's role does not pass to who joins in its row", "[ipc]") {
  MapRig rig;
  std::uint64_t row = 0;
  {
    OtherWriter other(rig.file.path());
    row = process_claim::Row::get(rig.row().writer);
    other.child.kill_and_wait();
  }
  rig.session.recover_dead();
  const SharedWithChildren<std::atomic<std::uint64_t>> found;
  Child next([&](ChildLink& link) {
    const auto session = must(Session::open(rig.file.path(), "in its row"));
    found->store(session.membership().row());
    link.ready();
    link.wait_go();
  });
  REQUIRE(next.wait_ready());
  REQUIRE(found->load() == row);
  CHECK(rig.try_claim());
}

TEST_CASE("extents: who leaves in order leaves the role free", "[ipc]") {
  MapRig rig;
  OtherWriter other(rig.file.path());
  CHECK(rig.row().writer != 0);
  other.child.go();
  CHECK(other.child.wait().code == 0);
  CHECK(rig.row().writer == 0);
  CHECK(rig.try_claim());
}

TEST_CASE("extents: a child made by fork does not give its parent's role away", "[ipc]") {
  MapRig rig;
  auto writer = must(rig.try_claim());
  const auto role = rig.row().writer;
  const auto ended = run_child([&] { const auto copy = std::move(writer); });
  CHECK(ended.code == 0);
  CHECK(ended.signal == 0);
  CHECK(rig.row().writer == role);
  CHECK(rig.try_claim().error() == Status::busy);
  must(writer.put(*rig.lane, 0, patterned(*rig.lane, extent_page_bytes, 1)));
}

}  // namespace sluice::test
