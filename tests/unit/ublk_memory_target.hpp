// A target that keeps a device in memory, and requests as long as a test wants it to.
#pragma once

#include "tests/unit/ublk_model.hpp"
#include "ublk/target.hpp"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sluice::test {

inline constexpr std::uint64_t device_bytes = 1 << 20;

// Keeps a device in memory. `late`: requests are kept until the test finishes them.
class MemoryTarget final : public Target {
 public:
  class Queue final : public TargetQueue {
   public:
    explicit Queue(MemoryTarget& target) : target_(target) {}
    void start(Request& request) noexcept override {
      ++target_.started;
      if (target_.late)
        target_.kept.push_back(&request);
      else
        target_.execute(request);
    }
    void poll() noexcept override { ++target_.polls; }
    void stop() noexcept override {
      ++target_.stops;
      for (Request* request : std::exchange(target_.kept, {})) request->finish(EIO);
    }

   private:
    MemoryTarget& target_;
  };

  TargetGeometry geometry() const noexcept override {
    return {.bytes = device_bytes, .read_only = read_only, .discard_granularity = discards ? 512U : 0U};
  }
  bool uses_buffers() const noexcept override { return false; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& /*context*/) override {
    return std::make_unique<Queue>(*this);
  }
  std::uint32_t fingerprint() const noexcept override { return 1; }
  std::string describe() const override { return "memory"; }

  void execute(Request& request) {
    const auto part = std::span(store).subspan(request.offset(), request.bytes());
    switch (request.operation()) {
      case Operation::read: return request.finish(request.give_data(0, part));
      case Operation::write: return request.finish(request.take_data(0, part));
      case Operation::flush: return request.finish(0);
      case Operation::discard:
      case Operation::write_zeroes: std::ranges::fill(part, std::byte{0}); return request.finish(0);
    }
  }

  std::vector<std::byte> store = pattern(99, device_bytes);
  std::vector<Request*> kept;
  bool late = false, read_only = false, discards = true;
  int started = 0, polls = 0, stops = 0;
};

}  // namespace sluice::test
