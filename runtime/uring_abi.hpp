// io_uring constants that are newer than Debian 12's liburing 2.3. Names are ours, values are the kernel's
// (include/uapi/linux/io_uring.h, include/uapi/linux/futex.h).
#pragma once

#include <liburing.h>

#include <cstdint>

namespace sluice::uring_abi {

inline constexpr std::uint8_t op_futex_wait = 51;    // 6.7
inline constexpr std::uint32_t futex2_size_u32 = 2;  // a 32-bit word; without 128 (PRIVATE) it is shared
inline constexpr std::uint64_t futex_match_any = 0xffffffff;     // FUTEX_BITSET_MATCH_ANY
inline constexpr std::uint16_t recvsend_bundle = 1U << 4;        // 6.10: one receive fills several buffers
inline constexpr std::uint32_t feat_recvsend_bundle = 1U << 14;  // params.features

inline constexpr unsigned cq_entries_max = 65536;  // IORING_MAX_CQ_ENTRIES
inline constexpr std::uint32_t buffer_ring_entries_max = 32768;

/// Wait until the 32-bit word at `word`, in memory shared between processes, is woken while it holds `value`.
inline void prep_futex_wait(io_uring_sqe* sqe, const std::uint32_t* word, std::uint32_t value) noexcept {
  io_uring_prep_rw(op_futex_wait, sqe, static_cast<int>(futex2_size_u32), word, 0, value);
  sqe->addr3 = futex_match_any;
}

}  // namespace sluice::uring_abi
