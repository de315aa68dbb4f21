// Any target, and faults before it by rules: errors, delays, requests that do not end until the server stops. For tests.
#pragma once

#include "ublk/target.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

/// One rule. Each queue counts for itself the requests that a rule is for; the first rule that applies decides.
struct FaultRule {
  enum class Action : std::uint8_t { error, delay, stall };

  std::uint32_t operations = ~0U;  // bit N is ublk_abi::Operation N
  Action action = Action::error;
  int errno_value = 5;
  std::chrono::nanoseconds delay{0};
  std::uint64_t every = 1;  // applies to one in so many
  std::uint64_t after = 0;  // not to the first so many
};

class FaultTarget final : public Target {
 public:
  FaultTarget(std::unique_ptr<Target> inner, std::vector<FaultRule> rules) noexcept;

  TargetGeometry geometry() const noexcept override { return inner_->geometry(); }
  bool uses_buffers() const noexcept override { return inner_->uses_buffers(); }
  bool supports_zero_copy() const noexcept override { return inner_->supports_zero_copy(); }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override;
  std::uint32_t fingerprint() const noexcept override { return inner_->fingerprint(); }
  std::string describe() const override { return inner_->describe() + " with faults"; }
  void device_ended() noexcept override { inner_->device_ended(); }

 private:
  std::unique_ptr<Target> inner_;
  std::vector<FaultRule> rules_;
};

}  // namespace sluice
