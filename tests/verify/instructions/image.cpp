#include "tests/verify/instructions/image.hpp"

#include "ipc/processes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

constexpr std::uint64_t no_such_pid = std::uint64_t{1} << 40;

[[noreturn]] void fail_here(const std::string& what) {
  throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(errno)));
}

std::uint64_t size_of(int fd) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) fail_here("fstat");
  return static_cast<std::uint64_t>(info.st_size);
}

std::byte* map_bytes(std::uint64_t bytes, int flags, int fd) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
  if (memory == MAP_FAILED) fail_here("mmap");
  return static_cast<std::byte*>(memory);
}

// Copies the pages that differ; a page that is equal, or a hole, stays as it is.
void copy_pages(std::byte* to, const std::byte* from, std::uint64_t begin, std::uint64_t end) {
  for (auto at = begin; at < end; at += page_bytes) {
    const auto length = std::min(page_bytes, end - at);
    if (std::memcmp(to + at, from + at, length) != 0) std::memcpy(to + at, from + at, length);
  }
}

}  // namespace

Image::Image(const Segment& segment, bool all_payload) : segment_(segment), all_payload_(all_payload) {
  bytes_ = map_bytes(segment.geometry().mapped_bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  file_bytes_ = size_of(segment.fd());
  for (const auto& range : everything()) take_in(range);
  choose_ranges();
}

Image::~Image() { ::munmap(bytes_, segment_.geometry().mapped_bytes); }

std::vector<Image::Range> Image::everything() const {
  const auto& epochs = segment_.geometry().region(RegionKind::epochs);
  const auto queues = segment_.geometry().region(RegionKind::queues).offset;
  return {{0, epochs.offset}, {queues, file_bytes_ - queues}};
}

// Follows from the state itself: a unit's truth words beyond its bands are not there yet, and a unit that is a
// queue's says so before its bytes change.
void Image::choose_ranges() {
  const auto& geometry = segment_.geometry();
  const auto& truth = geometry.region(RegionKind::truth);
  const auto payload = geometry.payload_offset();
  ranges_.clear();
  const auto add = [&](std::uint64_t begin, std::uint64_t end) {
    if (begin >= end) return;
    if (!ranges_.empty() && ranges_.back().offset + ranges_.back().bytes == begin)
      ranges_.back().bytes += end - begin;
    else
      ranges_.push_back({begin, end - begin});
  };
  add(0, geometry.region(RegionKind::epochs).offset);
  add(geometry.region(RegionKind::queues).offset, truth.offset);
  const auto unit_at = [&](std::uint64_t unit) {
    UnitDescriptor descriptor;
    std::memcpy(&descriptor, bytes_ + geometry.region(RegionKind::units).offset + unit * sizeof descriptor,
                sizeof descriptor);
    return descriptor;
  };
  for (std::uint32_t band = 0; band < band_count; ++band)
    for (std::uint64_t unit = 0; unit < geometry.units_max; ++unit)
      if (band == 0 || band < unit_at(unit).bands) {
        const auto offset = truth.offset + (band * geometry.units_max + unit) * truth.stride;
        add(offset, offset + truth.stride);
      }
  for (std::uint64_t unit = 0; payload + (unit + 1) * unit_bytes <= file_bytes_; ++unit) {
    const auto descriptor = unit_at(unit);
    const bool ring = unit_word::state(descriptor.word) == UnitState::storage;
    const auto units = ring ? std::max<std::uint64_t>(descriptor.run_units, 1) : 1;
    if (ring || all_payload_)
      add(payload + unit * unit_bytes, std::min(file_bytes_, payload + (unit + units) * unit_bytes));
    unit += units - 1;
  }
}

void Image::take_in(const Range& range) {
  copy_pages(bytes_, segment_.base(), range.offset, range.offset + range.bytes);
}

bool Image::changed() {
  bool any = false;
  if (const auto now = size_of(segment_.fd()); now != file_bytes_) {
    file_bytes_ = now;
    any = true;
  }
  for (const auto& range : ranges_) {
    if (std::memcmp(bytes_ + range.offset, segment_.base() + range.offset, range.bytes) == 0) continue;
    any = true;
    take_in(range);
  }
  if (any) choose_ranges();
  return any;
}

bool Image::unseen_change() const {
  for (const auto& range : everything())
    if (std::memcmp(bytes_ + range.offset, segment_.base() + range.offset, range.bytes) != 0) return true;
  return false;
}

void Image::save(const std::string& path) const {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(file_bytes_)) != 0) fail_here("write " + path);
  auto* target = map_bytes(segment_.geometry().mapped_bytes, MAP_SHARED, fd);
  for (const auto& range : everything()) copy_pages(target, bytes_, range.offset, range.offset + range.bytes);
  ::munmap(target, segment_.geometry().mapped_bytes);
  ::close(fd);
}

Copy::Copy(std::string path, std::uint64_t mapped_bytes)
    : path_(std::move(path)), mapped_bytes_(mapped_bytes) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd_ < 0) fail_here("create " + path_);
  bytes_ = map_bytes(mapped_bytes, MAP_SHARED, fd_);
}

Copy::~Copy() {
  ::munmap(bytes_, mapped_bytes_);
  ::close(fd_);
}

void Copy::become(const Image& image, const std::vector<std::uint64_t>& dead_pids) {
  file_bytes_ = size_of(fd_);
  // Recovering and using up the last state may have made it longer: what lay there is gone.
  if (file_bytes_ != image.file_bytes() && ::ftruncate(fd_, static_cast<off_t>(image.file_bytes())) != 0)
    fail_here("truncate " + path_);
  const auto& geometry = image.segment().geometry();
  copy_pages(bytes_, image.bytes(), 0, geometry.region(RegionKind::epochs).offset);
  copy_pages(bytes_, image.bytes(), geometry.region(RegionKind::queues).offset, image.file_bytes());
  const auto& processes = geometry.region(RegionKind::processes);
  for (std::uint64_t row = 0; row < processes.count; ++row) {
    auto* process = reinterpret_cast<ProcessRow*>(bytes_ + processes.offset + row * processes.stride);
    if (std::ranges::find(dead_pids, process->pid) != dead_pids.end()) process->pid = no_such_pid;
  }
}

}  // namespace sluice::verify
