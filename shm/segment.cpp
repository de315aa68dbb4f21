#include "shm/segment.hpp"

#include "shm/crash_point.hpp"
#include "shm/descriptor.hpp"
#include "shm/isolation.hpp"
#include "shm/mapped_ranges.hpp"
#include "shm/sidecar.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice {

namespace {

constexpr std::uint64_t growth_units = 64;  // 4 MiB at a time, where there is room

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(above_standard(fd)) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const noexcept { return fd_; }
  int take() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// All of the range, or an errno.
int allocate_range(int fd, std::uint64_t offset, std::uint64_t bytes) noexcept {
  if (bytes == 0) return 0;
  while (::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0)
    if (errno != EINTR) return errno;
  return 0;
}

bool read_exactly(int fd, void* to, std::size_t bytes, std::uint64_t offset) noexcept {
  auto* at = static_cast<char*>(to);
  while (bytes != 0) {
    const auto got = ::pread(fd, at, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
  return true;
}

bool write_exactly(int fd, const void* from, std::size_t bytes, std::uint64_t offset) noexcept {
  const auto* at = static_cast<const char*>(from);
  while (bytes != 0) {
    const auto put = ::pwrite(fd, at, bytes, static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += put;
    bytes -= static_cast<std::size_t>(put);
    offset += static_cast<std::uint64_t>(put);
  }
  return true;
}

Expected<void> check_options(const SegmentOptions& options) {
  const auto in = [](std::uint64_t value, std::uint64_t low, std::uint64_t high) {
    return value >= low && value <= high;
  };
  const auto bad = [](std::string_view name, std::uint64_t found, std::uint64_t low, std::uint64_t high) {
    return fail(Status::bad_argument, fmt::format("{}: found {}, expected {} to {}", name, found, low, high));
  };
  if (!in(options.payload_bytes_max, 1, std::uint64_t{1} << 44))
    return bad("maximum size", options.payload_bytes_max, 1, std::uint64_t{1} << 44);
  if (options.payload_bytes_initial > options.payload_bytes_max)
    return bad("initial size", options.payload_bytes_initial, 0, options.payload_bytes_max);
  if (!in(options.lanes, 2, 4095)) return bad("lanes", options.lanes, 2, 4095);
  if (!in(options.processes, 2, 2047)) return bad("processes", options.processes, 2, 2047);
  if (!in(options.queues, 1, 4096)) return bad("queues", options.queues, 1, 4096);
  if (!in(options.cells_per_lane, 64, 1U << 20)) return bad("cells", options.cells_per_lane, 64, 1U << 20);
  return {};
}

SegmentHeader make_header(const SegmentOptions& options) {
  SegmentHeader header{};
  header.magic = segment_magic;
  header.byte_order = byte_order_probe;
  header.page_size = page_bytes;
  header.major = layout_major;
  header.minor = layout_minor;
  header.header_bytes = sizeof(SegmentHeader);
  if (::getrandom(header.uuid, sizeof header.uuid, 0) != sizeof header.uuid) std::memset(header.uuid, 0, 16);
  header.uuid[6] = static_cast<std::uint8_t>((header.uuid[6] & 0x0F) | 0x40);  // RFC 9562, version 4
  header.uuid[8] = static_cast<std::uint8_t>((header.uuid[8] & 0x3F) | 0x80);
  header.created_ns = static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                     std::chrono::system_clock::now().time_since_epoch())
                                                     .count());
  header.unit_size = unit_bytes;
  header.units_max = round_up(options.payload_bytes_max, unit_bytes) / unit_bytes;
  header.lane_count = options.lanes;
  header.process_count = options.processes;
  header.queue_count = options.queues;
  header.cells_per_lane = static_cast<std::uint32_t>(round_up(options.cells_per_lane, 256));
  header.epoch_count = 4096;
  header.class_count = static_cast<std::uint32_t>(default_class_bytes.size());
  std::ranges::copy(default_class_bytes, header.class_bytes);
  const auto geometry = geometry_of(header);
  header.unit_bits = geometry.split.unit_bits;
  header.generation_bits = geometry.split.generation_bits;
  header.region_count = region_kinds + 1;
  std::ranges::copy(geometry.regions, header.regions);
  header.crc32c = header_crc(header);
  return header;
}

// Everything that exists from the start; ledgers, units and payload are committed as they are used.
int commit_fixed_regions(int fd, const Geometry& geometry) noexcept {
  if (const int error = allocate_range(fd, 0, page_bytes)) return error;
  for (const auto kind :
       {RegionKind::identity, RegionKind::checkpoints, RegionKind::control, RegionKind::runtime,
        RegionKind::processes, RegionKind::lanes, RegionKind::queues}) {
    const auto& region = geometry.region(kind);
    if (const int error = allocate_range(fd, region.offset, region.stride * region.count)) return error;
  }
  return 0;
}

SegmentIdentity make_identity(const struct stat& file, const SidecarFile& sidecar, const BootId& boot) {
  SegmentIdentity identity{};
  identity.device = file.st_dev;
  identity.inode = file.st_ino;
  identity.sidecar_device = sidecar.device;
  identity.sidecar_inode = sidecar.inode;
  std::memcpy(identity.boot_id, boot.bytes, sizeof identity.boot_id);
  return identity;
}

// The sidecar under its exclusive claim, and still the file that has the name.
struct ClaimedSidecar {
  SidecarFile file;
  SidecarClaim claim;
};
Expected<ClaimedSidecar> claim_sidecar(const std::string& path, std::uint32_t mode) {
  for (;;) {
    auto file = open_sidecar(path, true, mode);
    if (!file && file.error().errno_value != 0 && file.error().status != Status::not_found)
      return fail(
          file.error().status,
          fmt::format("{}: the lock file is needed; if its segment is gone, remove it, else give it the "
                      "segment's owner and mode",
                      file.error().message),
          file.error().errno_value);
    if (!file) return std::unexpected(file.error());
    auto claim = SidecarClaim::take(file->fd, path);
    if (!claim) return std::unexpected(claim.error());
    struct stat named{};
    if (::stat(path.c_str(), &named) == 0 && named.st_dev == file->device && named.st_ino == file->inode)
      return ClaimedSidecar{*file, std::move(*claim)};
  }
}

std::string directory_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Give a copied or rebooted file its new identity, the device last: torn, it still mismatches.
void adopt_identity(SegmentIdentity& identity, const SegmentIdentity& fresh) noexcept {
  // After a reboot device and inode match already: make them mismatch before the rest changes.
  store(identity.device, 0, release);
  std::atomic_signal_fence(seq_cst);
  identity.sidecar_device = fresh.sidecar_device;
  identity.sidecar_inode = fresh.sidecar_inode;
  std::memcpy(identity.boot_id, fresh.boot_id, sizeof identity.boot_id);
  store(identity.inode, fresh.inode, release);
  store(identity.device, fresh.device, release);
}

}  // namespace

Expected<Segment> Segment::create(const std::string& path, const SegmentOptions& options) {
  if (auto checked = check_options(options); !checked) return std::unexpected(checked.error());
  struct stat present{};
  if (::lstat(path.c_str(), &present) == 0)
    return fail(Status::exists, fmt::format("create {}: it exists already", path), EEXIST);
  const auto boot = current_boot_id();
  if (!boot) return std::unexpected(boot.error());

  const auto sidecar_name = sidecar_path(path);
  auto sidecar = claim_sidecar(sidecar_name, options.mode);
  if (!sidecar) return std::unexpected(sidecar.error());
  // A creation that failed leaves nothing behind; a sidecar without its segment would only be litter.
  const auto give_up = [&](std::unexpected<Error> error) {
    if (::lstat(path.c_str(), &present) != 0) ::unlink(sidecar_name.c_str());
    return error;
  };

  FileDescriptor file(::open(directory_of(path).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, options.mode));
  if (file.get() < 0) return give_up(fail_errno(fmt::format("create {}", path)));
  const auto header = make_header(options);
  const auto geometry = geometry_of(header);
  struct stat info{};
  if (::fstat(file.get(), &info) != 0 || ::fchmod(file.get(), options.mode) != 0 ||
      ::ftruncate(file.get(), static_cast<off_t>(geometry.payload_offset())) != 0)
    return give_up(fail_errno(fmt::format("create {}", path)));
  if (const int error = commit_fixed_regions(file.get(), geometry))
    return give_up(fail_errno(fmt::format("create {}: allocate its metadata", path), error));
  const auto identity = make_identity(info, sidecar->file, *boot);
  if (!write_exactly(file.get(), &identity, sizeof identity, geometry.region(RegionKind::identity).offset) ||
      !write_exactly(file.get(), &header, sizeof header, 0))
    return give_up(fail_errno(fmt::format("write {}", path)));

  Segment segment;
  const int fd = file.take();
  if (auto mapped = segment.map(path, fd, false); !mapped) return give_up(std::unexpected(mapped.error()));
  segment.sidecar_fd_ = sidecar->file.fd;
  if (options.payload_bytes_initial != 0) {
    const auto units = round_up(options.payload_bytes_initial, unit_bytes) / unit_bytes;
    if (segment.grow(units) != Status::ok)
      return give_up(fail(Status::exhausted,
                          fmt::format("create {}: no room for {} bytes", path, options.payload_bytes_initial),
                          ENOSPC));
  }
  crash_point("segment.create.written");
  const auto link_from = fmt::format("/proc/self/fd/{}", fd);
  if (::linkat(AT_FDCWD, link_from.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0)
    return give_up(fail_errno(fmt::format("create {}", path)));
  crash_point("segment.create.linked");
  return segment;
}

Expected<Segment> Segment::open(const std::string& path) {
  Segment segment;
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0 && errno == EISDIR)
    return fail(Status::incompatible, fmt::format("{}: not a regular file but a directory", path), EISDIR);
  if (file.get() < 0) return fail_errno(fmt::format("open {}", path));
  if (auto mapped = segment.map(path, file.take(), false); !mapped) return std::unexpected(mapped.error());
  struct stat info{};
  if (::fstat(segment.fd_, &info) != 0) return fail_errno(fmt::format("stat {}", path));

  const auto sidecar_name = sidecar_path(path);
  const auto boot = current_boot_id();
  if (!boot) return std::unexpected(boot.error());
  // Copied, or of an earlier boot: its processes are dead whatever the sidecar says.
  const auto copied = [&] {
    const auto& identity = segment.identity();
    return load(identity.inode, acquire) != info.st_ino || load(identity.device, acquire) != info.st_dev;
  };
  const auto foreign = [&] {
    return copied() || std::memcmp(segment.identity().boot_id, boot->bytes, sizeof boot->bytes) != 0;
  };
  if (foreign()) {
    auto claimed = claim_sidecar(sidecar_name, info.st_mode & 0777);
    if (!claimed) return std::unexpected(claimed.error());
    if (foreign()) {
      // A copy may have holes where the original had pages of zeroes: writing there must not fail later.
      if (copied() && segment.commit_again() != Status::ok)
        return fail(Status::exhausted,
                    fmt::format("{}: a copy with holes, and no room for the pages that belong there", path),
                    ENOSPC);
      lift_after_reboot(segment);
      adopt_identity(segment.identity(), make_identity(info, claimed->file, *boot));
    }
  }
  auto sidecar = open_sidecar(sidecar_name, false);
  // A copy of the file has a lock file of its own, and nobody alive.
  const auto cannot_tell = [&](std::string_view what) {
    return fail(
        Status::disagreement,
        fmt::format(
            "{0}: its lock file {1} {2}, so nobody can tell who is alive: stop the processes that use "
            "it, then `cp --sparse=always {0} NEW` and use NEW",
            path, sidecar_name, what));
  };
  if (!sidecar && sidecar.error().status == Status::not_found) return cannot_tell("is gone");
  if (!sidecar)
    return fail(sidecar.error().status,
                fmt::format("{}: its lock file cannot be used: {}; give it the segment's owner and mode",
                            path, sidecar.error().message),
                sidecar.error().errno_value);
  if (sidecar->inode != segment.identity().sidecar_inode ||
      sidecar->device != segment.identity().sidecar_device)
    return cannot_tell(fmt::format("was replaced (inode {}, expected {})", sidecar->inode,
                                   load(segment.identity().sidecar_inode, relaxed)));
  segment.sidecar_fd_ = sidecar->fd;
  return segment;
}

Expected<Segment> Segment::attach_read_only(const std::string& path) {
  Segment segment;
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return fail_errno(fmt::format("open {}", path));
  if (auto mapped = segment.map(path, file.take(), true); !mapped) return std::unexpected(mapped.error());
  struct stat info{};
  if (::fstat(segment.fd_, &info) != 0) return fail_errno(fmt::format("stat {}", path));
  const auto& identity = segment.identity();
  segment.copy_ = identity.inode != info.st_ino || identity.device != info.st_dev;
  return segment;
}

Expected<void> Segment::remove(const std::string& path) {
  // Only a segment is removed: a mistyped path keeps its file.
  if (auto segment = attach_read_only(path); !segment && segment.error().status != Status::corrupt)
    return std::unexpected(segment.error());
  const auto sidecar_name = sidecar_path(path);
  auto sidecar = claim_sidecar(sidecar_name, 0600);
  if (!sidecar) return std::unexpected(sidecar.error());
  if (::unlink(path.c_str()) != 0) return fail_errno(fmt::format("remove {}", path));
  if (::unlink(sidecar_name.c_str()) != 0) return fail_errno(fmt::format("remove {}", sidecar_name));
  return {};
}

Expected<void> Segment::map(const std::string& path, int fd, bool read_only) {
  path_ = path;
  fd_ = fd;
  read_only_ = read_only;
  struct stat info{};
  if (::fstat(fd, &info) != 0) return fail_errno(fmt::format("stat {}", path));
  if (!S_ISREG(info.st_mode))
    return fail(Status::incompatible, fmt::format("{}: not a regular file{}", path,
                                                  S_ISDIR(info.st_mode) ? " but a directory" : ""));
  auto file_bytes = static_cast<std::uint64_t>(info.st_size);
  if (file_bytes < sizeof header_ || !read_exactly(fd, &header_, sizeof header_, 0))
    return fail(Status::incompatible, fmt::format("{}: {} bytes long, a segment's header has {}", path,
                                                  file_bytes, sizeof header_));
  if (auto valid = validate_header(header_, file_bytes, path); !valid) return valid;
  if (header_.ro_compat != 0 && !read_only)
    return fail(Status::incompatible,
                fmt::format("{}: has features {:#x} with which this build can only read it", path,
                            header_.ro_compat));
  geometry_ = geometry_of(header_);
  // Committed first, size second: growers extend the file before they publish.
  std::uint64_t committed = 0;
  if (!read_exactly(fd, &committed, sizeof committed, geometry_.region(RegionKind::control).offset))
    return fail_errno(fmt::format("read {}", path));
  if (::fstat(fd, &info) != 0) return fail_errno(fmt::format("stat {}", path));
  file_bytes = static_cast<std::uint64_t>(info.st_size);
  if (committed > geometry_.units_max)
    return fail(Status::corrupt,
                fmt::format("{}: {} units committed of at most {}", path, committed, geometry_.units_max));
  if (const auto needed = geometry_.payload_offset() + committed * unit_bytes; file_bytes < needed)
    return fail(Status::corrupt, fmt::format("{}: truncated: {} bytes, expected {} for {} committed units",
                                             path, file_bytes, needed, committed));

  classes_ = SizeClasses(header_.class_bytes, header_.class_count);
  void* base = ::mmap(nullptr, geometry_.mapped_bytes, read_only ? PROT_READ : PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED)
    return fail_errno(fmt::format("map {}: {} bytes of address space", path, geometry_.mapped_bytes));
  base_ = static_cast<std::byte*>(base);
  mapped_by_ = this_process();
  if (!read_only) {
    ::madvise(base, geometry_.mapped_bytes, MADV_DONTFORK);
    add_mapped_range(base, geometry_.mapped_bytes);
  }
  bind();
  return {};
}

void Segment::bind() noexcept {
  const auto address = [&](RegionKind kind) { return base_ + geometry_.region(kind).offset; };
  control_ = reinterpret_cast<SegmentControl*>(address(RegionKind::control));
  units_ = reinterpret_cast<UnitDescriptor*>(address(RegionKind::units));
  remote_bits_ = reinterpret_cast<RemoteBits*>(address(RegionKind::remote_bits));
  truth_ = reinterpret_cast<TruthWord*>(address(RegionKind::truth));
  lanes_ = reinterpret_cast<LaneRow*>(address(RegionKind::lanes));
  seen_ = reinterpret_cast<std::uint64_t*>(address(RegionKind::seen));
  ledgers_ = reinterpret_cast<Cell*>(address(RegionKind::ledgers));
  payload_ = address(RegionKind::payload);
}

Segment::Segment(Segment&& other) noexcept { *this = std::move(other); }

Segment& Segment::operator=(Segment&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  fd_ = std::exchange(other.fd_, -1);
  sidecar_fd_ = std::exchange(other.sidecar_fd_, -1);
  read_only_ = other.read_only_;
  copy_ = other.copy_;
  mapped_by_ = other.mapped_by_;
  base_ = std::exchange(other.base_, nullptr);
  header_ = other.header_;
  geometry_ = other.geometry_;
  classes_ = other.classes_;
  if (base_ != nullptr) bind();
  return *this;
}

Segment::~Segment() { close(); }

void Segment::close() noexcept {
  // Elsewhere the address may be another mapping's by now.
  if (base_ != nullptr && is_ours()) {
    if (!read_only_) remove_mapped_range(base_);
    ::munmap(base_, geometry_.mapped_bytes);
  }
  if (fd_ >= 0) ::close(fd_);
  base_ = nullptr;
  fd_ = -1;
}

Status Segment::commit(std::uint64_t offset, std::uint64_t bytes) const noexcept {
  return allocate_range(fd_, offset, bytes) == 0 ? Status::ok : Status::exhausted;
}

Status Segment::commit_payload(std::uint64_t first, std::uint64_t count) const noexcept {
  return commit(geometry_.payload_offset() + first * unit_bytes, count * unit_bytes);
}

Status Segment::commit_again() const noexcept {
  if (commit_fixed_regions(fd_, geometry_) != 0) return Status::exhausted;
  for (LaneId lane = 1; lane < lane_count(); ++lane) {
    const auto& row = lane_row(lane);
    if (lane_word::Active::get(load(row.word, relaxed)) == 0) continue;  // committed when it is claimed
    const auto cells = load(row.cell_count, relaxed);
    if (cells != 0 && (cells > header_.cells_per_lane ||
                       commit_lane(lane, static_cast<std::uint32_t>(cells)) != Status::ok))
      return Status::exhausted;
  }
  const auto units = units_committed();
  const auto& descriptors = geometry_.region(RegionKind::units);
  const auto& bits = geometry_.region(RegionKind::remote_bits);
  if (commit(descriptors.offset, units * descriptors.stride) != Status::ok ||
      commit(bits.offset, units * bits.stride) != Status::ok)
    return Status::exhausted;
  for (std::uint64_t unit = 0; unit < units; ++unit) {
    const auto& descriptor = this->unit(unit);
    const auto bands = std::clamp(load(descriptor.bands, relaxed), 1U, band_count);
    if (commit_bands(unit, bands) != Status::ok) return Status::exhausted;
    if (unit_word::state(load(descriptor.word, relaxed)) != UnitState::free_uncommitted &&
        commit_payload(unit, 1) != Status::ok)
      return Status::exhausted;
  }
  return Status::ok;
}

Status Segment::commit_bands(std::uint64_t unit, std::uint32_t bands) const noexcept {
  const auto& region = geometry_.region(RegionKind::truth);
  for (std::uint32_t band = 0; band < bands; ++band) {
    const auto offset = region.offset + (band * geometry_.units_max + unit) * region.stride;
    if (commit(offset, region.stride) != Status::ok) return Status::exhausted;
  }
  return Status::ok;
}

Status Segment::commit_lane(std::uint64_t lane, std::uint32_t cells) const noexcept {
  const auto& seen = geometry_.region(RegionKind::seen);
  if (const auto status = commit(seen.offset + lane * seen.stride, seen.stride); status != Status::ok)
    return status;
  const auto& region = geometry_.region(RegionKind::ledgers);
  return commit(region.offset + lane * region.stride, std::uint64_t{cells} * sizeof(Cell));
}

Status Segment::grow(std::uint64_t units) const noexcept {
  const auto present = units_committed();
  if (units == 0 || units > geometry_.units_max - present) return Status::exhausted;
  const auto extend = [&](std::uint64_t count) {
    for (const auto kind : {RegionKind::units, RegionKind::remote_bits, RegionKind::truth}) {
      const auto& region = geometry_.region(kind);  // of truth: band 0, which comes first
      if (commit(region.offset + present * region.stride, count * region.stride) != Status::ok)
        return Status::exhausted;
    }
    return commit_payload(present, count);
  };
  auto count = std::min(std::max(units, growth_units), geometry_.units_max - present);
  if (extend(count) != Status::ok) {
    count = units;
    if (extend(count) != Status::ok) return Status::exhausted;
  }
  crash_point("segment.grow.committed");  // recovery: nothing to do, the same range is committed again
  auto expected = present;
  while (expected < present + count &&
         !cas(control_->units_committed, expected, present + count, release)) {  // G2 -> G1 (units_committed)
  }
  crash_point("segment.grow.published");
  return Status::ok;
}

}  // namespace sluice
