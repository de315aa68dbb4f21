// The targets of ublk_exercise: a store in memory whose requests end when the bytes say so, and the file target's queue
// over a file that is an array of bytes.
#pragma once

#include "tests/verify/fuzz/targets/input.hpp"
#include "ublk/target.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sluice::test {

/// What a store may answer for one tag beyond success, since its request arrived.
using AllowedErrors = std::vector<std::vector<int>>;  // by tag

struct ExerciseStore {
  fuzz::Input& input;
  std::vector<std::byte> bytes;
  AllowedErrors& allowed;
  bool read_only = false;
  std::uint32_t discard_granularity = 512;
};

class MemoryStoreTarget final : public Target {
 public:
  explicit MemoryStoreTarget(ExerciseStore& store) : store_(store) {}

  TargetGeometry geometry() const noexcept override;
  bool uses_buffers() const noexcept override { return false; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override;
  std::uint32_t fingerprint() const noexcept override { return 1; }
  std::string describe() const override { return "memory"; }

  /// Requests are kept from now on, or no more.
  void keep(bool keeps) noexcept { keeps_ = keeps; }
  /// End one that is kept, if there is one.
  void end_one();

 private:
  class Queue;
  void end(Request& request);
  int execute(Request& request);

  ExerciseStore& store_;
  std::vector<Request*> kept_;
  bool keeps_ = false;
};

class FileStoreTarget final : public Target {
 public:
  explicit FileStoreTarget(ExerciseStore& store) : store_(store) {}

  TargetGeometry geometry() const noexcept override;
  bool uses_buffers() const noexcept override { return true; }
  Expected<std::unique_ptr<TargetQueue>> open_queue(TargetContext& context) override;
  std::uint32_t fingerprint() const noexcept override { return 1; }
  std::string describe() const override { return "file in memory"; }

 private:
  ExerciseStore& store_;
};

/// What the kernel would do with an entry of the file's queue, or with an fsync: all of it, a part, an error, nothing
/// yet.
std::optional<std::int32_t> perform(ExerciseStore& store, const io_uring_sqe& entry);

}  // namespace sluice::test
