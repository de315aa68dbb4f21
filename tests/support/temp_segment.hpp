// Segments that go away with the test, and blocks whose bytes tell whose they are.
#pragma once

#include "runtime/session.hpp"
#include "shm/segment.hpp"
#include "tests/support/must.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::test {

enum class Place { shared_memory, disk };  // tmpfs at /dev/shm; TMPDIR, else /var/tmp

/// A directory of its own, with a name in it for a segment; removed with everything in it.
class TempDirectory {
 public:
  explicit TempDirectory(Place place = Place::shared_memory);
  ~TempDirectory();
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const noexcept { return path_; }
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  /// Names of what is in it, sorted.
  std::vector<std::string> entries() const;

 private:
  std::string path_;
};

/// Small tables and `units` units of payload: a segment in which exhaustion is near.
SegmentOptions small_options(std::uint64_t units = 16);

/// A created segment file. Nobody has it open.
class TempSegment {
 public:
  explicit TempSegment(const SegmentOptions& options = small_options(), Place place = Place::shared_memory);

  const std::string& path() const noexcept { return path_; }
  const TempDirectory& directory() const noexcept { return directory_; }

 private:
  TempDirectory directory_;
  std::string path_;
};

/// A segment that this process has joined, with one lane.
struct Rig {
  explicit Rig(const SegmentOptions& options = small_options(), Place place = Place::shared_memory,
               const LaneOptions& lane_options = {});

  Heap& heap() { return lane->heap(); }
  const Segment& segment() const { return session.segment(); }
  std::unique_ptr<Lane> another_lane(const LaneOptions& options = {}) {
    return must(session.claim_lane(options));
  }

  TempSegment file;
  Session session;
  std::unique_ptr<Lane> lane;
};

/// Fill with bytes that depend on `seed` and the place.
void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed);
bool has_pattern(std::span<const std::byte> bytes, std::uint64_t seed);

/// The whole file, and a file with such bytes.
std::vector<std::byte> read_file(const std::string& path);
void write_file(const std::string& path, std::span<const std::byte> bytes);
/// Copy a sparse file, data extents only.
void copy_sparse(const std::string& from, const std::string& to);

}  // namespace sluice::test
