#include "ublk/latency.hpp"

#include "shm/atomic.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sluice {

// Every value has a bucket, and every bucket ends where the next one begins.
static_assert(LatencyHistogram::bucket_of(0) == 0 && LatencyHistogram::bucket_of(15) == 15);
static_assert(LatencyHistogram::bucket_of(16) == 16 && LatencyHistogram::bucket_end(16) == 16);
static_assert(LatencyHistogram::bucket_of(63) == 47 && LatencyHistogram::bucket_end(47) == 63);
static_assert(LatencyHistogram::bucket_of(~0ULL) == LatencyHistogram::buckets - 1);
static_assert(LatencyHistogram::bucket_end(LatencyHistogram::buckets - 1) ==
              (1ULL << LatencyHistogram::value_bits) - 1);

void LatencyHistogram::record(std::uint64_t ns) noexcept {
  count_up(counts_[bucket_of(ns)]);
  if (ns > max_ns_) store(max_ns_, ns, relaxed);
}

std::uint64_t LatencyHistogram::count() const noexcept {
  return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

std::uint64_t LatencyHistogram::percentile_ns(double part) const noexcept {
  const auto total = count();
  if (total == 0) return 0;
  const auto rank =
      std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(part * static_cast<double>(total))));
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
    seen += counts_[bucket];
    if (seen < rank) continue;
    // The last bucket has no upper end but the largest value.
    return bucket == buckets - 1 ? max_ns_ : std::min(bucket_end(bucket), max_ns_);
  }
  return max_ns_;
}

LatencyHistogram LatencyHistogram::snapshot() const noexcept {
  LatencyHistogram copy;
  for (std::size_t bucket = 0; bucket < buckets; ++bucket)
    copy.counts_[bucket] = load(counts_[bucket], relaxed);
  copy.max_ns_ = load(max_ns_, relaxed);
  return copy;
}

LatencyHistogram& LatencyHistogram::operator+=(const LatencyHistogram& other) noexcept {
  for (std::size_t bucket = 0; bucket < buckets; ++bucket) counts_[bucket] += other.counts_[bucket];
  max_ns_ = std::max(max_ns_, other.max_ns_);
  return *this;
}

}  // namespace sluice
