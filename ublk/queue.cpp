#include "ublk/queue.hpp"

#include "shm/atomic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace sluice {

namespace {

using namespace ublk_abi;

std::uint64_t now_ns() noexcept {
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(TargetQueue::Clock::now().time_since_epoch()).count());
}

}  // namespace

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
      switch (event.kind) {
        case DriverEvent::Kind::tag: on_tag(event); break;
        case DriverEvent::Kind::target: target_->complete(event.number, event.result, event.flags); break;
        case DriverEvent::Kind::registered:
        case DriverEvent::Kind::transfer:
        case DriverEvent::Kind::unregistered: on_transfer(event); break;
        case DriverEvent::Kind::wake: break;
      }
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

bool UblkQueue::transfer(Request& request, const Transfer& transfer) noexcept {
  const bool moves = request.operation_ == Operation::read || request.operation_ == Operation::write;
  if (!zero_copy() || !moves || request.ended_ || request.transfer_pending_ != 0 ||
      move_data(request, transfer.at, transfer.bytes, request.operation_) != 0)
    return false;
  if (!driver_.register_data(request.tag_)) return false;
  io_uring_sqe* entry = driver_.prepare_transfer(request.tag_);
  if (entry == nullptr) return false;
  // The pages have no address here: the kernel counts from their first byte.
  const auto opcode = request.operation_ == Operation::read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
  io_uring_prep_rw(opcode, entry, transfer.file, nullptr, transfer.bytes, transfer.position);
  entry->addr = transfer.at;
  entry->rw_flags = transfer.rw_flags;
  entry->buf_index = request.tag_;
  entry->flags |= IOSQE_IO_HARDLINK;
  if (!driver_.unregister_data(request.tag_)) return false;
  request.transfer_cookie_ = transfer.cookie;
  request.transfer_result_ = 0;
  request.transfer_failed_ = false;
  request.transfer_pending_ = 2;  // its own, and that the pages are back
  return true;
}

void UblkQueue::on_transfer(const DriverEvent& event) noexcept {
  if (event.number >= depth()) return;
  Request& request = requests_[event.number];
  if (request.transfer_pending_ == 0) return;
  const bool failed = event.result < 0;
  if (!request.transfer_failed_ && (failed || event.kind == DriverEvent::Kind::transfer)) {
    request.transfer_result_ = event.result;
    request.transfer_failed_ = failed;
  }
  // One that could not be registered fails the two behind it as well, and both come.
  if (event.kind == DriverEvent::Kind::registered || --request.transfer_pending_ != 0) return;
  if (std::exchange(request.ended_, false))
    finished(request, request.end_errno_);
  else
    target_->complete(request.transfer_cookie_, request.transfer_result_, 0);
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
  if (!moves && (!zeroing || geometry_.discard_granularity == 0)) return EOPNOTSUPP;
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
  if (!request.open_ || request.ended_) return;  // finished before: the tag may be the driver's
  if (request.transfer_pending_ != 0) {
    request.ended_ = true;
    request.end_errno_ = errno_value;
    return;
  }
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
