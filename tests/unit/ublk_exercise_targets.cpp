#include "tests/unit/ublk_exercise_targets.hpp"

#include "ublk/file_queue.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

namespace sluice::test {

namespace {

TargetGeometry geometry_of(const ExerciseStore& store) noexcept {
  return {.bytes = store.bytes.size(),
          .read_only = store.read_only,
          .volatile_cache = true,
          .discard_granularity = store.discard_granularity};
}

}  // namespace

// ---- In memory -------------------------------------------------------------------------------------------

class MemoryStoreTarget::Queue final : public TargetQueue {
 public:
  explicit Queue(MemoryStoreTarget& target) : target_(target) {}
  ~Queue() override { target_.kept_.clear(); }

  void start(Request& request) noexcept override {
    if (target_.keeps_ && !stopping_)
      target_.kept_.push_back(&request);
    else
      target_.end(request);
  }
  void stop() noexcept override {
    stopping_ = true;
    for (Request* request : std::exchange(target_.kept_, {})) target_.end(*request);
  }

 private:
  MemoryStoreTarget& target_;
  bool stopping_ = false;
};

TargetGeometry MemoryStoreTarget::geometry() const noexcept { return geometry_of(store_); }

Expected<std::unique_ptr<TargetQueue>> MemoryStoreTarget::open_queue(TargetContext& /*context*/) {
  return std::make_unique<Queue>(*this);
}

int MemoryStoreTarget::execute(Request& request) {
  const auto part = std::span(store_.bytes).subspan(request.offset(), request.bytes());
  const auto half = static_cast<std::uint32_t>(part.size() / 2);
  switch (request.operation()) {
    case Request::Operation::read:
      if (const int error = request.give_data(0, part.first(half)); error != 0) return error;
      return request.give_data(half, part.subspan(half));
    case Request::Operation::write:
      if (const int error = request.take_data(half, part.subspan(half)); error != 0) return error;
      return request.take_data(0, part.first(half));
    case Request::Operation::flush: return 0;
    case Request::Operation::discard:
    case Request::Operation::write_zeroes: std::ranges::fill(part, std::byte{0}); return 0;
  }
  return EOPNOTSUPP;
}

// Before it or behind it an error of its own, or a second end, which must not count.
void MemoryStoreTarget::end(Request& request) {
  const auto how = store_.input.below(32);
  int error = 0;
  if (how == 1 || how == 2) error = how == 1 ? ENOSPC : EIO;
  if (error != 0) store_.allowed[request.tag()].push_back(error);
  if (how != 1) error = std::max(execute(request), error);
  request.finish(error);
  if (how == 3) request.finish(EIO);
}

void MemoryStoreTarget::end_one() {
  if (kept_.empty()) return;
  const auto which = store_.input.below(static_cast<std::uint32_t>(kept_.size()));
  Request* request = kept_[which];
  kept_.erase(kept_.begin() + which);
  end(*request);
}

// ---- A file ----------------------------------------------------------------------------------------------

TargetGeometry FileStoreTarget::geometry() const noexcept { return geometry_of(store_); }

Expected<std::unique_ptr<TargetQueue>> FileStoreTarget::open_queue(TargetContext& context) {
  return std::make_unique<FileQueue>(context, -1);
}

std::optional<std::int32_t> perform(ExerciseStore& store, const io_uring_sqe& entry) {
  auto& allowed = store.allowed.at(entry.user_data);
  const auto how = store.input.below(32);
  const auto fails = [&](int error) {
    allowed.push_back(error);
    return -error;
  };
  switch (how) {
    case 1: return std::nullopt;
    case 2: return -EAGAIN;
    case 3: return -EINTR;
    case 4: return fails(EIO);
    case 5: return fails(ENOSPC);
    default: break;
  }
  const bool moves = entry.opcode == IORING_OP_READ || entry.opcode == IORING_OP_WRITE;
  if (entry.opcode == IORING_OP_FSYNC) return 0;
  const std::size_t length = moves ? entry.len : entry.addr;  // fallocate has its length there
  const auto part = std::span(store.bytes).subspan(entry.off, length);
  if (!moves) {
    std::ranges::fill(part, std::byte{0});
    return 0;
  }
  if (how == 6) {  // as at the end of a file that has become shorter
    allowed.push_back(EIO);
    return 0;
  }
  const auto count = how == 7 ? 1 + store.input.take<std::uint16_t>() % length : length;
  auto* memory = reinterpret_cast<std::byte*>(entry.addr);
  if (entry.opcode == IORING_OP_READ)
    std::memcpy(memory, part.data(), count);
  else
    std::memcpy(part.data(), memory, count);
  return static_cast<std::int32_t>(count);
}

}  // namespace sluice::test
