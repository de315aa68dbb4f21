// How long to wait before something that ended is started again: not at all the first time, then 100 ms
// doubling to 5 s, until it has run for 10 s once.
#pragma once

#include <algorithm>
#include <chrono>

namespace sluice {

class Backoff {
 public:
  using Duration = std::chrono::nanoseconds;
  static constexpr Duration first = std::chrono::milliseconds(100);
  static constexpr Duration longest = std::chrono::seconds(5);
  static constexpr Duration healthy = std::chrono::seconds(10);

  /// The wait before the next start of what has just ended after running for `ran`.
  Duration next(Duration ran) noexcept {
    if (ran >= healthy) wait_ = Duration::zero();
    const auto wait = wait_;
    wait_ = wait_ == Duration::zero() ? first : std::min(2 * wait_, longest);
    return wait;
  }

 private:
  Duration wait_ = Duration::zero();
};

}  // namespace sluice
