#include "ublk/ring_driver_queue.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace sluice {

namespace {

using namespace ublk_abi;

// user_data: kind:32 | number:32
constexpr std::uint64_t user_data(DriverEvent::Kind kind, std::uint32_t number) noexcept {
  return static_cast<std::uint64_t>(kind) << 32 | number;
}

}  // namespace

Expected<std::unique_ptr<RingDriverQueue>> RingDriverQueue::open(int device_fd, std::uint16_t queue,
                                                                 std::uint16_t depth, bool encoded,
                                                                 bool zero_copy) {
  auto descriptors = DescriptorMap::open(device_fd, queue, depth);
  if (!descriptors) return std::unexpected(std::move(descriptors.error()));
  UniqueFd waker(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!waker) return fail_errno("eventfd");
  // Between two waits a tag prepares at most its commit and one entry of the target, which zero copy puts between two
  // of ours; and the waker's.
  const auto entries = std::bit_ceil((zero_copy ? 4U : 2U) * depth + 2);
  auto ring = Ring::open(entries, 2 * entries);
  if (!ring) return std::unexpected(std::move(ring.error()));
  if (const int error = zero_copy ? -io_uring_register_buffers_sparse((*ring)->raw(), depth) : 0; error != 0)
    return fail_errno(fmt::format("io_uring: a table of {} registered buffers", depth), error);
  return std::unique_ptr<RingDriverQueue>(new RingDriverQueue(
      device_fd, queue, encoded, std::move(*descriptors), std::move(*ring), std::move(waker)));
}

RingDriverQueue::RingDriverQueue(int device_fd, std::uint16_t queue, bool encoded, DescriptorMap descriptors,
                                 std::unique_ptr<Ring> ring, UniqueFd waker) noexcept
    : device_fd_(device_fd),
      queue_(queue),
      encoded_(encoded),
      descriptors_(std::move(descriptors)),
      waker_(std::move(waker)),
      ring_(std::move(ring)) {}

io_uring_sqe* RingDriverQueue::command(Data command, DriverEvent::Kind kind, std::uint16_t tag,
                                       std::int32_t result, std::uint64_t address) noexcept {
  io_uring_sqe* sqe = ring_->next(user_data(kind, tag));
  if (sqe == nullptr) return nullptr;
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = device_fd_;
  sqe->off = 0;  // its halves are the opcode and padding
  sqe->cmd_op = encoded_ ? encoded(command) : static_cast<std::uint32_t>(command);
  const DataCommand body{.queue_id = queue_, .tag = tag, .result = result, .address = address};
  std::memcpy(reinterpret_cast<std::byte*>(sqe) + command_offset, &body, sizeof body);
  return sqe;
}

bool RingDriverQueue::fetch(std::uint16_t tag, std::uint64_t address) noexcept {
  return command(Data::fetch, DriverEvent::Kind::tag, tag, -1, address) != nullptr;
}

bool RingDriverQueue::commit(std::uint16_t tag, std::int32_t result, std::uint64_t address) noexcept {
  return command(Data::commit_and_fetch, DriverEvent::Kind::tag, tag, result, address) != nullptr;
}

io_uring_sqe* RingDriverQueue::prepare(std::uint32_t cookie) noexcept {
  return ring_->next(user_data(DriverEvent::Kind::target, cookie));
}

// Hard links go on when what is before them fails or moves less than it should: the pages are always given back.
bool RingDriverQueue::register_data(std::uint16_t tag) noexcept {
  if (!ring_->reserve(3)) return false;
  io_uring_sqe* sqe = command(Data::register_buffer, DriverEvent::Kind::registered, tag, 0, tag);
  if (sqe == nullptr) return false;
  sqe->flags |= IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS;
  return true;
}

io_uring_sqe* RingDriverQueue::prepare_transfer(std::uint16_t tag) noexcept {
  return ring_->next(user_data(DriverEvent::Kind::transfer, tag));
}

bool RingDriverQueue::unregister_data(std::uint16_t tag) noexcept {
  return command(Data::unregister_buffer, DriverEvent::Kind::unregistered, tag, 0, tag) != nullptr;
}

void RingDriverQueue::arm_waker() noexcept {
  if (waker_armed_) return;
  io_uring_sqe* sqe = ring_->next(user_data(DriverEvent::Kind::wake, 0));
  if (sqe == nullptr) return;
  io_uring_prep_poll_add(sqe, waker_.get(), POLLIN);
  waker_armed_ = true;
}

Status RingDriverQueue::wait(std::chrono::nanoseconds timeout) noexcept {
  arm_waker();
  return ring_->wait(timeout);
}

std::span<const DriverEvent> RingDriverQueue::events() noexcept {
  const auto completions = ring_->completions();
  const auto count = std::min(completions.size(), batch_max);
  for (std::size_t i = 0; i < count; ++i) {
    const io_uring_cqe& completion = *completions[i];
    batch_[i] = {.kind = static_cast<DriverEvent::Kind>(completion.user_data >> 32),
                 .number = static_cast<std::uint32_t>(completion.user_data),
                 .result = completion.res,
                 .flags = completion.flags};
    if (batch_[i].kind == DriverEvent::Kind::wake) {
      waker_armed_ = false;
      std::uint64_t count_of_wakes = 0;
      [[maybe_unused]] const auto ignored = ::read(waker_.get(), &count_of_wakes, sizeof count_of_wakes);
    }
  }
  ring_->advance(count);
  return {batch_.data(), count};
}

ssize_t RingDriverQueue::read_data(std::uint16_t tag, std::uint32_t offset,
                                   std::span<std::byte> to) noexcept {
  const auto moved =
      ::pread(device_fd_, to.data(), to.size(), static_cast<off_t>(data_position(queue_, tag, offset)));
  return moved < 0 ? -errno : moved;
}

ssize_t RingDriverQueue::write_data(std::uint16_t tag, std::uint32_t offset,
                                    std::span<const std::byte> from) noexcept {
  const auto moved =
      ::pwrite(device_fd_, from.data(), from.size(), static_cast<off_t>(data_position(queue_, tag, offset)));
  return moved < 0 ? -errno : moved;
}

ssize_t RingDriverQueue::read_pieces(std::uint16_t tag, std::uint32_t offset,
                                     std::span<const iovec> to) noexcept {
  const auto moved = ::preadv(device_fd_, to.data(), static_cast<int>(to.size()),
                              static_cast<off_t>(data_position(queue_, tag, offset)));
  return moved < 0 ? -errno : moved;
}

ssize_t RingDriverQueue::write_pieces(std::uint16_t tag, std::uint32_t offset,
                                      std::span<const iovec> from) noexcept {
  const auto moved = ::pwritev(device_fd_, from.data(), static_cast<int>(from.size()),
                               static_cast<off_t>(data_position(queue_, tag, offset)));
  return moved < 0 ? -errno : moved;
}

void RingDriverQueue::wake() noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto ignored = ::write(waker_.get(), &one, sizeof one);  // full: it wakes anyway
}

}  // namespace sluice
