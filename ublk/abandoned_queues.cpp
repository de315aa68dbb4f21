#include "ublk/abandoned_queues.hpp"

#include "runtime/ring.hpp"
#include "runtime/unique_fd.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include <fcntl.h>

namespace sluice {

namespace {

using namespace ublk_abi;

// In copy mode a tag needs an address. No request comes before a recovery has ended, so nothing is ever moved there.
constexpr std::uint64_t some_address = 4096;

// One entry for each tag, all in one system call: a SIGKILL finds a queue fetched or untouched.
Expected<void> fetch_queue(int device_fd, const DeviceInfo& info, std::uint16_t queue) {
  auto ring = Ring::open(info.depth, 2U * info.depth);
  if (!ring) return std::unexpected(std::move(ring.error()));
  for (std::uint16_t tag = 0; tag < info.depth; ++tag) {
    io_uring_sqe* sqe = (*ring)->next(tag);
    if (sqe == nullptr) return fail(Status::io_error, "io_uring: no entry for a ublk command", EBUSY);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = device_fd;
    sqe->off = 0;
    const bool bare = (info.flags & f_encoded_opcodes) == 0;
    sqe->cmd_op = bare ? static_cast<std::uint32_t>(Data::fetch) : encoded(Data::fetch);
    const DataCommand body{.queue_id = queue,
                           .tag = tag,
                           .result = -1,
                           .address = (info.flags & f_user_copy) != 0 ? 0 : some_address};
    std::memcpy(reinterpret_cast<std::byte*>(sqe) + command_offset, &body, sizeof body);
  }
  // A refusal is a completion, and of no interest; a tag that was fetched has none.
  if ((*ring)->wait(std::chrono::nanoseconds(1)) == Status::io_error)
    return fail_errno("io_uring_enter", (*ring)->errno_value());
  return {};
}

}  // namespace

Expected<void> fetch_and_abandon(const DeviceInfo& info, std::uint16_t queues) {
  const auto path = fmt::format("/dev/ublkc{}", info.device_id);
  const UniqueFd device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!device && errno == EBUSY)
    return fail(Status::busy, fmt::format("open {}: another server has it", path), EBUSY);
  if (!device) return fail_errno("open " + path);
  Expected<void> result;
  std::thread([&] {
    for (std::uint16_t queue = 0; queue < queues && result; ++queue)
      result = fetch_queue(device.get(), info, queue);
  }).join();
  return result;
}

}  // namespace sluice
