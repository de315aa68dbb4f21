// One queue of the driver, as its server sees it: everything that UblkQueue asks of the kernel. RingDriverQueue is the
// kernel, over an io_uring; tests put a model of the driver here.
//
//   fetch(tag) ──> [the driver has the tag] ──request──> event(tag) ──> descriptor(tag), data
//                        ^                                                    │
//                        └─────────── commit(tag, result) <── the target ─────┘
//
// Thread safety: the queue's thread, except wake().
#pragma once

#include "shm/status.hpp"
#include "ublk/ublk_abi.hpp"

#include <liburing.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <sys/types.h>
#include <sys/uio.h>

namespace sluice {

struct DriverEvent {
  enum class Kind : std::uint8_t {
    tag,     // of fetch() or commit(): 0 is a request, -ENODEV the device stops, else it was refused
    target,  // of prepare()
    wake,    // somebody called wake()
    // Zero copy, the number is the tag:
    registered,    // of register_data(), only if it failed
    transfer,      // of prepare_transfer()
    unregistered,  // of unregister_data()
  };
  Kind kind = Kind::tag;
  std::uint32_t number = 0;  // the tag, or the target's cookie
  std::int32_t result = 0;
  std::uint32_t flags = 0;  // IORING_CQE_F_…
};

class DriverQueue {
 public:
  DriverQueue() = default;
  DriverQueue(const DriverQueue&) = delete;
  DriverQueue& operator=(const DriverQueue&) = delete;
  virtual ~DriverQueue() = default;

  /// Give the tag to the driver for the first time, or back to it with the result of its request. Both take effect
  /// with the next wait(). `address` is the tag's buffer in copy mode, 0 with user copy.
  /// returns  false: no entry is free, and the kernel takes none now
  virtual bool fetch(std::uint16_t tag, std::uint64_t address) noexcept = 0;
  virtual bool commit(std::uint16_t tag, std::int32_t result, std::uint64_t address) noexcept = 0;

  /// An entry for the target's own I/O, cleared; its completion is an event with that cookie. Null as above.
  virtual io_uring_sqe* prepare(std::uint32_t cookie) noexcept = 0;

  /// Hand over everything prepared in one system call, and wait for an event.
  /// returns  ok; timeout; interrupted; io_error  see errno_value()
  virtual Status wait(std::chrono::nanoseconds timeout) noexcept = 0;
  virtual int errno_value() const noexcept = 0;
  /// Such system calls so far; a wait for events that are there already and with nothing to hand over needs none.
  virtual std::uint64_t enters() const noexcept = 0;

  /// Events that are there, at most a batch; valid until the next events() or wait().
  virtual std::span<const DriverEvent> events() noexcept = 0;

  /// A copy of the tag's descriptor; nullopt for a tag that the queue does not have.
  virtual std::optional<ublk_abi::Descriptor> descriptor(std::uint16_t tag) const noexcept = 0;

  /// User copy: move data between the request of `tag`, from byte `offset` of it, and memory.
  /// returns  bytes moved, or -errno
  virtual ssize_t read_data(std::uint16_t tag, std::uint32_t offset, std::span<std::byte> to) noexcept = 0;
  virtual ssize_t write_data(std::uint16_t tag, std::uint32_t offset,
                             std::span<const std::byte> from) noexcept = 0;

  /// The same for several pieces of memory, in their order; not necessarily all of them.
  virtual ssize_t read_pieces(std::uint16_t tag, std::uint32_t offset, std::span<const iovec> to) noexcept;
  virtual ssize_t write_pieces(std::uint16_t tag, std::uint32_t offset, std::span<const iovec> from) noexcept;

  /// Zero copy: three entries that belong together, each executed behind the one before it, whatever became of that.
  /// The request's pages become buffer `tag` of the ring, an entry of the target uses them, and they are given back.
  /// The first makes sure that there is room for all.
  /// returns  false, null: no entry is free, or the queue has no zero copy
  virtual bool register_data(std::uint16_t /*tag*/) noexcept { return false; }
  virtual io_uring_sqe* prepare_transfer(std::uint16_t /*tag*/) noexcept { return nullptr; }
  virtual bool unregister_data(std::uint16_t /*tag*/) noexcept { return false; }

  /// End a wait(), from any thread.
  virtual void wake() noexcept = 0;
};

inline std::span<std::byte> bytes_of(const iovec& piece) noexcept {
  return {static_cast<std::byte*>(piece.iov_base), piece.iov_len};
}

inline ssize_t DriverQueue::read_pieces(std::uint16_t tag, std::uint32_t offset,
                                        std::span<const iovec> to) noexcept {
  return to.empty() ? 0 : read_data(tag, offset, bytes_of(to.front()));
}

inline ssize_t DriverQueue::write_pieces(std::uint16_t tag, std::uint32_t offset,
                                         std::span<const iovec> from) noexcept {
  return from.empty() ? 0 : write_data(tag, offset, bytes_of(from.front()));
}

}  // namespace sluice
