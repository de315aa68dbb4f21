// A file or a block device as a device's store: direct I/O through the queue's ring, so that one thread has as many
// requests under way as the queue is deep.
//
//   READ   file ──direct──> the tag's buffer ──give_data──> request        FLUSH          fdatasync
//   WRITE  request ──take_data──> the tag's buffer ──direct──> file        FUA            the write itself is durable
//                                                                          DISCARD        punches a hole
//                                                                          WRITE_ZEROES   a hole, or zeroes that stay
//                                                                                         allocated
//
// With zero copy there is no buffer: the request's own pages are what the file is read into and written from.
//
// The file is locked (flock) as long as anything of a server is under way on it: the lock goes with the last reference
// to the open file, and requests in flight have one. So a new server that has the lock knows that no write of a dead one
// can still arrive behind its own.
#pragma once

#include "runtime/unique_fd.hpp"
#include "ublk/target.hpp"

#include <chrono>
#include <string>

namespace sluice {

struct FileTargetOptions {
  std::string path;
  std::uint64_t bytes = 0;  // how much of it; 0: all
  bool read_only = false;
  std::chrono::milliseconds lock_wait{0};  // for a dead server's requests to end
};

class FileTarget final : public Target {
 public:
  /// errors  not_found, permission  "open /x: …"
  ///         bad_argument  not a file or block device, too small, not a multiple of its block; what it is
  ///         busy          another server, or a file system, uses it
  ///         io_error      its file system has no direct I/O
  static Expected<std::unique_ptr<Target>> open(const FileTargetOptions& options);

  TargetGeometry geometry() const noexcept override { return geometry_; }
  bool uses_buffers() const noexcept override { return true; }
  bool supports_zero_copy() const noexcept override { return true; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override;
  std::uint32_t fingerprint() const noexcept override { return fingerprint_; }
  std::string describe() const override { return "file " + path_; }

 private:
  FileTarget(std::string path, UniqueFd file, const TargetGeometry& geometry,
             std::uint32_t fingerprint) noexcept;

  std::string path_;
  UniqueFd file_;
  TargetGeometry geometry_;
  std::uint32_t fingerprint_;
};

}  // namespace sluice
