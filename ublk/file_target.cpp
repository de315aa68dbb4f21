#include "ublk/file_target.hpp"

#include "ublk/file_queue.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

namespace sluice {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t block_max = 4096;  // what a device may have as its block: a page

struct FileFacts {
  std::uint64_t bytes = 0;
  std::uint32_t logical_block = 0;  // 0: no direct I/O
  std::uint32_t physical_block = 0;
  bool block_device = false;
  std::uint64_t identity[2] = {};  // device and inode, or the block device's number
};

Expected<FileFacts> examine(const std::string& path) {
  struct statx found{};
  if (::statx(AT_FDCWD, path.c_str(), 0, STATX_BASIC_STATS | STATX_DIOALIGN, &found) != 0)
    return fail_errno("open " + path);
  FileFacts facts;
  facts.block_device = S_ISBLK(found.stx_mode);
  if (!facts.block_device && !S_ISREG(found.stx_mode))
    return fail(Status::bad_argument, path + ": neither a file nor a block device");
  facts.bytes = found.stx_size;
  // Kernels before 6.1 and some file systems do not tell: then the open decides whether there is direct I/O.
  const bool told = (found.stx_mask & STATX_DIOALIGN) != 0;
  facts.logical_block = told ? found.stx_dio_offset_align : ublk_abi::sector_bytes;
  facts.physical_block = found.stx_blksize;
  if (facts.block_device)
    facts.identity[0] = std::uint64_t{found.stx_rdev_major} << 32 | found.stx_rdev_minor;
  else
    facts.identity[0] = std::uint64_t{found.stx_dev_major} << 32 | found.stx_dev_minor;
  facts.identity[1] = facts.block_device ? 0 : found.stx_ino;
  return facts;
}

Expected<void> examine_block_device(int fd, const std::string& path, FileFacts& facts) {
  int logical = 0;
  unsigned physical = 0;
  if (::ioctl(fd, BLKGETSIZE64, &facts.bytes) != 0 || ::ioctl(fd, BLKSSZGET, &logical) != 0 ||
      ::ioctl(fd, BLKPBSZGET, &physical) != 0)
    return fail_errno("ask the size of " + path);
  facts.logical_block = static_cast<std::uint32_t>(logical);
  facts.physical_block = physical;
  return {};
}

// Both kinds of "in use" end when the last request of a dead server does: wait for that.
Expected<UniqueFd> open_and_lock(const FileTargetOptions& options, bool block_device) {
  const int flags =
      (options.read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC | (block_device ? O_EXCL : 0);
  const auto give_up = Clock::now() + options.lock_wait;
  for (;;) {
    UniqueFd file(::open(options.path.c_str(), flags));
    if (file && ::flock(file.get(), (options.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return file;
    if (errno == EINVAL && !file)
      return fail(Status::io_error, options.path + ": its file system has no direct I/O", EINVAL);
    if (errno != EBUSY && errno != EWOULDBLOCK) return fail_errno("open " + options.path);
    if (Clock::now() >= give_up)
      return fail(Status::busy, options.path + ": in use by another server or a file system", EBUSY);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

Expected<TargetGeometry> geometry_of(const FileTargetOptions& options, const FileFacts& facts) {
  TargetGeometry geometry;
  geometry.logical_block = std::max(facts.logical_block, ublk_abi::sector_bytes);
  if (facts.logical_block == 0)
    return fail(Status::io_error, options.path + ": its file system has no direct I/O", EINVAL);
  if (geometry.logical_block > block_max || !std::has_single_bit(geometry.logical_block))
    return fail(Status::bad_argument,
                fmt::format("{}: its blocks for direct I/O are {} bytes, expected at most {}", options.path,
                            facts.logical_block, block_max));
  geometry.physical_block =
      std::clamp(std::bit_floor(std::max(facts.physical_block, 1U)), geometry.logical_block, block_max);
  geometry.bytes = options.bytes != 0 ? options.bytes : facts.bytes;
  geometry.read_only = options.read_only;
  geometry.volatile_cache = !options.read_only;
  geometry.discard_granularity = options.read_only ? 0 : geometry.physical_block;
  if (geometry.bytes > facts.bytes)
    return fail(Status::bad_argument, fmt::format("{}: it has {} bytes, {} are to be served", options.path,
                                                  facts.bytes, geometry.bytes));
  if (geometry.bytes == 0 || geometry.bytes % geometry.logical_block != 0)
    return fail(Status::bad_argument,
                fmt::format("{}: {} bytes to be served, expected a multiple of {} above 0", options.path,
                            geometry.bytes, geometry.logical_block));
  return geometry;
}

}  // namespace

FileTarget::FileTarget(std::string path, UniqueFd file, const TargetGeometry& geometry,
                       std::uint32_t fingerprint) noexcept
    : path_(std::move(path)), file_(std::move(file)), geometry_(geometry), fingerprint_(fingerprint) {}

Expected<std::unique_ptr<Target>> FileTarget::open(const FileTargetOptions& options) {
  auto facts = examine(options.path);
  if (!facts) return std::unexpected(std::move(facts.error()));
  auto file = open_and_lock(options, facts->block_device);
  if (!file) return std::unexpected(std::move(file.error()));
  if (facts->block_device)
    if (auto examined = examine_block_device(file->get(), options.path, *facts); !examined)
      return std::unexpected(std::move(examined.error()));
  const auto geometry = geometry_of(options, *facts);
  if (!geometry) return std::unexpected(geometry.error());
  const auto identity = fingerprint_of(fmt::format("file {} {}", facts->identity[0], facts->identity[1]));
  return std::unique_ptr<Target>(new FileTarget(options.path, std::move(*file), *geometry, identity));
}

Expected<std::unique_ptr<TargetQueue>> FileTarget::open_queue(TargetContext& context) {
  return std::make_unique<FileQueue>(context, file_.get());
}

}  // namespace sluice
