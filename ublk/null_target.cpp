#include "ublk/null_target.hpp"

#include <fmt/format.h>

namespace sluice {

namespace {

class NullQueue final : public TargetQueue {
 public:
  void start(Request& request) noexcept override {
    // Not left as they are: the request's pages may hold what others had in memory.
    const int error =
        request.operation() == Request::Operation::read ? request.give_zeroes(0, request.bytes()) : 0;
    request.finish(error);
  }
};

}  // namespace

Expected<std::unique_ptr<Target>> NullTarget::open(std::uint64_t bytes) {
  if (bytes == 0 || bytes % ublk_abi::sector_bytes != 0)
    return fail(Status::bad_argument,
                fmt::format("null target: the size is {} bytes, expected a multiple of 512 above 0", bytes));
  return std::unique_ptr<Target>(new NullTarget(bytes));
}

TargetGeometry NullTarget::geometry() const noexcept {
  return {.bytes = bytes_, .discard_granularity = ublk_abi::sector_bytes};
}

std::string NullTarget::describe() const { return fmt::format("null of {} bytes", bytes_); }

Expected<std::unique_ptr<TargetQueue>> NullTarget::open_queue(TargetContext& /*context*/) {
  return std::make_unique<NullQueue>();
}

}  // namespace sluice
