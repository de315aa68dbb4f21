#include "shm/sidecar.hpp"

#include "shm/descriptor.hpp"
#include "shm/fork.hpp"

#include <fmt/format.h>

#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace sluice {

namespace {

struct Registry {
  ForkMutex mutex;
  std::vector<SidecarFile> files;
};

Registry& registry() {
  static auto* instance = new Registry;  // outlives every static destructor: its descriptors never close
  return *instance;
}

constexpr std::uint64_t claim_byte = 1U << 20;  // above every row

// The process whose thread has a claim: the byte lock is the process's. What a child inherited is its parent's.
class ClaimHolder {
 public:
  bool try_take() {
    const std::lock_guard guard(mutex_);
    if (by_ == this_process()) return false;
    by_ = this_process();
    return true;
  }
  void give_up() {
    const std::lock_guard guard(mutex_);
    if (by_ == this_process()) by_ = {};
  }

 private:
  ForkMutex mutex_;
  ProcessToken by_;
};
ClaimHolder& claim_holder() {
  static auto* instance = new ClaimHolder;
  return *instance;
}

bool is_network_file_system(int fd) noexcept {
  struct statfs info{};
  if (fstatfs(fd, &info) != 0) return false;
  switch (static_cast<std::uint32_t>(info.f_type)) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case 0xFF534D42:  // CIFS
    case 0xFE534D42:  // SMB2
    case V9FS_MAGIC:
    case CEPH_SUPER_MAGIC:
    case AFS_SUPER_MAGIC: return true;
    default: return false;
  }
}

struct flock byte_lock(short type, std::uint64_t index) noexcept {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(index);
  lock.l_len = 1;
  return lock;
}

}  // namespace

std::string sidecar_path(const std::string& segment_path) { return segment_path + ".lock"; }

namespace {

// First without O_CREAT: in a directory like /tmp the kernel may refuse that even root for a file of another owner.
int open_or_create(const std::string& path, bool create, std::uint32_t mode) noexcept {
  constexpr int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  for (;;) {
    const int fd = ::open(path.c_str(), flags);
    if (fd >= 0 || errno != ENOENT || !create) return fd;
    const int made = ::open(path.c_str(), flags | O_CREAT | O_EXCL, mode);
    if (made >= 0) ::fchmod(made, mode);  // whatever the umask: who may write the segment may lock here
    if (made >= 0 || errno != EEXIST) return made;
  }
}

bool is_still(const SidecarFile& file) noexcept {
  struct stat info{};
  return ::fstat(file.fd, &info) == 0 && info.st_dev == file.device && info.st_ino == file.inode;
}

}  // namespace

std::optional<SidecarFile> known_sidecar(const std::string& path) {
  auto& all = registry();
  const std::lock_guard guard(all.mutex);
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  for (const auto& file : all.files)
    if (file.device == info.st_dev && file.inode == info.st_ino && is_still(file)) return file;
  return std::nullopt;
}

Expected<SidecarFile> open_sidecar(const std::string& path, bool create, std::uint32_t mode) {
  auto& all = registry();
  const std::lock_guard guard(all.mutex);
  struct stat info{};
  if (::stat(path.c_str(), &info) == 0) {
    // A descriptor that was closed behind our back, as daemons do, may be another file's by now.
    std::erase_if(all.files, [](const SidecarFile& file) { return !is_still(file); });
    for (const auto& file : all.files)
      if (file.device == info.st_dev && file.inode == info.st_ino) return file;
  }
  const int fd = above_standard(open_or_create(path, create, mode));
  if (fd < 0) return fail_errno(fmt::format("open {}", path));
  if (::fstat(fd, &info) != 0) return fail_errno(fmt::format("stat {}", path));
  if (!S_ISREG(info.st_mode))
    return fail(Status::incompatible,
                fmt::format("{}: not a regular file, cannot hold process locks: remove it", path));
  if (is_network_file_system(fd))
    return fail(Status::incompatible,
                fmt::format("{}: on a network file system, whose locks are no evidence of death", path));
  const SidecarFile file{fd, info.st_dev, info.st_ino};
  all.files.push_back(file);
  return file;
}

Expected<bool> lock_byte(int fd, std::uint64_t index) {
  auto lock = byte_lock(F_WRLCK, index);
  if (::fcntl(fd, F_SETLK, &lock) == 0) return true;
  if (errno == EACCES || errno == EAGAIN) return false;
  return fail_errno("fcntl(F_SETLK) on the sidecar");
}

void unlock_byte(int fd, std::uint64_t index) noexcept {
  auto lock = byte_lock(F_UNLCK, index);
  ::fcntl(fd, F_SETLK, &lock);
}

Expected<pid_t> byte_lock_holder(int fd, std::uint64_t index) {
  auto lock = byte_lock(F_WRLCK, index);
  if (::fcntl(fd, F_GETLK, &lock) != 0) return fail_errno("fcntl(F_GETLK) on the sidecar");
  if (lock.l_type == F_UNLCK) return pid_t{-1};
  return lock.l_pid > 0 ? lock.l_pid : pid_t{0};
}

Expected<SidecarClaim> SidecarClaim::take(int fd, const std::string& path) {
  using namespace std::chrono_literals;
  const auto deadline = std::chrono::steady_clock::now() + 5s;
  const auto busy = [&] {
    return fail(Status::busy, fmt::format("{}: another process has had its claim for 5 s", path));
  };
  for (;;) {
    if (claim_holder().try_take()) {
      const auto locked = lock_byte(fd, claim_byte);
      if (locked && *locked) return SidecarClaim(fd);
      claim_holder().give_up();
      if (!locked) return std::unexpected(locked.error());
    }
    if (std::chrono::steady_clock::now() > deadline) return busy();
    std::this_thread::sleep_for(1ms);
  }
}

SidecarClaim::~SidecarClaim() {
  if (fd_ < 0) return;
  unlock_byte(fd_, claim_byte);
  claim_holder().give_up();
}

}  // namespace sluice
