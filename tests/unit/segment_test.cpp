#include "shm/segment.hpp"

#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <csignal>
#include <filesystem>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::test {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

std::uint64_t allocated_bytes(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) throw std::runtime_error("stat " + path);
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

bool same_parameters(const SegmentHeader& a, const SegmentHeader& b) {
  return header_crc(a) == header_crc(b) && a.crc32c == b.crc32c;
}

}  // namespace

TEST_CASE("segment: what was created is what is opened, on tmpfs and on disk", "[shm]") {
  const auto place = GENERATE(Place::shared_memory, Place::disk);
  const TempDirectory directory(place);
  const auto path = directory.file("segment");
  auto options = small_options(40);
  options.payload_bytes_max -= 5000;  // rounded up
  options.payload_bytes_initial = 3 * unit_bytes;
  const auto created = must(Segment::create(path, options));
  const auto opened = must(Segment::open(path));
  const auto attached = must(Segment::attach_read_only(path));
  for (const auto* segment : {&created, &opened, &attached}) {
    CHECK(segment->is_open());
    CHECK(segment->path() == path);
    CHECK_FALSE(segment->is_copy());
    CHECK(same_parameters(segment->header(), created.header()));
    CHECK(segment->header().units_max == 40);
    CHECK(segment->header().lane_count == options.lanes);
    CHECK(segment->header().process_count == options.processes);
    CHECK(segment->header().queue_count == options.queues);
    CHECK(segment->header().cells_per_lane == options.cells_per_lane);
    CHECK(segment->units_committed() >= 3);
    CHECK(segment->block_bytes_max() == 40 * unit_bytes);
  }
  CHECK_FALSE(opened.read_only());
  CHECK(attached.read_only());
  CHECK(attached.sidecar_fd() == -1);
}

TEST_CASE("segment: mappings at different addresses show the same bytes", "[shm]") {
  const TempSegment file;
  const auto first = must(Segment::open(file.path()));
  const auto second = must(Segment::open(file.path()));
  REQUIRE(first.base() != second.base());
  must(first.grow(1));
  must(first.commit_payload(0, 1));
  first.unit_address(0)[123] = std::byte{42};
  CHECK(second.unit_address(0)[123] == std::byte{42});
  CHECK(second.units_committed() == first.units_committed());
}

TEST_CASE("segment: regions lie in order, on pages, without overlap, inside the file", "[shm]") {
  const auto units =
      GENERATE(std::uint64_t{1}, std::uint64_t{17}, std::uint64_t{1000}, std::uint64_t{100'000});
  const TempDirectory directory;
  const auto path = directory.file("segment");
  auto options = small_options(units);
  const auto segment = must(Segment::create(path, options));
  std::uint64_t end = page_bytes;
  for (std::uint32_t kind = 1; kind <= region_kinds; ++kind) {
    const auto& region = segment.geometry().region(static_cast<RegionKind>(kind));
    CAPTURE(kind, region.offset, region.stride, region.count);
    CHECK(region.kind == kind);
    CHECK(region.offset >= end);
    CHECK(region.offset % page_bytes == 0);
    end = region.offset + region.stride * region.count;
  }
  CHECK(segment.geometry().payload_offset() % unit_bytes == 0);
  CHECK(end <= segment.geometry().mapped_bytes);
  CHECK(std::filesystem::file_size(path) <= segment.geometry().mapped_bytes);
}

TEST_CASE("segment: creation refuses a name that is taken, and leaves what has it alone", "[shm]") {
  const TempDirectory directory;
  const auto path = directory.file("taken");
  SECTION("by a file") { write_file(path, std::as_bytes(std::span("precious", 8))); }
  SECTION("by a directory") { std::filesystem::create_directory(path); }
  SECTION("by a dangling link") { std::filesystem::create_symlink("nowhere", path); }
  SECTION("by a segment") { must(Segment::create(path, small_options())); }
  const auto status = std::filesystem::symlink_status(path).type();
  const auto created = Segment::create(path, small_options());
  REQUIRE_FALSE(created);
  CHECK(created.error().status == Status::exists);
  CHECK(created.error().message.find(path) != std::string::npos);
  CHECK(std::filesystem::symlink_status(path).type() == status);
  if (status == std::filesystem::file_type::regular && std::filesystem::file_size(path) == 8)
    CHECK(read_file(path)[0] == std::byte{'p'});
}

TEST_CASE("segment: creation names the option that is out of range, and makes no file", "[shm]") {
  const TempDirectory directory;
  auto options = small_options();
  std::string named;
  SECTION("no payload") { options.payload_bytes_max = 0, named = "maximum size"; }
  SECTION("more payload than a handle can name") {
    options.payload_bytes_max = ~std::uint64_t{0}, named = "maximum size";
  }
  SECTION("more at first than at most") {
    options.payload_bytes_initial = options.payload_bytes_max + 1, named = "initial size";
  }
  SECTION("one lane") { options.lanes = 1, named = "lanes"; }
  SECTION("too many lanes") { options.lanes = 4096, named = "lanes"; }
  SECTION("no process") { options.processes = 0, named = "processes"; }
  SECTION("too many processes") { options.processes = 2048, named = "processes"; }
  SECTION("no queue") { options.queues = 0, named = "queues"; }
  SECTION("too many queues") { options.queues = 4097, named = "queues"; }
  SECTION("too few cells") { options.cells_per_lane = 63, named = "cells"; }
  SECTION("too many cells") { options.cells_per_lane = (1U << 20) + 1, named = "cells"; }
  const auto created = Segment::create(directory.file("segment"), options);
  REQUIRE_FALSE(created);
  CHECK(created.error().status == Status::bad_argument);
  CAPTURE(created.error().message);
  CHECK(created.error().message.find(named) != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(directory.file("segment")));
}

TEST_CASE("segment: creation in a directory that is not there says so", "[shm]") {
  const TempDirectory directory;
  const auto created = Segment::create(directory.file("missing/segment"), small_options());
  REQUIRE_FALSE(created);
  CHECK(created.error().status == Status::not_found);
}

TEST_CASE("segment: growth is seen by every mapping and ends at the maximum", "[shm]") {
  const TempSegment file(small_options(100));
  const auto grower = must(Segment::open(file.path()));
  const auto other = must(Segment::attach_read_only(file.path()));
  auto units = grower.units_committed();
  while (grower.grow(1) == Status::ok) {
    REQUIRE(grower.units_committed() > units);
    units = grower.units_committed();
    CHECK(other.units_committed() == units);
  }
  CHECK(units == 100);
  CHECK(grower.grow(1) == Status::exhausted);
  CHECK(grower.units_committed() == 100);
}

TEST_CASE("segment: growth by more than is left is refused and changes nothing", "[shm]") {
  const TempSegment file(small_options(100));
  const auto segment = must(Segment::open(file.path()));
  const auto units = segment.units_committed();
  CHECK(segment.grow(101) == Status::exhausted);
  CHECK(segment.units_committed() == units);
}

TEST_CASE("segment: committing payload, bands and ledgers can be repeated and makes them writable", "[shm]") {
  const TempSegment file(small_options(16));
  const auto segment = must(Segment::open(file.path()));
  must(segment.grow(16));
  for (int i = 0; i < 2; ++i) {
    must(segment.commit_payload(15, 1));
    must(segment.commit_bands(15, band_count));
    must(segment.commit_lane(15, segment.header().cells_per_lane));
  }
  segment.unit_address(15)[unit_bytes - 1] = std::byte{1};
  segment.truth_word(15, slots_per_unit_max - 1).tag = 1;
  segment.ledger(15)[segment.header().cells_per_lane - 1].aux = 1;
  CHECK(must(Segment::attach_read_only(file.path())).truth_word(15, slots_per_unit_max - 1).tag == 1);
}

TEST_CASE("segment: a terabyte is reserved over a small file", "[shm]") {
  if (sanitized) {
    WARN("skipped: the sanitizers' shadow memory leaves no room for it");
    return;
  }
  const auto place = GENERATE(Place::shared_memory, Place::disk);
  const TempDirectory directory(place);
  const auto path = directory.file("segment");
  SegmentOptions options;
  options.payload_bytes_max = std::uint64_t{1} << 40;
  const auto created = must(Segment::create(path, options));
  CHECK(created.block_bytes_max() == std::uint64_t{1} << 40);
  CHECK(allocated_bytes(path) < 64 << 20);
  must(created.grow(1));
  CHECK(must(Segment::open(path)).units_committed() == created.units_committed());
}

TEST_CASE("segment: attaching read-only changes no byte and cannot write", "[shm]") {
  const TempSegment file;
  const auto before = read_file(file.path());
  const auto entries = file.directory().entries();
  {
    const auto attached = must(Segment::attach_read_only(file.path()));
    CHECK(attached.units_committed() <= 16);
  }
  CHECK(read_file(file.path()) == before);
  CHECK(file.directory().entries() == entries);
  const auto ended = run_child([&] {
    const auto attached = must(Segment::attach_read_only(file.path()));
    attached.control().gate = 1;
  });
  CHECK(ended.signal == SIGSEGV);
}

TEST_CASE("segment: growth through a read-only mapping is refused", "[shm]") {
  const TempSegment file;
  const auto ended = run_child([&] {
    const auto attached = must(Segment::attach_read_only(file.path()));
    must_hold(attached.grow(1) != Status::ok, "growth is refused");
  });
  CHECK(ended.code == 0);
}

TEST_CASE("segment: attaching read-only needs no lock file", "[shm]") {
  const TempSegment file;
  std::filesystem::remove(file.path() + ".lock");
  CHECK(Segment::attach_read_only(file.path()).has_value());
}

TEST_CASE("segment: removal takes the file and its lock file, once", "[shm]") {
  const TempSegment file;
  const auto open = must(Segment::open(file.path()));
  must(Segment::remove(file.path()));
  CHECK(file.directory().entries().empty());
  const auto again = Segment::remove(file.path());
  REQUIRE_FALSE(again);
  CHECK(again.error().status == Status::not_found);
  CHECK(open.units_committed() <= 16);  // who has it mapped goes on
  must(Segment::create(file.path(), small_options()));
  CHECK(Segment::open(file.path()).has_value());
}

TEST_CASE("segment: removal refuses what is not a segment", "[shm]") {
  const TempDirectory directory;
  const auto path = directory.file("letter");
  write_file(path, std::as_bytes(std::span("dear", 4)));
  CHECK_FALSE(Segment::remove(path));
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("segment: a moved segment keeps its mapping", "[shm]") {
  const TempSegment file;
  auto first = must(Segment::open(file.path()));
  const auto* base = first.base();
  Segment second = std::move(first);
  CHECK(second.base() == base);
  CHECK(second.is_open());
  CHECK_FALSE(first.is_open());  // NOLINT(bugprone-use-after-move): that is the question
  first = std::move(second);
  CHECK(first.base() == base);
}

}  // namespace sluice::test
