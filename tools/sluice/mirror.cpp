#include "tools/sluice/mirror.hpp"

#include "ipc/extent_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

constexpr std::size_t number_digits = 20;

// "sluice mirror 1 of changes in 0123…"
std::string line_of(const Segment& segment, std::string_view stream, QueueId queue) {
  const auto& uuid = segment.header().uuid;
  return fmt::format("sluice mirror 1 of {}.{} {} in {:02x}", queue.index, queue.era, stream,
                     fmt::join(std::begin(uuid), std::end(uuid), ""));
}

std::string read_note(int fd) {
  std::array<char, 512> text;
  const auto got = ::pread(fd, text.data(), text.size(), 0);
  return {text.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

}  // namespace

Mirror::Mirror(const Segment& segment, std::string path, std::string follows, UniqueFd file) noexcept
    : segment_(&segment), path_(std::move(path)), follows_(std::move(follows)), file_(std::move(file)) {}

Expected<Mirror> Mirror::open(const Segment& segment, const std::string& path, std::string_view stream) {
  const auto queue = find_queue(segment, stream);
  if (!queue) return std::unexpected(queue.error());
  const auto& row = queue_row(segment, queue->index);
  if (load(row.kind, relaxed) != static_cast<std::uint32_t>(QueueKind::stream))
    return fail(Status::bad_argument, fmt::format("mirror {}: {} is not a stream", path, stream));
  const auto taken = load(row.head, acquire);
  UniqueFd note(::open((path + ".mirror").c_str(), O_RDWR | O_CLOEXEC));
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | (taken == 0 ? O_CREAT : 0), 0600));
  if (!file && errno == ENOENT)
    return fail(
        Status::not_found,
        fmt::format("mirror {}: there is no such file, and the first {} messages of stream {} are gone", path,
                    taken, stream));
  if (!file) return fail_errno(fmt::format("mirror {}", path));
  struct stat found{};
  if (::fstat(file.get(), &found) != 0) return fail_errno(fmt::format("mirror {}", path));
  if (!S_ISREG(found.st_mode))
    return fail(Status::bad_argument, fmt::format("mirror {}: it is not a file", path));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return fail(Status::busy, fmt::format("mirror {}: another mirror writes it", path));
    return fail_errno(fmt::format("mirror {}", path));
  }
  Mirror mirror(segment, path, line_of(segment, stream, *queue), std::move(file));
  if (!note && (taken != 0 || found.st_size != 0))
    return fail(
        Status::exists,
        fmt::format("mirror {}: {} bytes that follow no stream ({}.mirror is not there), expected a new "
                    "file and a stream of which nothing was taken",
                    path, found.st_size, path));
  if (!note) return mirror;
  const auto text = read_note(note.get());
  if (!text.starts_with(mirror.follows_ + "\n"))
    return fail(Status::exists, fmt::format("mirror {}: {}.mirror says '{}', expected '{}'", path, path,
                                            text.substr(0, text.find('\n')), mirror.follows_));
  mirror.next_ = std::strtoull(text.c_str() + mirror.follows_.size() + 1, nullptr, 10);
  if (mirror.next_ != taken && mirror.next_ != taken + 1)
    return fail(Status::exists,
                fmt::format("mirror {}: its next change is {}, the stream's is {}: others have taken "
                            "messages",
                            path, mirror.next_, taken));
  mirror.note_ = std::move(note);
  return mirror;
}

// The number of the next change, after the last one is in the file and before it is acknowledged.
Expected<void> Mirror::note(std::uint64_t next) {
  next_ = next;
  const auto number = fmt::format("{:0{}}\n", next, number_digits);
  const auto at = static_cast<off_t>(follows_.size() + 1);
  if (::pwrite(note_.get(), number.data(), number.size(), at) != static_cast<ssize_t>(number.size()))
    return failed("write the number of the next change");
  return {};
}

std::unexpected<Error> Mirror::failed(std::string_view what) const {
  return fail_errno(fmt::format("mirror {}: {}", path_, what));
}

// The first message says which device it is, and so how large the file must be.
Expected<void> Mirror::begin(const Message& message) {
  const auto map = device_map(message.flow);
  if (map.index >= segment_->header().queue_count)
    return fail(Status::corrupt,
                fmt::format("mirror {}: a message of device {:#x}, which is not there", path_, message.flow));
  const auto slots = sound_extents(*segment_, queue_row(*segment_, map.index));
  if (!slots)
    return fail(Status::corrupt,
                fmt::format("mirror {}: a message of device {:#x}, which is none", path_, message.flow));
  if (!note_) {
    // Complete from the moment that it has its name.
    const auto name = path_ + ".mirror";
    const auto unfinished = name + ".new";
    note_.reset(::open(unfinished.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!note_) return failed("create " + unfinished);
    const auto line = follows_ + "\n";
    if (::pwrite(note_.get(), line.data(), line.size(), 0) != static_cast<ssize_t>(line.size()))
      return failed("write " + unfinished);
    if (auto noted = note(0); !noted) return noted;
    if (::rename(unfinished.c_str(), name.c_str()) != 0) return failed("rename " + unfinished);
  }
  device_ = message.flow;
  device_bytes_ = slots->pages * extent_page_bytes;
  struct stat found{};
  if (::fstat(file_.get(), &found) != 0) return failed("fstat");
  // Somebody has cut it, or put another in its place: what was done to it is gone.
  if (const auto bytes = static_cast<std::uint64_t>(found.st_size); next_ != 0 && bytes != device_bytes_)
    return fail(Status::exists, fmt::format("mirror {}: it has {} bytes, {} changes were made to one of {}",
                                            path_, bytes, next_, device_bytes_));
  if (::ftruncate(file_.get(), static_cast<off_t>(device_bytes_)) != 0) return failed("set its size");
  return {};
}

Expected<void> Mirror::handle(const Delivery& delivery) {
  const Message message = delivery.message;  // read once: it lies where others could write
  const bool is_change = message.kind == MessageKind::write || message.kind == MessageKind::zeroes;
  if (!is_change && message.kind != MessageKind::flush)
    return fail(Status::corrupt, fmt::format("mirror {}: a message of kind {}, which no device sends", path_,
                                             static_cast<unsigned>(message.kind)));
  if (device_bytes_ == 0)
    if (auto begun = begin(message); !begun) return begun;
  if (message.flow != device_)
    return fail(Status::corrupt, fmt::format("mirror {}: a message of device {:#x}, expected {:#x}", path_,
                                             message.flow, device_));
  const auto number = message.stamp - 1;
  if (number != next_ && number + 1 != next_)
    return fail(Status::corrupt, fmt::format("mirror {}: change {}, expected {}", path_, number, next_));
  if (message.length > device_bytes_ || message.position > device_bytes_ - message.length)
    return fail(Status::corrupt, fmt::format("mirror {}: {} bytes at {}, the device has {}", path_,
                                             message.length, message.position, device_bytes_));
  if (message.kind == MessageKind::write && delivery.bytes.size() != message.length)
    return fail(Status::corrupt, fmt::format("mirror {}: change {} has {} bytes, expected {}", path_, number,
                                             delivery.bytes.size(), message.length));
  Expected<void> done;
  if (message.kind == MessageKind::write) {
    done = write(message, delivery.bytes);
  } else if (message.kind == MessageKind::zeroes) {
    done = zero(message);
  } else {
    if (::fdatasync(file_.get()) != 0) return failed("fdatasync");
    ++counters_.flushes;
  }
  return done ? note(number + 1) : done;
}

Expected<void> Mirror::write(const Message& message, std::span<const std::byte> bytes) {
  for (auto at = static_cast<off_t>(message.position); !bytes.empty();) {
    const auto written = ::pwrite(file_.get(), bytes.data(), bytes.size(), at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("write");
    at += written;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  ++counters_.writes;
  counters_.bytes += message.length;
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
