// Atomic access to words of the mapped file. Layout structs hold plain integers (they are bytes of a file);
// every concurrent access goes through these functions, so that a grep for a word finds all its orders.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <type_traits>

namespace sluice {

inline constexpr auto relaxed = std::memory_order_relaxed;
inline constexpr auto acquire = std::memory_order_acquire;
inline constexpr auto release = std::memory_order_release;
inline constexpr auto acq_rel = std::memory_order_acq_rel;
inline constexpr auto seq_cst = std::memory_order_seq_cst;

template <class T>
concept Word = (std::is_integral_v<T> || std::is_enum_v<T>) && std::atomic_ref<T>::is_always_lock_free;

template <Word T>
inline T load(const T& word, std::memory_order order) noexcept {
  // atomic_ref<const T> arrives with C++26; a lock-free load writes nothing, also in a read-only mapping.
  return std::atomic_ref<T>(const_cast<T&>(word)).load(order);
}

template <Word T>
inline void store(T& word, std::type_identity_t<T> value, std::memory_order order) noexcept {
  std::atomic_ref<T>(word).store(value, order);
}

/// Strong compare-and-swap; on failure `expected` holds what was found.
template <Word T>
inline bool cas(T& word, std::type_identity_t<T>& expected, std::type_identity_t<T> desired,
                std::memory_order order) noexcept {
  return std::atomic_ref<T>(word).compare_exchange_strong(
      expected, desired, order, order == release ? relaxed : (order == acq_rel ? acquire : order));
}

template <Word T>
inline T exchange(T& word, std::type_identity_t<T> value, std::memory_order order) noexcept {
  return std::atomic_ref<T>(word).exchange(value, order);
}

template <Word T>
inline T fetch_add(T& word, std::type_identity_t<T> value, std::memory_order order) noexcept {
  return std::atomic_ref<T>(word).fetch_add(value, order);
}

template <Word T>
inline T fetch_or(T& word, std::type_identity_t<T> value, std::memory_order order) noexcept {
  return std::atomic_ref<T>(word).fetch_or(value, order);
}

template <Word T>
inline T fetch_and(T& word, std::type_identity_t<T> value, std::memory_order order) noexcept {
  return std::atomic_ref<T>(word).fetch_and(value, order);
}

/// Strong compare-and-swap of two words that lie together, 16-byte aligned. On failure the expected ones hold what
/// was found. Full barrier. Inline on every CPU that is supported: a call into libatomic would take a lock that
/// is private to this process.
inline bool cas_wide(std::uint64_t& low, std::uint64_t& high, std::uint64_t& expected_low,
                     std::uint64_t& expected_high, std::uint64_t desired_low,
                     std::uint64_t desired_high) noexcept {
  __extension__ using Pair __attribute__((may_alias)) = unsigned __int128;
  static_assert(std::endian::native == std::endian::little);
  (void)high;  // the word after `low`
  const auto expected = static_cast<Pair>(expected_high) << 64 | expected_low;
  const auto desired = static_cast<Pair>(desired_high) << 64 | desired_low;
  // The __sync form: gcc makes it one instruction where it sends the __atomic form to libatomic.
  const auto found = __sync_val_compare_and_swap(reinterpret_cast<Pair*>(&low), expected, desired);
  if (found == expected) return true;
  expected_low = static_cast<std::uint64_t>(found);
  expected_high = static_cast<std::uint64_t>(found >> 64);
  return false;
}

/// A counter with one writer: no locked instruction, never torn for readers.
template <Word T>
inline void count_up(T& word, std::type_identity_t<T> value = 1) noexcept {
  store(word, static_cast<T>(load(word, relaxed) + value), relaxed);
}

inline void cpu_relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Ask for the line of an address that will be written soon, owned, so that the store does not wait for it.
inline void prefetch_to_write(const void* address) noexcept {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));
#else
  __builtin_prefetch(address, 1);
#endif
}

}  // namespace sluice
