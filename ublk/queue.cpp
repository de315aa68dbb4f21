#include "ublk/queue.hpp"

#include "shm/atomic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace sluice {

namespace {

using namespace ublk_abi;

alignas(4096) constexpr std::array<std::byte, zeroes_bytes> zero_pages{};

std::uint64_t now_ns() noexcept {
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(TargetQueue::Clock::now().time_since_epoch()).count());
}

}  // namespace

std::span<const std::byte> zeroes() noexcept { return zero_pages; }

// ---- Request ---------------------------------------------------------------------------------------------

int Request::take_data(std::uint32_t at, std::span<std::byte> to) noexcept {
  if (const int error = queue_->move_data(*this, at, to.size(), Operation::write); error != 0) return error;
  if (queue_->options_.data_path == DataPath::copy) {
    if (to.data() != buffer_.data() + at) std::memmove(to.data(), buffer_.data() + at, to.size());
    return 0;
  }
  while (!to.empty()) {
    count_up(copy_calls_);
    const auto moved = queue_->driver_.read_data(tag_, at, to);
    if (moved <= 0) return moved == 0 ? EIO : static_cast<int>(-moved);
    at += static_cast<std::uint32_t>(moved);
    to = to.subspan(static_cast<std::size_t>(moved));
  }
  return 0;
}

int Request::give_data(std::uint32_t at, std::span<const std::byte> from) noexcept {
  if (const int error = queue_->move_data(*this, at, from.size(), Operation::read); error != 0) return error;
  if (queue_->options_.data_path == DataPath::copy) {
    if (from.data() != buffer_.data() + at) std::memmove(buffer_.data() + at, from.data(), from.size());
    return 0;
  }
  while (!from.empty()) {
    count_up(copy_calls_);
    const auto moved = queue_->driver_.write_data(tag_, at, from);
    if (moved <= 0) return moved == 0 ? EIO : static_cast<int>(-moved);
    at += static_cast<std::uint32_t>(moved);
    from = from.subspan(static_cast<std::size_t>(moved));
  }
  return 0;
}

int Request::take_data(std::uint32_t at, std::span<const iovec> to) noexcept {
  return in_pieces(
      at, to, Operation::write,
      [this](std::uint32_t from, auto pieces) { return queue_->driver_.read_pieces(tag_, from, pieces); },
      [this](std::uint32_t from, const iovec& piece) { return take_data(from, bytes_of(piece)); });
}

int Request::give_data(std::uint32_t at, std::span<const iovec> from) noexcept {
  return in_pieces(
      at, from, Operation::read,
      [this](std::uint32_t to, auto pieces) { return queue_->driver_.write_pieces(tag_, to, pieces); },
      [this](std::uint32_t to, const iovec& piece) { return give_data(to, bytes_of(piece)); });
}

// With user copy all in one call, and the rest of a piece at which it stopped by itself; in copy mode each by itself.
template <class All, class One>
int Request::in_pieces(std::uint32_t at, std::span<const iovec> pieces, Operation wanted, All all,
                       One one) noexcept {
  std::size_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  if (const int error = queue_->move_data(*this, at, total, wanted); error != 0) return error;
  while (!pieces.empty()) {
    std::size_t moved = 0;
    if (queue_->options_.data_path != DataPath::copy) {
      count_up(copy_calls_);
      const auto result = all(at, pieces);
      if (result <= 0) return result == 0 ? EIO : static_cast<int>(-result);
      moved = static_cast<std::size_t>(result);
    }
    while (!pieces.empty() && moved >= pieces.front().iov_len) {
      moved -= pieces.front().iov_len;
      at += static_cast<std::uint32_t>(pieces.front().iov_len);
      pieces = pieces.subspan(1);
    }
    if (pieces.empty() || (moved == 0 && queue_->options_.data_path != DataPath::copy)) continue;
    const iovec rest{static_cast<std::byte*>(pieces.front().iov_base) + moved,
                     pieces.front().iov_len - moved};
    if (const int error = one(at + static_cast<std::uint32_t>(moved), rest); error != 0) return error;
    at += static_cast<std::uint32_t>(pieces.front().iov_len);
    pieces = pieces.subspan(1);
  }
  return 0;
}

int Request::give_zeroes(std::uint32_t at, std::uint32_t count) noexcept {
  while (count != 0) {
    const auto part = std::min<std::uint32_t>(count, zeroes_bytes);
    if (const int error = give_data(at, zeroes().first(part)); error != 0) return error;
    at += part;
    count -= part;
  }
  return 0;
}

void Request::finish(int errno_value) noexcept { queue_->finished(*this, errno_value); }

// ---- Opening ---------------------------------------------------------------------------------------------

UblkQueue::UblkQueue(DriverQueue& driver, const UblkQueueOptions& options, const TargetGeometry& geometry)
    : driver_(driver),
      options_(options),
      geometry_(geometry),
      requests_(options.depth),
      arrivals_ns_(options.depth) {
  committed_.reserve(options_.depth);
  for (std::uint16_t tag = 0; tag < options_.depth; ++tag) {
    Request& request = requests_[tag];
    request.queue_ = this;
    request.tag_ = tag;
    if (!options_.buffers.empty())
      request.buffer_ =
          options_.buffers.subspan(std::size_t{tag} * options_.io_bytes_max, options_.io_bytes_max);
  }
}

UblkQueue::~UblkQueue() = default;

Expected<std::unique_ptr<UblkQueue>> UblkQueue::open(DriverQueue& driver, Target& target,
                                                     const UblkQueueOptions& options) {
  std::unique_ptr<UblkQueue> queue(new UblkQueue(driver, options, target.geometry()));
  auto opened = target.open_queue(*queue);
  if (!opened) return std::unexpected(std::move(opened.error()));
  queue->target_ = std::move(*opened);
  return queue;
}

std::uint64_t UblkQueue::address_of(const Request& request) const noexcept {
  return options_.data_path == DataPath::copy ? reinterpret_cast<std::uint64_t>(request.buffer_.data()) : 0;
}

Expected<void> UblkQueue::fetch_all() {
  for (const Request& request : requests_)
    if (!driver_.fetch(request.tag_, address_of(request)))
      return fail(Status::io_error,
                  fmt::format("fetch tag {} of queue {}: no entry is free", request.tag_, queue()));
  // A refusal completes at once; so does a request, if the device is being recovered.
  return turn(std::chrono::nanoseconds(1));
}

// ---- Turns -----------------------------------------------------------------------------------------------

Expected<void> UblkQueue::turn(std::chrono::nanoseconds wait_max) {
  using Clock = TargetQueue::Clock;
  if (const auto due = target_->poll_at(); due != Clock::time_point::max())
    wait_max =
        std::clamp<std::chrono::nanoseconds>(due - Clock::now(), std::chrono::nanoseconds(1), wait_max);
  time_commits();
  count_up(counters_.waits);
  const Status waited = driver_.wait(wait_max);
  store(turned_ns_, now_ns(), relaxed);
  store(counters_.enters, driver_.enters(), relaxed);
  if (waited == Status::io_error)
    return fail_errno(fmt::format("queue {}: io_uring_enter", queue()), driver_.errno_value());

  if (stopping_.load(acquire) && !target_stopped_) {
    target_stopped_ = true;
    target_->stop();
  }
  for (auto batch = driver_.events(); !batch.empty(); batch = driver_.events()) {
    for (const DriverEvent& event : batch) {
      if (event.kind == DriverEvent::Kind::tag)
        on_tag(event);
      else if (event.kind == DriverEvent::Kind::target)
        target_->complete(event.number, event.result, event.flags);
    }
  }
  target_->poll();
  if (refused_errno_ != 0)
    return fail_errno(fmt::format("queue {}: the driver refused tag {}", queue(), refused_tag_),
                      refused_errno_);
  return {};
}

void UblkQueue::on_tag(const DriverEvent& event) noexcept {
  if (event.number >= depth()) return;  // never armed by us
  Request& request = requests_[event.number];
  if (event.result == -ENODEV) {
    ++gone_;
    return;
  }
  if (event.result != 0) {
    refused_errno_ = event.result < 0 ? -event.result : EPROTO;
    refused_tag_ = request.tag_;
    return;
  }
  request.open_ = true;
  request.copy_calls_ = 0;
  store(arrivals_ns_[request.tag_], turned_ns_, relaxed);
  if (const int error = accept(request); error != 0) {
    count_up(counters_.refused);
    finished(request, error);
    return;
  }
  target_->start(request);
}

// Read the descriptor once, then believe nothing: a request that our device cannot have gets its errno.
int UblkQueue::accept(Request& request) noexcept {
  const auto descriptor = driver_.descriptor(request.tag_);
  if (!descriptor) return EINVAL;
  const auto operation = static_cast<Operation>(descriptor->operation_and_flags & 0xff);
  request.operation_ = operation;
  request.flags_ = descriptor->operation_and_flags & ~std::uint32_t{0xff};
  request.offset_ = 0;
  request.bytes_ = 0;
  if (operation == Operation::flush) return 0;
  const bool moves = operation == Operation::read || operation == Operation::write;
  const bool zeroing = operation == Operation::discard || operation == Operation::write_zeroes;
  if (!moves && !(zeroing && geometry_.discard_granularity != 0)) return EOPNOTSUPP;
  if (operation != Operation::read && geometry_.read_only) return EROFS;

  const std::uint64_t device_sectors = geometry_.bytes / sector_bytes;
  if (descriptor->sectors > device_sectors || descriptor->first_sector > device_sectors - descriptor->sectors)
    return EINVAL;
  const std::uint64_t bytes = std::uint64_t{descriptor->sectors} * sector_bytes;
  if (bytes == 0 || bytes > (moves ? options_.io_bytes_max : std::uint64_t{~std::uint32_t{0}})) return EINVAL;
  if ((descriptor->first_sector * sector_bytes | bytes) % geometry_.logical_block != 0) return EINVAL;
  request.offset_ = descriptor->first_sector * sector_bytes;
  request.bytes_ = static_cast<std::uint32_t>(bytes);
  return 0;
}

int UblkQueue::move_data(const Request& request, std::uint32_t at, std::size_t count,
                         Request::Operation wanted) const noexcept {
  if (!request.open_ || request.operation_ != wanted) return EINVAL;
  if (at > request.bytes_ || count > request.bytes_ - at) return EINVAL;
  return 0;
}

void UblkQueue::finished(Request& request, int errno_value) noexcept {
  if (!request.open_) return;  // finished before: the tag may be the driver's
  request.open_ = false;
  count(request, errno_value);
  const bool moves = request.operation_ == Operation::read || request.operation_ == Operation::write;
  const auto result =
      errno_value != 0 ? -errno_value : (moves ? static_cast<std::int32_t>(request.bytes_) : 0);
  committed_.push_back(request.tag_);
  if (!driver_.commit(request.tag_, result, address_of(request))) {
    refused_errno_ = EBUSY;
    refused_tag_ = request.tag_;
  }
}

void UblkQueue::count(const Request& request, int errno_value) noexcept {
  if (const auto calls = load(request.copy_calls_, relaxed); calls != 0)
    count_up(counters_.copy_calls, calls);
  if (errno_value != 0) {
    count_up(counters_.errors);
    return;
  }
  switch (request.operation_) {
    case Operation::read:
      count_up(counters_.reads);
      count_up(counters_.read_bytes, request.bytes_);
      break;
    case Operation::write:
      count_up(counters_.writes);
      count_up(counters_.write_bytes, request.bytes_);
      if (request.fua()) count_up(counters_.durable_writes);
      break;
    case Operation::flush: count_up(counters_.flushes); break;
    case Operation::discard: count_up(counters_.discards); break;
    case Operation::write_zeroes: count_up(counters_.write_zeroes); break;
  }
}

// The results of a turn take effect together, with the system call that follows: one look at the clock is enough, as
// it is for the requests that this call brings.
void UblkQueue::time_commits() noexcept {
  if (committed_.empty()) return;
  count_up(counters_.turns);
  const auto now = now_ns();
  for (const auto tag : committed_) {
    const auto took = now - arrivals_ns_[tag];
    switch (requests_[tag].operation_) {
      case Operation::read: latencies_.reads.record(took); break;
      case Operation::write: latencies_.writes.record(took); break;
      default: latencies_.others.record(took); break;
    }
    store(arrivals_ns_[tag], 0, relaxed);
  }
  committed_.clear();
}

void UblkQueue::stop() noexcept {
  stopping_.store(true, release);
  driver_.wake();
}

UblkCounters UblkQueue::counters() const noexcept {
  UblkCounters copy;
  using Words = std::uint64_t[sizeof(UblkCounters) / sizeof(std::uint64_t)];
  const auto& source = reinterpret_cast<const Words&>(counters_);
  auto& target = reinterpret_cast<Words&>(copy);
  for (std::size_t i = 0; i < std::size(source); ++i) target[i] = load(source[i], relaxed);
  return copy;
}

UblkUnderWay UblkQueue::under_way() const noexcept {
  const auto now = now_ns();
  const auto age_at = [now](std::uint64_t then) {
    return std::chrono::nanoseconds(now > then ? now - then : 0);
  };
  UblkUnderWay found{.oldest_queue = queue()};
  for (std::uint16_t tag = 0; tag < depth(); ++tag) {
    const auto arrived = load(arrivals_ns_[tag], relaxed);
    if (arrived == 0) continue;
    ++found.requests;
    if (found.requests > 1 && age_at(arrived) <= found.oldest_age) continue;
    found.oldest_age = age_at(arrived);
    found.oldest_tag = tag;
  }
  if (const auto turned = load(turned_ns_, relaxed); turned != 0) found.turn_age = age_at(turned);
  return found;
}

UblkStatistics UblkQueue::statistics() const noexcept {
  return {.counters = counters(),
          .latencies = {.reads = latencies_.reads.snapshot(),
                        .writes = latencies_.writes.snapshot(),
                        .others = latencies_.others.snapshot()},
          .under_way = under_way()};
}

}  // namespace sluice
