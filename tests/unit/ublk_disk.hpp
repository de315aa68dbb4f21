// A file on disk for the tests of targets, and the file target that serves it.
#pragma once

#include "tests/support/must.hpp"
#include "tests/unit/ublk_model.hpp"
#include "ublk/file_target.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include <sys/stat.h>

namespace sluice::test {

inline constexpr std::uint64_t disk_bytes = 1 << 20;

// A file with content, in a directory that goes with it.
struct TempDisk {
  explicit TempDisk(std::uint64_t bytes = disk_bytes) {
    char name[] = "/tmp/sluice-disk-XXXXXX";
    directory = ::mkdtemp(name);
    path = directory / "disk";
    fill(bytes);
  }
  ~TempDisk() { std::filesystem::remove_all(directory); }

  void fill(std::uint64_t bytes) const {
    const auto content = pattern(17, bytes);
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(bytes));
  }
  std::vector<std::byte> read(std::uint64_t offset, std::size_t bytes) const {
    std::vector<std::byte> content(bytes);
    std::ifstream file(path, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(bytes));
    must_hold(file.gcount() == static_cast<std::streamsize>(bytes), "the file is that long");
    return content;
  }
  std::uint64_t blocks() const {
    struct stat found{};
    must_hold(::stat(path.c_str(), &found) == 0, "stat");
    return static_cast<std::uint64_t>(found.st_blocks);
  }

  std::filesystem::path directory, path;
};

inline Expected<std::unique_ptr<Target>> open_file(const TempDisk& disk, std::uint64_t bytes = 0,
                                                   bool read_only = false) {
  return FileTarget::open({.path = disk.path, .bytes = bytes, .read_only = read_only});
}

}  // namespace sluice::test
