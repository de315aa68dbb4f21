// A queue of the kernel's driver, over an io_uring of its own.
//
// Thread safety: opened, used and destroyed by the queue's thread, which then owns the queue in the driver's eyes;
// wake() from any.
#pragma once

#include "runtime/ring.hpp"
#include "runtime/unique_fd.hpp"
#include "ublk/descriptor_map.hpp"
#include "ublk/driver_queue.hpp"

#include <array>
#include <memory>

namespace sluice {

class RingDriverQueue final : public DriverQueue {
 public:
  /// device_fd  the character device, which must outlive this
  /// encoded    the device understands encoded opcodes
  /// zero_copy  the device has it: the ring gets a table for the pages of requests, by tag
  /// errors     those of Ring::open and DescriptorMap::open; io_error  the table
  static Expected<std::unique_ptr<RingDriverQueue>> open(int device_fd, std::uint16_t queue,
                                                         std::uint16_t depth, bool encoded, bool zero_copy);

  bool fetch(std::uint16_t tag, std::uint64_t address) noexcept override;
  bool commit(std::uint16_t tag, std::int32_t result, std::uint64_t address) noexcept override;
  io_uring_sqe* prepare(std::uint32_t cookie) noexcept override;
  Status wait(std::chrono::nanoseconds timeout) noexcept override;
  int errno_value() const noexcept override { return ring_->errno_value(); }
  std::uint64_t enters() const noexcept override { return ring_->enters(); }
  std::span<const DriverEvent> events() noexcept override;
  std::optional<ublk_abi::Descriptor> descriptor(std::uint16_t tag) const noexcept override {
    return descriptors_.read(tag);
  }
  ssize_t read_data(std::uint16_t tag, std::uint32_t offset, std::span<std::byte> to) noexcept override;
  ssize_t write_data(std::uint16_t tag, std::uint32_t offset,
                     std::span<const std::byte> from) noexcept override;
  ssize_t read_pieces(std::uint16_t tag, std::uint32_t offset, std::span<const iovec> to) noexcept override;
  ssize_t write_pieces(std::uint16_t tag, std::uint32_t offset,
                       std::span<const iovec> from) noexcept override;
  bool register_data(std::uint16_t tag) noexcept override;
  io_uring_sqe* prepare_transfer(std::uint16_t tag) noexcept override;
  bool unregister_data(std::uint16_t tag) noexcept override;
  void wake() noexcept override;

 private:
  static constexpr std::size_t batch_max = 256;

  RingDriverQueue(int device_fd, std::uint16_t queue, bool encoded, DescriptorMap descriptors,
                  std::unique_ptr<Ring> ring, UniqueFd waker) noexcept;
  io_uring_sqe* command(ublk_abi::Data command, DriverEvent::Kind kind, std::uint16_t tag,
                        std::int32_t result, std::uint64_t address) noexcept;
  void arm_waker() noexcept;

  int device_fd_;
  std::uint16_t queue_;
  bool encoded_;
  DescriptorMap descriptors_;  // before the ring: closed after it
  UniqueFd waker_;
  std::unique_ptr<Ring> ring_;
  bool waker_armed_ = false;
  std::array<DriverEvent, batch_max> batch_{};
};

}  // namespace sluice
