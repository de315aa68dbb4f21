#include "tools/sluice/mirror.hpp"

#include "ipc/extent_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::tools {

Mirror::Mirror(const Segment& segment, std::string path, UniqueFd file) noexcept
    : segment_(&segment), path_(std::move(path)), file_(std::move(file)) {}

Expected<Mirror> Mirror::open(const Segment& segment, const std::string& path, std::string_view stream) {
  const auto queue = find_queue(segment, stream);
  if (!queue) return std::unexpected(queue.error());
  const auto& row = queue_row(segment, queue->index);
  // Shown, not only taken: a predecessor may have died at the first message with the file half written.
  const bool is_new = load(row.delivered, acquire) == 0;
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | (is_new ? O_CREAT : 0), 0600));
  if (!file && errno == ENOENT && !is_new)
    return fail(
        Status::not_found,
        fmt::format("mirror {}: there is no such file, and the first {} messages of stream {} are gone", path,
                    load(row.head, acquire), stream));
  if (!file) return fail_errno(fmt::format("mirror {}", path));
  struct stat found{};
  if (::fstat(file.get(), &found) != 0) return fail_errno(fmt::format("mirror {}", path));
  if (!S_ISREG(found.st_mode))
    return fail(Status::bad_argument, fmt::format("mirror {}: it is not a file", path));
  if (is_new && found.st_size != 0)
    return fail(Status::exists,
                fmt::format("mirror {}: it has {} bytes, expected a new file for stream {}, which "
                            "begins",
                            path, found.st_size, stream));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return fail(Status::busy, fmt::format("mirror {}: another mirror writes it", path));
    return fail_errno(fmt::format("mirror {}", path));
  }
  return Mirror(segment, path, std::move(file));
}

std::unexpected<Error> Mirror::failed(std::string_view what) const {
  return fail_errno(fmt::format("mirror {}: {}", path_, what));
}

// The first message says which device it is, and so how large the file must be.
Expected<void> Mirror::begin(std::uint64_t device) {
  const auto map = device_map(device);
  if (map.index >= segment_->header().queue_count)
    return fail(Status::corrupt,
                fmt::format("mirror {}: a message of device {:#x}, which is not there", path_, device));
  const auto slots = sound_extents(*segment_, queue_row(*segment_, map.index));
  if (!slots)
    return fail(Status::corrupt,
                fmt::format("mirror {}: a message of device {:#x}, which is none", path_, device));
  device_ = device;
  device_bytes_ = slots->pages * extent_page_bytes;
  struct stat found{};
  if (::fstat(file_.get(), &found) != 0) return failed("fstat");
  if (static_cast<std::uint64_t>(found.st_size) == device_bytes_) return {};
  if (found.st_size != 0)
    return fail(Status::bad_argument, fmt::format("mirror {}: it has {} bytes, the device {}", path_,
                                                  found.st_size, device_bytes_));
  if (::ftruncate(file_.get(), static_cast<off_t>(device_bytes_)) != 0) return failed("set its size");
  return {};
}

Expected<void> Mirror::handle(const Delivery& delivery) {
  const auto& message = delivery.message;
  const bool is_change = message.kind == MessageKind::write || message.kind == MessageKind::zeroes;
  if (!is_change && message.kind != MessageKind::flush)
    return fail(Status::corrupt, fmt::format("mirror {}: a message of kind {}, which no device sends", path_,
                                             static_cast<unsigned>(message.kind)));
  if (device_bytes_ == 0)
    if (auto begun = begin(message.flow); !begun) return begun;
  if (message.flow != device_)
    return fail(Status::corrupt, fmt::format("mirror {}: a message of device {:#x}, expected {:#x}", path_,
                                             message.flow, device_));
  if (message.length > device_bytes_ || message.position > device_bytes_ - message.length)
    return fail(Status::corrupt, fmt::format("mirror {}: {} bytes at {}, the device has {}", path_,
                                             message.length, message.position, device_bytes_));
  switch (message.kind) {
    case MessageKind::write: return write(delivery);
    case MessageKind::zeroes: return zero(message);
    default:
      if (::fdatasync(file_.get()) != 0) return failed("fdatasync");
      ++counters_.flushes;
      return {};
  }
}

Expected<void> Mirror::write(const Delivery& delivery) {
  auto bytes = delivery.bytes;
  for (auto at = static_cast<off_t>(delivery.message.position); !bytes.empty();) {
    const auto written = ::pwrite(file_.get(), bytes.data(), bytes.size(), at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write");
    at += written;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  ++counters_.writes;
  counters_.bytes += delivery.message.length;
  return {};
}

// A hole; or zeroes, where the file system makes none.
Expected<void> Mirror::zero(const Message& message) {
  ++counters_.zeroes;
  if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(message.position), static_cast<off_t>(message.length)) == 0)
    return {};
  if (errno != EOPNOTSUPP) return failed("punch a hole");
  static constexpr std::array<std::byte, 64 * 1024> zeroes{};
  for (std::uint64_t done = 0; done < message.length;) {
    const auto count = std::min<std::uint64_t>(zeroes.size(), message.length - done);
    const auto written =
        ::pwrite(file_.get(), zeroes.data(), count, static_cast<off_t>(message.position + done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write");
    done += static_cast<std::uint64_t>(written);
  }
  return {};
}

}  // namespace sluice::tools
