// Atomic access to words of the mapped file. Layout structs hold plain integers (they are bytes of a file);
// every concurrent access goes through these functions, so that a grep for a word finds all its orders.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace sluice {

inline constexpr auto relaxed = std::memory_order_relaxed;
inline constexpr auto acquire = std::memory_order_acquire;
inline constexpr auto release = std::memory_order_release;
inline constexpr auto acq_rel = std::memory_order_acq_rel;
inline constexpr auto seq_cst = std::memory_order_seq_cst;

template <class T>
concept Word = std::is_integral_v<T> && std::atomic_ref<T>::is_always_lock_free;

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
