#include "tests/support/temp_segment.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::test {

namespace {

[[noreturn]] void fail_test(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

std::string root_of(Place place) {
  if (place == Place::shared_memory) return "/dev/shm";
  const char* directory = std::getenv("TMPDIR");
  return directory != nullptr && *directory != '\0' ? directory : "/var/tmp";
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (fd_ < 0) fail_test("open " + path);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

void copy_extent(int from, int to, off_t begin, off_t end) {
  std::vector<char> buffer(64 * 1024);
  while (begin < end) {
    const auto want = static_cast<std::size_t>(std::min<off_t>(end - begin, off_t(buffer.size())));
    const auto got = ::pread(from, buffer.data(), want, begin);
    if (got <= 0) fail_test("pread");
    if (::pwrite(to, buffer.data(), static_cast<std::size_t>(got), begin) != got) fail_test("pwrite");
    begin += got;
  }
}

}  // namespace

TempDirectory::TempDirectory(Place place) : path_(root_of(place) + "/sluice-test.XXXXXX") {
  if (::mkdtemp(path_.data()) == nullptr) fail_test("mkdtemp " + path_);
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> TempDirectory::entries() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

SegmentOptions small_options(std::uint64_t units) {
  SegmentOptions options;
  options.payload_bytes_max = units * unit_bytes;
  options.lanes = 16;
  options.processes = 16;
  options.queues = 16;
  options.cells_per_lane = 32768;
  return options;
}

TempSegment::TempSegment(const SegmentOptions& options, Place place)
    : directory_(place), path_(directory_.file("segment")) {
  must(Segment::create(path_, options));
}

Rig::Rig(const SegmentOptions& options, Place place, const LaneOptions& lane_options)
    : file(options, place),
      session(must(Session::open(file.path(), "test"))),
      lane(must(session.claim_lane(lane_options))) {}

void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) {
  std::uint64_t state = seed * 0x9e3779b97f4a7c15U + 1;
  for (auto& byte : bytes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<std::byte>(state >> 56);
  }
}

bool has_pattern(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::uint64_t state = seed * 0x9e3779b97f4a7c15U + 1;
  return std::all_of(bytes.begin(), bytes.end(), [&](std::byte byte) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return byte == static_cast<std::byte>(state >> 56);
  });
}

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_test("read " + path);
  std::vector<std::byte> bytes(std::filesystem::file_size(path));
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!out) fail_test("write " + path);
}

void copy_sparse(const std::string& from, const std::string& to) {
  const Descriptor source(from, O_RDONLY);
  const Descriptor target(to, O_RDWR | O_CREAT | O_EXCL);
  const auto size = static_cast<off_t>(std::filesystem::file_size(from));
  if (::ftruncate(target.fd(), size) != 0) fail_test("ftruncate " + to);
  for (off_t data = 0; (data = ::lseek(source.fd(), data, SEEK_DATA)) >= 0;) {
    const auto hole = ::lseek(source.fd(), data, SEEK_HOLE);
    copy_extent(source.fd(), target.fd(), data, hole);
    data = hole;
  }
}

}  // namespace sluice::test
