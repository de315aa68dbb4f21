#include "ublk/io_memory.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sluice {

namespace {

bool has_capability(int capability) noexcept {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[capability / 32].effective >> (capability % 32) & 1) != 0;
}

std::string kibibytes(rlim_t bytes) {
  return bytes == RLIM_INFINITY ? "unlimited" : fmt::format("{} KiB", bytes / 1024);
}

}  // namespace

Expected<IoMemory> IoMemory::map(std::size_t bytes, bool locked) {
  IoMemory memory;
  if (bytes == 0) return memory;
  void* mapped =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return fail_errno(fmt::format("map {} bytes of I/O memory", bytes));
  memory.bytes_ = {static_cast<std::byte*>(mapped), bytes};
  if (locked && ::mlock(mapped, bytes) != 0)
    return fail_errno(fmt::format("lock {} of I/O memory", kibibytes(bytes)));
  return memory;
}

IoMemory::IoMemory(IoMemory&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

IoMemory::~IoMemory() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

Expected<void> ensure_lockable(std::uint64_t bytes) {
  if (has_capability(CAP_IPC_LOCK)) return {};  // no limit applies
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return fail_errno("getrlimit RLIMIT_MEMLOCK");
  if (limit.rlim_cur >= bytes) return {};
  rlimit raised{.rlim_cur = bytes, .rlim_max = limit.rlim_max < bytes ? bytes : limit.rlim_max};
  if (::setrlimit(RLIMIT_MEMLOCK, &raised) == 0) return {};
  return fail(
      Status::exhausted,
      fmt::format("{} of I/O memory are to be locked, RLIMIT_MEMLOCK is {} (at most {}) and may not be "
                  "raised: ulimit -l, LimitMEMLOCK= or CAP_IPC_LOCK",
                  kibibytes(bytes), kibibytes(limit.rlim_cur), kibibytes(limit.rlim_max)),
      EPERM);
}

}  // namespace sluice
