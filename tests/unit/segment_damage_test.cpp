// Files that are not sound segments: each is an Error with a sentence, never a crash, and is left as it was.
#include "shm/segment.hpp"

#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <sys/stat.h>
#include <unistd.h>

namespace sluice::test {

namespace {

SegmentHeader header_of(const std::string& path) {
  SegmentHeader header{};
  std::ifstream in(path, std::ios::binary);
  in.read(reinterpret_cast<char*>(&header), sizeof header);
  return header;
}

void put_header(const std::string& path, const SegmentHeader& header) {
  std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
  out.write(reinterpret_cast<const char*>(&header), sizeof header);
}

/// Both ways of opening refuse, with this status, and with a message that names the file and has `part` in it.
void check_refused(const std::string& path, std::initializer_list<Status> statuses,
                   std::string_view part = "") {
  for (const bool read_only : {false, true}) {
    const auto opened = read_only ? Segment::attach_read_only(path) : Segment::open(path);
    CAPTURE(read_only);
    REQUIRE_FALSE(opened);
    CAPTURE(to_string(opened.error().status), opened.error().message);
    CHECK(std::find(statuses.begin(), statuses.end(), opened.error().status) != statuses.end());
    CHECK(opened.error().message.find(path) != std::string::npos);
    CHECK(opened.error().message.find(part) != std::string::npos);
    CHECK(opened.error().message.find('\n') == std::string::npos);
  }
}

template <class Change>
void check_changed_header_refused(std::initializer_list<Status> statuses, std::string_view part,
                                  Change&& change) {
  const TempSegment file;
  auto header = header_of(file.path());
  change(header);
  header.crc32c = header_crc(header);
  put_header(file.path(), header);
  check_refused(file.path(), statuses, part);
}

constexpr auto not_a_segment = {Status::incompatible};
constexpr auto damaged = {Status::incompatible, Status::corrupt};

}  // namespace

TEST_CASE("damage: a file that is not there is not found", "[shm]") {
  const TempDirectory directory;
  check_refused(directory.file("nothing"), {Status::not_found});
}

TEST_CASE("damage: a foreign file is refused and left as it was", "[shm]") {
  const TempDirectory directory;
  const auto path = directory.file("foreign");
  std::vector<std::byte> bytes;
  SECTION("empty") {}
  SECTION("short text") { bytes.assign(20, std::byte{'x'}); }
  SECTION("long text") { bytes.assign(200'000, std::byte{'x'}); }
  SECTION("zeroes") { bytes.assign(200'000, std::byte{0}); }
  write_file(path, bytes);
  check_refused(path, not_a_segment);
  CHECK(read_file(path) == bytes);
}

TEST_CASE("damage: what is not a regular file is refused at once", "[shm]") {
  const TempDirectory directory;
  const auto path = directory.file("strange");
  SECTION("directory") { std::filesystem::create_directory(path); }
  SECTION("pipe") { REQUIRE(::mkfifo(path.c_str(), 0600) == 0); }
  SECTION("device") { std::filesystem::create_symlink("/dev/null", path); }
  const auto ended = run_child(
      [&] {
        for (const bool read_only : {false, true}) {
          const auto opened = read_only ? Segment::attach_read_only(path) : Segment::open(path);
          must_hold(!opened && !opened.error().message.empty(), "refused with a sentence");
        }
      },
      std::chrono::seconds(5));
  CHECK(ended.code == 0);
}

TEST_CASE("damage: a truncated segment is refused at every length that means something", "[shm]") {
  const TempSegment file;
  std::vector<std::uint64_t> lengths = {
      1, 7, 8, 9, 40, sizeof(SegmentHeader) - 1, sizeof(SegmentHeader), page_bytes - 1, page_bytes};
  const auto size = std::filesystem::file_size(file.path());
  {
    const auto segment = must(Segment::open(file.path()));
    for (std::uint32_t kind = 1; kind <= region_kinds; ++kind) {
      const auto& region = segment.geometry().region(static_cast<RegionKind>(kind));
      for (const auto end : {region.offset, region.offset + region.count * region.stride})
        for (const auto length : {end - 1, end, end + 1})
          if (length < size) lengths.push_back(length);
    }
  }
  lengths.push_back(size - 1);
  for (const auto length : lengths) {
    CAPTURE(length, size);
    const auto copy = file.path() + "-short";
    copy_sparse(file.path(), copy);
    std::filesystem::resize_file(copy, length);
    check_refused(copy, damaged);
    std::filesystem::remove(copy);
  }
}

TEST_CASE("damage: a flipped bit in any byte of the header is found", "[shm]") {
  const TempSegment file;
  const auto sound = header_of(file.path());
  for (std::size_t byte = 0; byte < offsetof(SegmentHeader, reserved_end); ++byte) {
    auto header = sound;
    reinterpret_cast<unsigned char*>(&header)[byte] ^= static_cast<unsigned char>(1U << (byte % 8));
    put_header(file.path(), header);
    CAPTURE(byte);
    check_refused(file.path(), damaged);
  }
  put_header(file.path(), sound);
  CHECK(Segment::open(file.path()).has_value());
}

TEST_CASE("damage: the other byte order is named as such", "[shm]") {
  const TempSegment file;
  auto header = header_of(file.path());
  header.magic = std::byteswap(header.magic);
  header.byte_order = std::byteswap(header.byte_order);
  put_header(file.path(), header);
  check_refused(file.path(), not_a_segment, "byte order");
}

TEST_CASE("damage: another layout is refused with both versions in the message", "[shm]") {
  check_changed_header_refused(not_a_segment, "2.0", [](SegmentHeader& h) { h.major = 2, h.minor = 0; });
  check_changed_header_refused(not_a_segment, "1.", [](SegmentHeader& h) { h.major = 2, h.minor = 0; });
  check_changed_header_refused(not_a_segment, "0.9", [](SegmentHeader& h) { h.major = 0, h.minor = 9; });
}

TEST_CASE("damage: an unknown feature that must be understood refuses", "[shm]") {
  check_changed_header_refused(not_a_segment, "",
                               [](SegmentHeader& h) { h.incompat |= std::uint64_t{1} << 63; });
}

TEST_CASE("damage: an unknown feature that matters to writers allows reading only", "[shm]") {
  const TempSegment file;
  auto header = header_of(file.path());
  header.ro_compat |= std::uint64_t{1} << 40;
  header.crc32c = header_crc(header);
  put_header(file.path(), header);
  const auto opened = Segment::open(file.path());
  REQUIRE_FALSE(opened);
  CHECK(opened.error().status == Status::incompatible);
  CHECK(Segment::attach_read_only(file.path()).has_value());
}

TEST_CASE("damage: an unknown harmless feature does no harm", "[shm]") {
  const TempSegment file;
  auto header = header_of(file.path());
  header.compat |= std::uint64_t{1} << 40;
  header.crc32c = header_crc(header);
  put_header(file.path(), header);
  CHECK(Segment::open(file.path()).has_value());
  CHECK(Segment::attach_read_only(file.path()).has_value());
}

TEST_CASE("damage: a parameter that contradicts itself is refused although the checksum fits", "[shm]") {
  using Header = SegmentHeader;
  check_changed_header_refused(damaged, "", [](Header& h) { h.page_size = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.page_size = 16384; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.unit_size = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.units_max = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.units_max = ~std::uint64_t{0}; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.units_max *= 2; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.lane_count = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.lane_count = 0xffffffff; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.process_count = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.queue_count = 0xffffffff; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.cells_per_lane = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.unit_bits = 63; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.unit_bits = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.generation_bits = 64; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.class_count = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.class_count = class_count_max + 1; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.class_bytes[3] = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.class_bytes[3] = h.class_bytes[2]; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.class_bytes[3] += 1; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.class_bytes[h.class_count - 1] = 65536; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.region_count = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.region_count = 0xffffffff; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.regions[5].offset += page_bytes; });
  check_changed_header_refused(damaged, "",
                               [](Header& h) { h.regions[5].offset = ~std::uint64_t{0} - 4095; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.regions[5].count = ~std::uint64_t{0}; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.regions[5].stride = 0; });
  check_changed_header_refused(damaged, "", [](Header& h) { h.regions[5].kind = 77; });
}

TEST_CASE("damage: a random header with a good checksum is refused or leads to tables within the file",
          "[shm][fuzz]") {
  const TempSegment file;
  const auto sound = header_of(file.path());
  const auto size = std::filesystem::file_size(file.path());
  const auto seed = GENERATE(1U, 2U, 3U);
  std::mt19937_64 random(seed);
  std::uint64_t accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    auto header = sound;
    auto* bytes = reinterpret_cast<unsigned char*>(&header);
    for (auto changes = 1 + random() % 4; changes > 0; --changes) {
      const auto at = random() % offsetof(SegmentHeader, crc32c);
      static constexpr unsigned char extremes[] = {0, 1, 0x7f, 0x80, 0xff};
      bytes[at] = random() % 2 == 0 ? extremes[random() % 5] : static_cast<unsigned char>(random());
    }
    header.crc32c = header_crc(header);
    if (!validate_header(header, size, "fuzz")) continue;
    ++accepted;
    const auto geometry = geometry_of(header);
    for (const auto& region : geometry.regions)
      if (region.kind != 0 && region.kind != static_cast<std::uint32_t>(RegionKind::payload))
        REQUIRE(region.offset + region.stride * region.count <= size);
  }
  CHECK(accepted > 0);  // uuid and creation time may be anything
}

TEST_CASE("damage: a file that the mode forbids is refused as such", "[shm]") {
  if (::geteuid() != 0) {
    WARN("skipped: only root can become somebody else");
    return;
  }
  const TempSegment file;
  REQUIRE(::chmod(file.directory().path().c_str(), 0755) == 0);
  const auto ended = run_child([&] {
    must_hold(::setgid(65534) == 0 && ::setuid(65534) == 0, "became nobody");
    for (const bool read_only : {false, true}) {
      const auto opened = read_only ? Segment::attach_read_only(file.path()) : Segment::open(file.path());
      must_hold(!opened && opened.error().status == Status::permission, "open is refused");
    }
    const auto created = Segment::create(file.path() + "-mine", small_options());
    must_hold(!created && created.error().status == Status::permission, "create is refused");
    const auto removed = Segment::remove(file.path());
    must_hold(!removed && removed.error().status == Status::permission, "remove is refused");
  });
  CHECK(ended.code == 0);
  CHECK(std::filesystem::exists(file.path()));
}

}  // namespace sluice::test
