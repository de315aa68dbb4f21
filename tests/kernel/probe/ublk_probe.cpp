// What the suite cannot do from a shell:
//   descriptors                   ask the driver about its maps
//   zero|punch DEVICE FROM BYTES  fallocate on a block device
//   fua DEVICE COUNT              so many direct writes of 4 KiB that must be durable
//   abandon ID                    add a device, and end
//   cut ID COUNT                  start to recover a device, fetch the tags of so many queues, and end
//   exit N                        end the virtual machine with 2 * N + 1, by its isa-debug-exit device: the guest's kernel
//                                 has no /dev/port
#include "ublk/abandoned_queues.hpp"
#include "ublk/control.hpp"
#include "ublk/descriptor_map.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <sys/io.h>
#endif

namespace sluice::test {

namespace {

int failures = 0;

void check(bool holds, std::string_view what) {
  fmt::print("{} {}\n", holds ? "ok  " : "FAIL", what);
  if (!holds) ++failures;
}

int map_errno(int fd, std::size_t bytes, int protection, std::uint64_t position) {
  void* mapped = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, static_cast<off_t>(position));
  if (mapped == MAP_FAILED) return errno;
  ::munmap(mapped, bytes);
  return 0;
}

void probe_maps(int fd, std::uint16_t queues, std::uint16_t depth) {
  const auto bytes = DescriptorMap::bytes(depth);
  for (std::uint16_t queue = 0; queue < queues; ++queue) {
    auto map = DescriptorMap::open(fd, queue, depth);
    check(map.has_value(), fmt::format("queue {}: its map opens", queue));
    if (!map) continue;
    check(map->read(0).has_value() && map->read(static_cast<std::uint16_t>(depth - 1)).has_value(),
          fmt::format("queue {}: first and last tag are there", queue));
    check(!map->read(depth) && !map->read(0xffff), fmt::format("queue {}: a tag beyond is not", queue));
    check(map_errno(fd, bytes, PROT_READ | PROT_WRITE, DescriptorMap::position(queue)) == EPERM,
          fmt::format("queue {}: never writable", queue));
    check(map_errno(fd, bytes + 4096, PROT_READ, DescriptorMap::position(queue)) == EINVAL,
          fmt::format("queue {}: a longer map is refused", queue));
  }
  check(!DescriptorMap::open(fd, queues, depth), "a queue that the device does not have is refused");
  check(!DescriptorMap::open(fd, 0, static_cast<std::uint16_t>(depth + 512)),
        "a depth of another length is refused");
}

Expected<void> descriptors() {
  auto control = UblkControl::open();
  if (!control) return std::unexpected(control.error());
  for (const auto depth : {std::uint16_t{1}, std::uint16_t{171}, std::uint16_t{4096}}) {
    ublk_abi::DeviceInfo wanted{};
    wanted.device_id = ublk_abi::any_device;
    wanted.queues = 2;
    wanted.depth = depth;
    wanted.io_bytes_max = 65536;
    wanted.server_pid = -1;
    auto info = control->add(wanted);
    if (!info) return std::unexpected(info.error());
    fmt::print("device {}: {} queues of depth {}\n", info->device_id, info->queues, info->depth);
    const auto path = fmt::format("/dev/ublkc{}", info->device_id);
    {
      const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      check(static_cast<bool>(fd), "the character device opens");
      check(::open(path.c_str(), O_RDWR | O_CLOEXEC) < 0 && errno == EBUSY, "but only once");
      if (fd) probe_maps(fd.get(), info->queues, info->depth);
    }
    if (auto removed = control->remove(info->device_id); !removed) return removed;
  }
  return {};
}

Expected<void> abandon(std::uint32_t id) {
  auto control = UblkControl::open();
  if (!control) return std::unexpected(control.error());
  ublk_abi::DeviceInfo wanted{};
  wanted.device_id = id;
  wanted.queues = 1;
  wanted.depth = 16;
  wanted.io_bytes_max = 65536;
  wanted.server_pid = -1;
  const auto added = control->add(wanted);
  if (!added) return std::unexpected(added.error());
  return {};
}

Expected<void> cut_recovery(std::uint32_t id, std::uint16_t queues) {
  auto control = UblkControl::open();
  if (!control) return std::unexpected(control.error());
  auto started = control->start_recovery(id);
  for (int i = 0; i < 100 && !started && started.error().status == Status::busy; ++i) {
    ::usleep(50'000);
    started = control->start_recovery(id);
  }
  if (!started) return started;
  const auto info = control->info(id);
  if (!info) return std::unexpected(info.error());
  return fetch_and_abandon(*info, queues);
}

Expected<void> fallocate_device(std::string_view how, const std::string& device, off_t from, off_t bytes) {
  const UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return fail_errno("open " + device);
  const int mode = how == "zero" ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
  if (::fallocate(fd.get(), mode | FALLOC_FL_KEEP_SIZE, from, bytes) != 0)
    return fail_errno("fallocate " + device);
  return {};
}

Expected<void> write_durably(const std::string& device, int count) {
  alignas(4096) static char block[4096] = "durable";
  const UniqueFd fd(::open(device.c_str(), O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC));
  if (!fd) return fail_errno("open " + device);
  for (int i = 0; i < count; ++i)
    if (::pwrite(fd.get(), block, sizeof block, static_cast<off_t>(i) * 4096) != 4096)
      return fail_errno("write " + device);
  return {};
}

}  // namespace

}  // namespace sluice::test

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
#if defined(__x86_64__)
  if (argc == 3 && what == "exit") {
    constexpr unsigned short port = 0xf4;
    if (::ioperm(port, 4, 1) != 0) return 1;
    ::outl(static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10)), port);
    return 1;  // the machine has no such device
  }
#endif
  using namespace sluice::test;
  sluice::Expected<void> done;
  if (argc == 2 && what == "descriptors") {
    done = descriptors();
  } else if (argc == 5 && (what == "zero" || what == "punch")) {
    done = fallocate_device(what, argv[2], std::atoll(argv[3]), std::atoll(argv[4]));
  } else if (argc == 3 && what == "abandon") {
    done = abandon(static_cast<std::uint32_t>(std::atoi(argv[2])));
  } else if (argc == 4 && what == "cut") {
    done = cut_recovery(static_cast<std::uint32_t>(std::atoi(argv[2])),
                        static_cast<std::uint16_t>(std::atoi(argv[3])));
  } else if (argc == 4 && what == "fua") {
    done = write_durably(argv[2], std::atoi(argv[3]));
  } else {
    std::fprintf(
        stderr,
        "usage: ublk_probe descriptors | zero|punch DEVICE FROM BYTES | fua DEVICE COUNT | abandon ID | cut ID COUNT | exit N\n");
    return 2;
  }
  if (!done) std::fprintf(stderr, "ublk_probe: %s\n", done.error().message.c_str());
  return done && failures == 0 ? 0 : 1;
}
