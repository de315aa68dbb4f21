#include "tests/verify/fuzz/targets/arena.hpp"

#include "ipc/queues.hpp"
#include "tests/support/must.hpp"
#include "tests/verify/fuzz/targets/victims.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::fuzz {

namespace {

constexpr std::uint64_t units_max = 12;
constexpr std::uint64_t units_made = 9;  // the file can grow by the rest
constexpr std::uint8_t edits_max = 32;

[[noreturn]] void give_up(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// Whether two pages are alike. An own loop, in vectors because nothing else is fast at -O1: the sanitizer's memcmp and
// libFuzzer's hook on it cost more than the comparison.
using Lanes = std::uint64_t __attribute__((vector_size(64)));
__attribute__((no_sanitize("address", "undefined", "coverage"))) bool same_page(const std::byte* a,
                                                                                const std::byte* b) noexcept {
  Lanes difference{};
  for (std::size_t i = 0; i < page_bytes; i += sizeof difference) {
    Lanes left, right;
    __builtin_memcpy(&left, a + i, sizeof left);
    __builtin_memcpy(&right, b + i, sizeof right);
    difference |= left ^ right;
  }
  std::uint64_t any = 0;
  for (std::size_t i = 0; i < 8; ++i) any |= difference[i];
  return any == 0;
}

std::string make_directory() {
  const char* given = std::getenv("SLUICE_FUZZ_DIRECTORY");
  std::string name = given != nullptr ? given : "/dev/shm";
  name += "/sluice-fuzz.XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) give_up("mkdtemp " + name);
  return name;
}

}  // namespace

Arena::Arena()
    : directory_(make_directory()), path_(directory_ + "/segment"), raw_path_(directory_ + "/raw") {
  build();
  find_places();
}

Arena::~Arena() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

const SegmentHeader& Arena::header() const noexcept {
  return *reinterpret_cast<const SegmentHeader*>(made_.data());
}

void Arena::build() {
  SegmentOptions options;
  options.payload_bytes_max = units_max * unit_bytes;
  options.lanes = 8;
  options.processes = 7;
  options.queues = 4;
  options.cells_per_lane = 256;
  test::must(Segment::create(path_, options));
  leave_victims(path_);

  fd_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
  raw_fd_ = ::open(raw_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0 || raw_fd_ < 0) give_up("open " + path_);
  std::uint64_t file_bytes = 0;
  {
    // As if the last units had not been committed yet: the file grows under the fuzzer too.
    const auto segment = test::must(Segment::attach_read_only(path_));
    for (auto unit = units_made; unit < units_max; ++unit)
      test::must_hold(load(segment.unit(unit).word, relaxed) == 0, "the last units were never used");
    file_bytes = segment.geometry().payload_offset() + units_made * unit_bytes;
    const auto control = segment.geometry().region(RegionKind::control).offset;
    const std::uint64_t committed = units_made;
    if (::pwrite(fd_, &committed, sizeof committed, static_cast<off_t>(control)) != sizeof committed)
      give_up("pwrite");
  }
  if (::ftruncate(fd_, static_cast<off_t>(file_bytes)) != 0) give_up("ftruncate");
  auto* mapped = ::mmap(nullptr, file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) give_up("mmap");
  live_ = static_cast<std::byte*>(mapped);
  made_.assign(live_, live_ + file_bytes);
}

void Arena::find_places() {
  const auto geometry = geometry_of(header());
  const auto whole = [&](RegionKind kind) {
    const auto& region = geometry.region(kind);
    return Place{region.offset, region.stride * region.count};
  };
  const auto at = [&](RegionKind kind, std::uint64_t bytes) {
    return Place{geometry.region(kind).offset, bytes};
  };
  places_ = {at(RegionKind::control, sizeof(SegmentControl)),
             whole(RegionKind::processes),
             whole(RegionKind::lanes),
             whole(RegionKind::queues),
             whole(RegionKind::ledgers),
             whole(RegionKind::units),
             whole(RegionKind::remote_bits),
             at(RegionKind::truth, units_max * slots_per_band * sizeof(TruthWord)),  // band 0
             whole(RegionKind::truth),
             at(RegionKind::identity, sizeof(SegmentIdentity)),
             {0, sizeof(SegmentHeader)},
             whole(RegionKind::seen)};
  const auto* queues =
      reinterpret_cast<const QueueRow*>(made_.data() + geometry.region(RegionKind::queues).offset);
  for (std::uint32_t i = 0; i < header().queue_count; ++i)
    if (queue_word::state(queues[i].word) == QueueState::ready)
      places_.push_back({geometry.payload_offset() + queues[i].first_unit * unit_bytes,
                         queues[i].capacity * sizeof(Message)});

  restored_ = {{0, geometry.region(RegionKind::checkpoints).offset}, whole(RegionKind::payload)};
  restored_.back().bytes = units_made * unit_bytes;
  for (const auto kind : {RegionKind::control, RegionKind::runtime, RegionKind::processes, RegionKind::lanes,
                          RegionKind::seen, RegionKind::queues, RegionKind::ledgers, RegionKind::units,
                          RegionKind::remote_bits, RegionKind::truth})
    restored_.push_back(whole(kind));

  constexpr auto max = std::numeric_limits<std::uint64_t>::max();
  known_ = {0,
            1,
            2,
            3,
            7,
            8,
            63,
            64,
            255,
            256,
            1023,
            1024,
            4095,
            4096,
            65535,
            65536,
            units_made,
            units_max,
            units_max - 1,
            units_made - 1,
            header().lane_count,
            header().process_count,
            header().queue_count,
            queue_capacity_max,
            1U << 31,
            std::uint64_t{1} << 32,
            std::uint64_t{1} << 40,
            std::uint64_t{1} << 63,
            (std::uint64_t{1} << 63) - 1,
            0xffffffff,
            0x7fffffff,
            max,
            max - 1};
  // Words that are in use: a handle, a role or a descriptor in the wrong place.
  for (const auto kind : {RegionKind::units, RegionKind::ledgers, RegionKind::lanes, RegionKind::queues}) {
    const auto place = whole(kind);
    for (auto offset = place.offset; offset < place.offset + place.bytes; offset += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, made_.data() + offset, sizeof word);
      if (word > 0xffff && known_.size() < 256) known_.push_back(word);
    }
  }
}

void Arena::restore() {
  struct stat info{};
  if (::fstat(fd_, &info) != 0 || (static_cast<std::size_t>(info.st_size) != made_.size() &&
                                   ::ftruncate(fd_, static_cast<off_t>(made_.size())) != 0))
    give_up("restore " + path_);
  for (const auto page : edited_) restore_page(page);
  edited_.assign(1, 0);  // edit() changes the header's checksum
  if (!std::exchange(written_, false)) return;
  for (const auto& place : restored_)
    for (auto at = place.offset; at < place.offset + place.bytes; at += page_bytes) restore_page(at);
}

// Reading is cheaper than writing: most pages are as they were.
void Arena::restore_page(std::uint64_t at) noexcept {
  if (!same_page(live_ + at, made_.data() + at)) std::memcpy(live_ + at, made_.data() + at, page_bytes);
}

void Arena::edit(Input& input) {
  const auto count = input.below(edits_max);
  for (std::uint32_t i = 0; i < count; ++i) apply(input.take<Edit>());
  auto& header = *reinterpret_cast<SegmentHeader*>(live_);
  header.crc32c = header_crc(header);
}

void Arena::apply(const Edit& edit) noexcept {
  const auto& place = places_[edit.place % places_.size()];
  const std::uint64_t width = std::uint64_t{1} << (edit.how & 3);
  const auto in_place = [&](std::uint64_t where) {
    return live_ + place.offset + where % (place.bytes / width) * width;
  };
  auto* word = in_place(edit.where);
  std::uint64_t value = 0;
  std::memcpy(&value, word, width);
  switch (static_cast<EditKind>((edit.how >> 2) % 5)) {
    case EditKind::set: value = edit.value; break;
    case EditKind::add: value += edit.value; break;
    case EditKind::flip: value ^= std::uint64_t{1} << (edit.value % 64); break;
    case EditKind::special: value = known_[edit.other % known_.size()]; break;
    case EditKind::copy: std::memcpy(&value, in_place(edit.other), width); break;
  }
  std::memcpy(word, &value, width);
  edited_.push_back(static_cast<std::uint64_t>(word - live_) / page_bytes * page_bytes);
}

void Arena::write_raw(std::span<const std::uint8_t> bytes, std::uint64_t file_bytes) {
  if (::ftruncate(raw_fd_, 0) != 0 ||
      ::pwrite(raw_fd_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()) ||
      (file_bytes > bytes.size() && ::ftruncate(raw_fd_, static_cast<off_t>(file_bytes)) != 0))
    give_up("write " + raw_path_);
}

void Arena::put_raw(std::uint64_t offset, std::uint64_t word) {
  if (::pwrite(raw_fd_, &word, sizeof word, static_cast<off_t>(offset)) != sizeof word)
    give_up("write " + raw_path_);
}

void Arena::write_seeds(const std::string& directory) const {
  std::mt19937_64 random(1);
  std::uint32_t number = 0;
  const auto write = [&](std::span<const std::uint8_t> bytes) {
    std::ofstream out(fmt::format("{}/seed-{:03}", directory, number++), std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  };
  for (std::uint8_t mode = 0; mode < 16; ++mode) {
    // A sound header, then zeroes: as a raw file, and as parameters.
    std::vector<std::uint8_t> raw(1 + sizeof(SegmentHeader));
    raw[0] = mode;
    std::memcpy(raw.data() + 1, made_.data(), sizeof(SegmentHeader));
    write(raw);
  }
  for (std::uint8_t place = 0; place < places_.size(); ++place)
    for (std::uint8_t kind = 0; kind < 5; ++kind)
      for (const std::uint8_t edits : {std::uint8_t{1}, std::uint8_t{3}}) {
        std::vector<std::uint8_t> seed = {static_cast<std::uint8_t>(random()), edits};
        for (std::uint8_t i = 0; i < edits; ++i) {
          const Edit edit{place, static_cast<std::uint8_t>(3 | kind << 2),
                          static_cast<std::uint16_t>(random()), static_cast<std::uint32_t>(random()),
                          random()};
          const auto* bytes = reinterpret_cast<const std::uint8_t*>(&edit);
          seed.insert(seed.end(), bytes, bytes + sizeof edit);
        }
        for (int action = 0; action < 40; ++action) seed.push_back(static_cast<std::uint8_t>(random()));
        write(seed);
      }
}

Arena& arena() {
  static Arena instance;
  static const bool ready = [] {
    if (const char* directory = std::getenv("SLUICE_FUZZ_SEEDS")) {
      instance.write_seeds(directory);
      std::exit(0);
    }
    return true;
  }();
  (void)ready;
  return instance;
}

}  // namespace sluice::fuzz
