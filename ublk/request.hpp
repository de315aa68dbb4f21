// One request of a block device, from its event to its commit. A target sees only this.
//
// Thread safety: the queue's thread, except take_data() and give_data() with user copy, which any thread may call
// while the request is not finished.
#pragma once

#include "ublk/ublk_abi.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace sluice {

class UblkQueue;

inline constexpr std::size_t zeroes_bytes = 64 * 1024;
/// So many zeroes, page-aligned, for whoever gives them away.
std::span<const std::byte> zeroes() noexcept;

class Request {
 public:
  using Operation = ublk_abi::Operation;

  Operation operation() const noexcept { return operation_; }
  /// The place on the device; both are multiples of its block size. Zero bytes with flush.
  std::uint64_t offset() const noexcept { return offset_; }
  std::uint32_t bytes() const noexcept { return bytes_; }
  /// A write must be durable before it is finished.
  bool fua() const noexcept { return (flags_ & ublk_abi::io_flag_fua) != 0; }
  /// Write-zeroes only: the blocks must stay allocated.
  bool keep_allocated() const noexcept { return (flags_ & ublk_abi::io_flag_no_unmap) != 0; }
  /// Below the queue's depth; no other request has it at the same time.
  std::uint16_t tag() const noexcept { return tag_; }

  /// Copy the data of a write, from byte `at` of the request, to memory of the target. One copy, in the kernel with
  /// user copy.
  /// returns  0, or an errno for finish(): EINVAL not a write, or beyond its bytes; EIO the kernel gave less
  int take_data(std::uint32_t at, std::span<std::byte> to) noexcept;

  /// The same into several pieces of memory, in their order: still one copy, and with user copy one system call.
  int take_data(std::uint32_t at, std::span<const iovec> to) noexcept;

  /// Copy memory of the target into a read, from byte `at` of it. The same rules.
  int give_data(std::uint32_t at, std::span<const std::byte> from) noexcept;
  int give_data(std::uint32_t at, std::span<const iovec> from) noexcept;
  /// The same with zeroes.
  int give_zeroes(std::uint32_t at, std::uint32_t count) noexcept;

  /// Memory of the tag's own, page-aligned, at least bytes() long: for targets that need a place for the data, and in
  /// copy mode where the data is. Empty with user copy when the target does not use buffers, and with zero copy.
  /// take_data() and give_data() of this memory itself copy nothing in copy mode.
  std::span<std::byte> buffer() const noexcept { return buffer_.first(buffer_.empty() ? 0 : bytes_); }

  /// The end of it, once: 0, or an errno (EIO, ENOSPC, …; never negative). The request is over.
  void finish(int errno_value) noexcept;

 private:
  friend class UblkQueue;

  template <class All, class One>
  int in_pieces(std::uint32_t at, std::span<const iovec> pieces, Operation wanted, All all, One one) noexcept;

  UblkQueue* queue_ = nullptr;
  std::span<std::byte> buffer_;
  std::uint64_t offset_ = 0;
  std::uint32_t bytes_ = 0;
  std::uint32_t flags_ = 0;
  Operation operation_ = Operation::read;
  std::uint16_t tag_ = 0;
  std::uint32_t copy_calls_ = 0;  // of one thread at a time; those of two at once may count as one
  // Zero copy: what the target's transfer has come to, and what of it is still to come.
  std::uint32_t transfer_cookie_ = 0;
  std::int32_t transfer_result_ = 0;
  std::uint8_t transfer_pending_ = 0;  // completions; the pages are lent as long
  bool transfer_failed_ = false;       // with that result, whatever follows
  bool ended_ = false;                 // finished meanwhile: the commit waits
  int end_errno_ = 0;
  bool open_ = false;  // with the target
};

}  // namespace sluice
