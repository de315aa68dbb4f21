#include "ublk/control.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace sluice {

namespace {

using namespace ublk_abi;

// Longer than what is done with the lock may take: a node to appear, a dead server to be gone.
constexpr auto lock_wait = std::chrono::seconds(60);

std::string kernel_release() {
  utsname names{};
  return uname(&names) == 0 ? names.release : "?";
}

std::unexpected<Error> no_driver(const std::string& node) {
  std::error_code ignored;
  if (std::filesystem::exists("/sys/module/ublk_drv", ignored))
    return fail(
        Status::not_found,
        fmt::format("{} is missing, although the module ublk_drv is loaded: devtmpfs is not mounted on /dev",
                    node),
        ENOENT);
  return fail(
      Status::not_found,
      fmt::format("{} is missing, kernel {} has no ublk driver loaded: modprobe ublk_drv, or a kernel of "
                  "Linux 6.0 or newer with CONFIG_BLK_DEV_UBLK",
                  node, kernel_release()),
      ENOENT);
}

}  // namespace

std::optional<pid_t> ublk_server_parent(const DeviceInfo& info) {
  if (info.server_pid <= 0) return std::nullopt;
  // "pid (name) state parent …", and the name may have anything in it. Further on, the size of its memory: a process that
  // is ending has none left when its files are closed and its locks are free.
  constexpr int fields_between = 18;
  std::ifstream file(fmt::format("/proc/{}/stat", info.server_pid));
  std::string stat;
  std::getline(file, stat);
  const auto name_end = stat.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  char state = 'X';
  pid_t parent = 0;
  std::uint64_t memory_bytes = 0;
  std::istringstream fields(stat.substr(name_end + 1));
  fields >> state >> parent;
  std::string skipped;
  for (int i = 0; i < fields_between; ++i) fields >> skipped;
  fields >> memory_bytes;
  if (state == 'Z' || state == 'X' || memory_bytes == 0) return std::nullopt;
  return parent;
}

bool ublk_server_runs(const DeviceInfo& info) { return ublk_server_parent(info).has_value(); }

std::string_view ublk_state_name(std::uint16_t state) noexcept {
  switch (state) {
    case state_dead: return "dead";
    case state_live: return "live";
    case state_quiesced: return "quiesced";
    case state_fail_io: return "fail-io";
    default: return "unknown";
  }
}

Expected<UblkControl> UblkControl::open(const std::string& node) {
  UblkControl control;
  control.node_ = UniqueFd(::open(node.c_str(), O_RDWR | O_CLOEXEC));
  if (!control.node_) {
    if (errno == ENOENT || errno == ENXIO || errno == ENODEV) return no_driver(node);
    return fail_errno("open " + node);
  }
  auto ring = Ring::open(4, 8, IORING_SETUP_SQE128);
  if (!ring) return std::unexpected(std::move(ring.error()));
  control.ring_ = std::move(*ring);
  if (!control.ring_->supports(IORING_OP_URING_CMD))
    return fail(Status::io_error, "io_uring: this kernel has no device commands (Linux 5.19)", ENOSYS);

  // The question itself has the new kind of opcode: who does not know it is asked in the old kind from then on.
  control.knows_features_ = true;
  const auto asked =
      control.run(Control::get_features,
                  {.id = any_device, .memory = &control.features_, .bytes = features_bytes, .data = 0});
  if (!asked) return std::unexpected(asked.error());
  if (*asked < 0) {
    control.knows_features_ = false;
    control.features_ = 0;
    if (*asked == -EPERM || *asked == -EACCES)
      return fail(Status::permission, node + ": not permitted, ublk commands need CAP_SYS_ADMIN", EPERM);
  }
  return control;
}

// The driver's result, 0 or -errno. An Error: the ring itself failed.
Expected<int> UblkControl::run(Control command, const Arguments& arguments) {
  io_uring_sqe* sqe = ring_->next(0);
  if (sqe == nullptr) return fail(Status::io_error, "io_uring: no entry for a ublk command", EBUSY);
  ControlCommand body{};
  body.device_id = arguments.id;
  body.queue_id = no_queue;
  body.length = arguments.bytes;
  body.address = reinterpret_cast<std::uint64_t>(arguments.memory);
  body.data = arguments.data;
  auto* bytes = reinterpret_cast<std::byte*>(sqe);
  std::memset(bytes, 0, 128);
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = node_.get();
  sqe->cmd_op = knows_features_ ? encoded(command) : static_cast<std::uint32_t>(command);
  std::memcpy(bytes + command_offset, &body, sizeof body);
  for (;;) {
    const Status waited = ring_->wait(std::chrono::seconds(1));
    if (waited == Status::io_error) return fail_errno("io_uring_enter", ring_->errno_value());
    const auto completions = ring_->completions();
    if (completions.empty()) continue;
    const int result = completions.front()->res;
    ring_->advance(completions.size());
    return result;
  }
}

Expected<void> UblkControl::run_on(std::uint32_t id, Control command, std::string_view what,
                                   Arguments arguments) {
  arguments.id = id;
  const auto result = run(command, arguments);
  if (!result) return std::unexpected(result.error());
  switch (-*result) {
    case 0: return {};
    case ENODEV: return fail(Status::not_found, fmt::format("ublk device {}: there is none", id), ENODEV);
    case EBUSY:
      return fail(Status::busy, fmt::format("ublk device {}: {}: its server is still there", id, what),
                  EBUSY);
    case EPERM:
      return fail(Status::permission,
                  fmt::format("ublk device {}: {}: not permitted, this needs CAP_SYS_ADMIN", id, what),
                  EPERM);
    default: return fail_errno(fmt::format("ublk device {}: {}", id, what), -*result);
  }
}

Expected<DeviceInfo> UblkControl::add(const DeviceInfo& wanted) {
  DeviceInfo info = wanted;
  const auto result =
      run(Control::add_device, {.id = wanted.device_id, .memory = &info, .bytes = sizeof info, .data = 0});
  if (!result) return std::unexpected(result.error());
  if (*result == 0) return info;
  if (*result == -EEXIST)
    return fail(Status::exists, fmt::format("ublk device {}: the id is in use", wanted.device_id), EEXIST);
  if (*result == -EPERM)
    return fail(Status::permission, "add a ublk device: not permitted, this needs CAP_SYS_ADMIN", EPERM);
  return fail_errno("add a ublk device", -*result);
}

Expected<void> UblkControl::set_params(std::uint32_t id, Params params) {
  params.length = sizeof params;
  return run_on(id, Control::set_params, "set parameters", {.memory = &params, .bytes = sizeof params});
}

Expected<Params> UblkControl::params(std::uint32_t id) {
  Params params{};
  params.length = sizeof params;
  if (auto done =
          run_on(id, Control::get_params, "get parameters", {.memory = &params, .bytes = sizeof params});
      !done)
    return std::unexpected(std::move(done.error()));
  return params;
}

Expected<DeviceInfo> UblkControl::info(std::uint32_t id) {
  DeviceInfo info{};
  if (auto done =
          run_on(id, Control::get_device_info, "get information", {.memory = &info, .bytes = sizeof info});
      !done)
    return std::unexpected(std::move(done.error()));
  return info;
}

Expected<cpu_set_t> UblkControl::affinity(std::uint32_t id, std::uint16_t queue) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (auto done = run_on(id, Control::get_queue_affinity, fmt::format("get the CPUs of queue {}", queue),
                         {.memory = &cpus, .bytes = sizeof cpus, .data = queue});
      !done)
    return std::unexpected(std::move(done.error()));
  return cpus;
}

Expected<void> UblkControl::start(std::uint32_t id) {
  return run_on(id, Control::start_device, "start", {.data = static_cast<std::uint64_t>(::getpid())});
}

Expected<void> UblkControl::stop(std::uint32_t id) { return run_on(id, Control::stop_device, "stop", {}); }

Expected<void> UblkControl::remove(std::uint32_t id) {
  return run_on(id, Control::delete_device, "delete", {});
}

Expected<void> UblkControl::start_recovery(std::uint32_t id) {
  return run_on(id, Control::start_recovery, "start recovery", {});
}

Expected<void> UblkControl::end_recovery(std::uint32_t id) {
  return run_on(id, Control::end_recovery, "end recovery", {.data = static_cast<std::uint64_t>(::getpid())});
}

UblkControl::Lock::~Lock() {
  if (fd_ >= 0) ::flock(fd_, LOCK_UN);
}

Expected<UblkControl::Lock> UblkControl::lock() const {
  const auto give_up = std::chrono::steady_clock::now() + lock_wait;
  while (::flock(node_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno("flock /dev/ublk-control");
    if (std::chrono::steady_clock::now() > give_up)
      return fail(Status::busy, "/dev/ublk-control: another process has it locked", EBUSY);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return Lock(node_.get());
}

std::vector<std::uint32_t> UblkControl::ids() {
  // The driver has no command that lists devices; each has a directory here from add() to remove().
  constexpr std::string_view prefix = "ublkc";
  std::vector<std::uint32_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/ublk-char", error)) {
    const auto name = entry.path().filename().string();
    std::uint32_t id = 0;
    if (!name.starts_with(prefix)) continue;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + prefix.size(), end, id);
    if (parsed.ec == std::errc{} && parsed.ptr == end) found.push_back(id);
  }
  std::ranges::sort(found);
  return found;
}

}  // namespace sluice
