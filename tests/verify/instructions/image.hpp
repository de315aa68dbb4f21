// The bytes of a segment that another process changes, followed state by state, and a second file into which a
// state can be put to be recovered there.
#pragma once

#include "shm/segment.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::verify {

/// A private copy of what a mapped segment held when it was last looked at.
///
/// All metadata but the epochs' region is looked at every time, and of the payload the queues' rings; with
/// `all_payload` everything. What is not looked at is compared in the end: see unseen_change().
class Image {
 public:
  Image(const Segment& segment, bool all_payload);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  /// Whether anything is different from last time; the new state is taken in.
  bool changed();
  /// Whether bytes changed that changed() does not look at.
  bool unseen_change() const;

  const Segment& segment() const noexcept { return segment_; }
  const std::byte* bytes() const noexcept { return bytes_; }
  std::uint64_t file_bytes() const noexcept { return file_bytes_; }
  /// The state as a file; pages of zeroes are holes.
  void save(const std::string& path) const;

 private:
  struct Range {
    std::uint64_t offset, bytes;
  };
  void choose_ranges();
  void take_in(const Range& range);
  std::vector<Range> everything() const;

  const Segment& segment_;
  bool all_payload_;
  std::byte* bytes_ = nullptr;
  std::uint64_t file_bytes_ = 0;
  std::vector<Range> ranges_;
};

/// A file that becomes one state after another. Its inode stays, so whoever opens it finds a copied segment.
class Copy {
 public:
  Copy(std::string path, std::uint64_t mapped_bytes);
  ~Copy();
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  const std::string& path() const noexcept { return path_; }
  /// Make the file hold the image's state. Processes of `pid` are gone in it, as a death would have it.
  void become(const Image& image, const std::vector<std::uint64_t>& dead_pids);

 private:
  std::string path_;
  int fd_ = -1;
  std::byte* bytes_ = nullptr;
  std::uint64_t mapped_bytes_;
  std::uint64_t file_bytes_ = 0;
};

}  // namespace sluice::verify
