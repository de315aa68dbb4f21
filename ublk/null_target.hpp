// The target that keeps nothing: reads are zeroes, everything else succeeds. For measuring what the way to a target
// costs.
#pragma once

#include "ublk/target.hpp"

namespace sluice {

class NullTarget final : public Target {
 public:
  /// errors  bad_argument  no bytes, or not a multiple of 512
  static Expected<std::unique_ptr<Target>> open(std::uint64_t bytes);

  TargetGeometry geometry() const noexcept override;
  bool uses_buffers() const noexcept override { return false; }
  bool supports_zero_copy() const noexcept override { return true; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override;
  /// Any is as good as another of its size.
  std::uint32_t fingerprint() const noexcept override { return fingerprint_of(describe()); }
  std::string describe() const override;

 private:
  explicit NullTarget(std::uint64_t bytes) noexcept : bytes_(bytes) {}
  std::uint64_t bytes_;
};

}  // namespace sluice
