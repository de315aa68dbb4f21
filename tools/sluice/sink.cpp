#include "tools/sluice/sink.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

constexpr mode_t file_mode = 0666;                          // less the umask
constexpr std::uint64_t flow_max = std::uint64_t{1} << 53;  // a larger number in a name is not one of ours

std::string final_name(std::uint64_t flow) { return fmt::format("{}.bin", flow); }
std::string aborted_name(std::uint64_t flow) { return fmt::format("{}.bin.aborted", flow); }

// The number that a file's name begins with, if a dot follows it.
std::optional<std::uint64_t> flow_of(std::string_view name) {
  std::uint64_t flow = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), flow);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.' || flow >= flow_max)
    return std::nullopt;
  return flow;
}

// Call `visit` with each name in the directory. A new descriptor each time: it has its own position.
template <class Visit>
int for_each_name(int directory_fd, Visit&& visit) {
  const int fd = ::openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(fd), ::closedir);
  if (directory == nullptr) {
    const int error = errno;
    ::close(fd);
    return error;
  }
  errno = 0;
  while (const auto* entry = ::readdir(directory.get())) visit(std::string_view(entry->d_name));
  return errno;
}

// rename without replacing, also where the file system cannot do that in one step.
int rename_new(int directory_fd, const std::string& from, const std::string& to) {
  if (::renameat2(directory_fd, from.c_str(), directory_fd, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL) return errno;
  if (::faccessat(directory_fd, to.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) return EEXIST;
  return ::renameat(directory_fd, from.c_str(), directory_fd, to.c_str()) == 0 ? 0 : errno;
}

}  // namespace

// ---- opening ------------------------------------------------------------------------------------------

FlowSink::FlowSink(std::string directory, std::string_view stream, UniqueFd fd, std::size_t open_files_max)
    : directory_(std::move(directory)),
      part_suffix_(fmt::format(".{}.part", stream)),
      directory_fd_(std::move(fd)),
      open_files_max_(std::max<std::size_t>(open_files_max, 1)) {}

Expected<FlowSink> FlowSink::open(const std::string& directory, std::string_view stream,
                                  std::size_t open_files_max) {
  if (stream.empty() || stream.find('/') != std::string_view::npos)
    return fail(Status::bad_argument, fmt::format("stream '{}' cannot be part of a file name", stream));
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return fail_errno(fmt::format("sink {}", directory));
  return FlowSink(directory, stream, std::move(fd), open_files_max);
}

std::string FlowSink::part_name(std::uint64_t flow) const { return fmt::format("{}{}", flow, part_suffix_); }

std::unexpected<Error> FlowSink::failed(std::string_view what, const std::string& name, int error) const {
  return fail_errno(fmt::format("sink: {} {}/{}", what, directory_, name), error);
}

bool FlowSink::present(const std::string& name) const noexcept {
  return ::faccessat(directory_fd_.get(), name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

// ---- messages -----------------------------------------------------------------------------------------

Expected<void> FlowSink::handle(const Delivery& delivery) {
  const auto& message = delivery.message;
  switch (message.kind) {
    case MessageKind::open: {
      if (auto file = file_of(message.flow, delivery.redelivered); !file)
        return std::unexpected(file.error());
      return {};
    }
    case MessageKind::data:
      return write(message.flow, delivery.bytes, message.position, delivery.redelivered);
    case MessageKind::close: return end(message.flow, Ending::closed, message.position, delivery.redelivered);
    case MessageKind::abort:
      return end(message.flow, Ending::aborted, message.position, delivery.redelivered);
    case MessageKind::restart: return abort_below(message.flow);
    case MessageKind::write:
    case MessageKind::zeroes:
    case MessageKind::flush:
    case MessageKind::none:
    case MessageKind::user: break;
  }
  return fail(Status::corrupt, fmt::format("sink: flow {}: a message of kind {}, which a sink does not know",
                                           message.flow, static_cast<unsigned>(message.kind)));
}

Expected<void> FlowSink::write(std::uint64_t flow, std::span<const std::byte> bytes, std::uint64_t position,
                               bool redelivered) {
  const auto file = file_of(flow, redelivered);
  if (!file) return std::unexpected(file.error());
  // Behind a gap nothing is written: the file stays a beginning of the flow, and its end tells that it is not whole.
  auto& end = open_files_.find(flow)->second.end;
  if (position > end) return {};
  end = std::max(end, position + bytes.size());
  while (!bytes.empty()) {
    const auto put = ::pwrite(*file, bytes.data(), bytes.size(), static_cast<off_t>(position));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return failed("write", part_name(flow), errno);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    position += static_cast<std::uint64_t>(put);
  }
  return {};
}

// The part becomes the file under its last name. Missing, it was renamed before its message was acknowledged.
Expected<void> FlowSink::end(std::uint64_t flow, Ending ending, std::uint64_t bytes, bool redelivered) {
  if (auto forgotten = forget(flow); !forgotten) return forgotten;
  const auto part = part_name(flow);
  if (redelivered && !present(part) && (present(final_name(flow)) || present(aborted_name(flow)))) return {};

  struct stat info{};
  const bool found = ::fstatat(directory_fd_.get(), part.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
  if (!found && errno != ENOENT) return failed("stat", part, errno);
  const bool whole = found && static_cast<std::uint64_t>(info.st_size) == bytes;
  // What was acknowledged earlier cannot be had again, so trying again would stop the stream for nothing.
  if (ending == Ending::closed && !whole) {
    fmt::print(
        stderr,
        "sink: flow {}: {}/{} has {} bytes, the flow had {}: a part never came, or somebody else changed it\n",
        flow, directory_, part, found ? info.st_size : 0, bytes);
    ++counters_.damaged;
    ending = Ending::aborted;
  }
  if (found) {
    const auto target = ending == Ending::closed ? final_name(flow) : aborted_name(flow);
    if (const int error = rename_new(directory_fd_.get(), part, target); error != 0)
      return failed(fmt::format("rename {} to", part), target, error);
  }
  ++(ending == Ending::closed ? counters_.closed : counters_.aborted);
  return {};
}

// The stream's earlier producer is gone: what it left open has no end to come.
Expected<void> FlowSink::abort_below(std::uint64_t flow) {
  std::vector<std::uint64_t> flows;
  const int error = for_each_name(directory_fd_.get(), [&](std::string_view name) {
    const auto number = flow_of(name);
    if (number && *number < flow && name == part_name(*number)) flows.push_back(*number);
  });
  if (error != 0) return failed("list", "", error);
  for (const auto number : flows)
    if (auto ended = end(number, Ending::aborted, 0, true); !ended) return ended;
  return {};
}

// ---- open files ---------------------------------------------------------------------------------------

Expected<int> FlowSink::file_of(std::uint64_t flow, bool redelivered) {
  if (const auto known = open_files_.find(flow); known != open_files_.end()) {
    known->second.used = ++clock_;
    return known->second.fd.get();
  }
  if (open_files_.size() >= open_files_max_)
    if (auto room = make_room(); !room) return std::unexpected(room.error());
  auto fd = open_file(flow, redelivered);
  if (!fd) return std::unexpected(fd.error());
  const int number = fd->get();
  struct stat info{};
  if (::fstat(number, &info) != 0) return failed("stat", part_name(flow), errno);
  open_files_.emplace(flow, OpenFile{std::move(*fd), ++clock_, static_cast<std::uint64_t>(info.st_size)});
  return number;
}

int FlowSink::open_name(const std::string& name, int flags) noexcept {
  for (;;) {
    const int fd =
        ::openat(directory_fd_.get(), name.c_str(), flags | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, file_mode);
    if (fd >= 0 || errno != EMFILE || open_files_.empty() || !make_room()) return fd;
  }
}

Expected<UniqueFd> FlowSink::open_file(std::uint64_t flow, bool redelivered) {
  const auto part = part_name(flow);
  if (UniqueFd fd(open_name(part, 0)); fd) return fd;
  if (errno != ENOENT) return failed("open", part, errno);
  for (const auto& ended : {final_name(flow), aborted_name(flow)}) {
    if (!present(ended)) continue;
    if (!redelivered) return failed("create", ended, EEXIST);
    if (UniqueFd fd(open_name(ended, 0)); fd) return fd;
    return failed("open", ended, errno);
  }
  if (UniqueFd fd(open_name(part, O_CREAT | O_EXCL)); fd) return fd;
  return failed("create", part, errno);
}

Expected<void> FlowSink::forget(std::uint64_t flow) {
  const auto known = open_files_.find(flow);
  if (known == open_files_.end()) return {};
  const int error = known->second.fd.close();
  open_files_.erase(known);
  if (error != 0) return failed("close", part_name(flow), error);
  return {};
}

Expected<void> FlowSink::make_room() {
  const auto oldest =
      std::min_element(open_files_.begin(), open_files_.end(),
                       [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
  return oldest == open_files_.end() ? Expected<void>() : forget(oldest->first);
}

// ---- the directory ------------------------------------------------------------------------------------

Expected<SinkDirectory> prepare_sink(const std::string& directory) {
  std::error_code created;
  std::filesystem::create_directories(directory, created);
  if (created) return fail_errno(fmt::format("sink {}", directory), created.value());
  SinkDirectory result;
  result.lock.reset(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!result.lock) return fail_errno(fmt::format("sink {}", directory));
  if (::flock(result.lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return fail(Status::busy, fmt::format("sink {}: another pipeline writes there", directory));
    return fail_errno(fmt::format("sink {}: flock", directory));
  }
  const auto probe = fmt::format(".probe-{}", ::getpid());
  const UniqueFd file(
      ::openat(result.lock.get(), probe.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
  if (!file) return fail_errno(fmt::format("sink {}: not writable", directory));
  ::unlinkat(result.lock.get(), probe.c_str(), 0);
  const int error = for_each_name(result.lock.get(), [&](std::string_view name) {
    if (const auto flow = flow_of(name)) result.first_flow = std::max(result.first_flow, *flow + 1);
  });
  if (error != 0) return fail_errno(fmt::format("sink {}: list", directory), error);
  return result;
}

}  // namespace sluice::tools
