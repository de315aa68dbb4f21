// How long requests took, as a histogram: enough for percentiles, small enough for each queue to have its own.
//
// Buckets are log-linear. Below 16 ns each value has its own; above, every power of two is cut into 16, so that a
// bucket is at most 1/16 as wide as its values are large:
//
//   bits of the value    1 s s s s x x x x …       bucket = 16 * (exponent - 3) + ssss
//
// Thread safety: one writer, which no reader disturbs; record() is plain loads and stores. Readers of a histogram in use
// get each bucket whole, but not all of them at one moment.
// source  HdrHistogram (Tene), with the bucket's number computed instead of searched
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace sluice {

class LatencyHistogram {
 public:
  static constexpr unsigned sub_bits = 4;
  static constexpr std::uint64_t sub_buckets = 1 << sub_bits;
  /// Times of 2^42 ns (73 minutes) and more share the last bucket; max_ns() is exact for them too.
  static constexpr unsigned value_bits = 42;
  static constexpr std::size_t buckets = (value_bits - sub_bits + 1) * sub_buckets;

  void record(std::uint64_t ns) noexcept;

  /// How many were recorded.
  std::uint64_t count() const noexcept;
  std::uint64_t max_ns() const noexcept { return max_ns_; }
  /// The time that `part` of all (0.5, 0.999) were not above: the upper end of the bucket in which it lies, at most
  /// 1/16 too much, never above max_ns(). 0 without values.
  std::uint64_t percentile_ns(double part) const noexcept;

  /// What a histogram in use is now.
  LatencyHistogram snapshot() const noexcept;
  LatencyHistogram& operator+=(const LatencyHistogram& other) noexcept;

  static constexpr std::size_t bucket_of(std::uint64_t ns) noexcept {
    if (ns < sub_buckets) return static_cast<std::size_t>(ns);
    if (ns >> value_bits != 0) return buckets - 1;
    const auto exponent = static_cast<unsigned>(std::bit_width(ns)) - 1;
    return sub_buckets * (exponent - sub_bits + 1) + (ns >> (exponent - sub_bits) & (sub_buckets - 1));
  }
  /// The largest value of a bucket.
  static constexpr std::uint64_t bucket_end(std::size_t bucket) noexcept {
    if (bucket < sub_buckets) return bucket;
    const auto shift = bucket / sub_buckets - 1;  // exponent - sub_bits
    return ((sub_buckets + bucket % sub_buckets + 1) << shift) - 1;
  }

 private:
  std::uint64_t max_ns_ = 0;
  std::array<std::uint64_t, buckets> counts_{};
};

}  // namespace sluice
