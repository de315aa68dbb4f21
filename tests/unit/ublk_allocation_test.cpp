// The data path of a queue asks for no heap memory, whatever target it has and however the data travels.
#include "runtime/ring.hpp"
#include "tests/support/must.hpp"
#include "tests/unit/io_allocation_counter.hpp"
#include "ublk/file_target.hpp"
#include "ublk/io_memory.hpp"
#include "ublk/null_target.hpp"
#include "ublk/queue.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <utility>

#include <unistd.h>

namespace sluice::test {

namespace {

using Operation = ublk_abi::Operation;

constexpr std::uint16_t depth = 8;
constexpr std::uint32_t io_bytes = 4096;
constexpr std::uint64_t device_bytes = std::uint64_t{depth} * io_bytes;

// The model of the driver allocates. This one only hands out requests for ever: each commit is answered by the tag's
// next request, a read, a write and a flush in turn.
class EndlessDriver final : public DriverQueue {
 public:
  EndlessDriver() : ring_(must(Ring::open(2 * depth, 4 * depth))) {}

  bool fetch(std::uint16_t tag, std::uint64_t /*address*/) noexcept override { return arrive(tag); }
  bool commit(std::uint16_t tag, std::int32_t /*result*/, std::uint64_t /*address*/) noexcept override {
    ++given_[tag];
    return arrive(tag);
  }
  io_uring_sqe* prepare(std::uint32_t cookie) noexcept override {
    ++in_ring_;
    return ring_->next(cookie);
  }
  Status wait(std::chrono::nanoseconds timeout) noexcept override {
    ready_ = std::exchange(next_, 0);
    batch_ = arrived_;
    if (in_ring_ == 0) return Status::ok;
    return ring_->wait(ready_ != 0 ? std::chrono::nanoseconds(1) : timeout);
  }
  int errno_value() const noexcept override { return ring_->errno_value(); }
  std::uint64_t enters() const noexcept override { return ring_->enters(); }
  std::span<const DriverEvent> events() noexcept override {
    if (ready_ != 0) return {batch_.data(), std::exchange(ready_, 0)};
    const auto completions = ring_->completions();
    const auto count = std::min(completions.size(), batch_.size());
    for (std::size_t i = 0; i < count; ++i)
      batch_[i] = {.kind = DriverEvent::Kind::target,
                   .number = static_cast<std::uint32_t>(completions[i]->user_data),
                   .result = completions[i]->res,
                   .flags = completions[i]->flags};
    in_ring_ -= count;
    ring_->advance(count);
    return {batch_.data(), count};
  }
  std::optional<ublk_abi::Descriptor> descriptor(std::uint16_t tag) const noexcept override {
    constexpr std::array operations = {Operation::read, Operation::write, Operation::flush};
    return ublk_abi::Descriptor{
        .operation_and_flags = static_cast<std::uint32_t>(operations[given_[tag] % operations.size()]),
        .sectors = io_bytes / 512,
        .first_sector = std::uint64_t{tag} * io_bytes / 512,
        .address = 0};
  }
  ssize_t read_data(std::uint16_t /*tag*/, std::uint32_t /*offset*/,
                    std::span<std::byte> to) noexcept override {
    return static_cast<ssize_t>(to.size());
  }
  ssize_t write_data(std::uint16_t /*tag*/, std::uint32_t /*offset*/,
                     std::span<const std::byte> from) noexcept override {
    return static_cast<ssize_t>(from.size());
  }
  void wake() noexcept override {}

 private:
  bool arrive(std::uint16_t tag) noexcept {
    arrived_[next_++] = {.number = tag};
    return true;
  }

  std::unique_ptr<Ring> ring_;
  std::array<DriverEvent, depth> arrived_{}, batch_{};
  std::array<std::uint64_t, depth> given_{};
  std::size_t next_ = 0, ready_ = 0, in_ring_ = 0;
};

// A file of the device's size that is gone at the end.
struct TempFile {
  TempFile() {
    const UniqueFd file(::mkstemp(path.data()));
    must_hold(file && ::ftruncate(file.get(), device_bytes) == 0, "a file");
  }
  ~TempFile() { ::unlink(path.c_str()); }
  std::string path = "/tmp/sluice-disk-XXXXXX";
};

void check_allocations(Target& target, DataPath path) {
  EndlessDriver driver;
  const auto memory = must(IoMemory::map(std::size_t{depth} * io_bytes, false));
  const auto queue = must(UblkQueue::open(
      driver, target,
      {.index = 0, .depth = depth, .io_bytes_max = io_bytes, .data_path = path, .buffers = memory.bytes()}));
  must(queue->fetch_all());
  const auto before = allocations_of_this_thread();
  for (int i = 0; i < 100'000 && queue->counters().requests() < 3'000; ++i)
    must(queue->turn(std::chrono::seconds(10)));
  CHECK(allocations_of_this_thread() == before);
  const auto counters = queue->counters();
  CHECK(counters.errors == 0);
  CHECK(counters.reads > 800);
  CHECK(counters.writes > 800);
  CHECK(counters.flushes > 800);
}

}  // namespace

TEST_CASE("ublk queue: a request costs no heap allocation, null target", "[ublk]") {
  if (!allocations_are_counted) return;
  const auto path = GENERATE(DataPath::user_copy, DataPath::copy);
  check_allocations(*must(NullTarget::open(device_bytes)), path);
}

TEST_CASE("ublk queue: a request costs no heap allocation, file target", "[ublk]") {
  if (!allocations_are_counted) return;
  const auto path = GENERATE(DataPath::user_copy, DataPath::copy);
  const TempFile file;
  check_allocations(*must(FileTarget::open({.path = file.path})), path);
}

TEST_CASE("ublk queue: the count of allocations sees one", "[ublk]") {
  if (!allocations_are_counted) return;
  const auto before = allocations_of_this_thread();
  const auto seen = std::make_unique<std::string>(1000, 'x');
  CHECK(allocations_of_this_thread() > before);
}

}  // namespace sluice::test
