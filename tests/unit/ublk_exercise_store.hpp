// The store target of ublk_exercise: a small segment, who takes what the stream has, and what the device must be in
// the end.
#pragma once

#include "tests/support/model.hpp"
#include "ublk/store_target.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace sluice::test {

struct StoreDeviceOptions {
  std::uint64_t bytes;
  std::uint64_t units;  // of the segment
  bool tells = false;
  PublishPolicy policy = PublishPolicy::block;
  std::uint32_t stream_capacity = 16;
};

class StoreDevice {
 public:
  explicit StoreDevice(const StoreDeviceOptions& options);

  /// The next server's; the last one's is gone.
  std::unique_ptr<Target> open();
  /// Take what the stream has. Returns how many messages.
  std::uint64_t take();
  /// With no server any more, and nothing left to take: the device's content. It is what the stream has told, and the
  /// segment is sound.
  std::vector<std::byte> end(Complaints& complaints);

 private:
  StoreDeviceOptions options_;
  TempSegment file_;
  Session session_;
  std::unique_ptr<Lane> lane_;
  std::vector<std::byte> mirror_;
};

}  // namespace sluice::test
