#include "runtime/ring.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace sluice {

Expected<std::unique_ptr<Ring>> Ring::open(unsigned submissions, unsigned completions, unsigned setup_flags) {
  std::unique_ptr<Ring> ring(new Ring);
  // Deferred task work runs when we wait, not when an interrupt finds us: fewer wake-ups, fuller batches.
  // Kernels before 6.1 refuse the flags with EINVAL.
  int result = -EINVAL;
  for (const unsigned flags : {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0U}) {
    io_uring_params params{};
    params.flags = flags | setup_flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries =
        std::min(std::bit_ceil(std::max(completions, 2 * submissions)), uring_abi::cq_entries_max);
    result = io_uring_queue_init_params(submissions, &ring->ring_, &params);
    if (result != -EINVAL) break;
  }
  if (result == -EPERM)
    return fail(
        Status::permission,
        "io_uring_setup: Operation not permitted (see /proc/sys/kernel/io_uring_disabled, and seccomp)",
        EPERM);
  if (result < 0) return fail_errno("io_uring_setup", -result);
  ring->open_ = true;
  if (!ring->has_feature(IORING_FEAT_EXT_ARG) || !ring->has_feature(IORING_FEAT_NODROP))
    return fail(Status::io_error,
                "io_uring_setup: this kernel is too old, timed waits and overflowing completions need 5.11",
                ENOSYS);
  io_uring_register_ring_fd(&ring->ring_);  // saves a descriptor look-up on each entry; optional
  ring->probe();
  return ring;
}

Ring::~Ring() {
  if (open_) io_uring_queue_exit(&ring_);
}

void Ring::probe() noexcept {
  if (io_uring_probe* probe = io_uring_get_probe_ring(&ring_)) {
    for (unsigned op = 0; op < std::min<unsigned>(probe->ops_len, 64); ++op)
      if ((probe->ops[op].flags & IO_URING_OP_SUPPORTED) != 0) operations_ |= std::uint64_t{1} << op;
    io_uring_free_probe(probe);
  }
}

bool Ring::reserve(unsigned entries) noexcept {
  if (io_uring_sq_space_left(&ring_) >= entries) return true;
  ++enters_;
  return io_uring_submit(&ring_) >= 0 && io_uring_sq_space_left(&ring_) >= entries;
}

io_uring_sqe* Ring::next(std::uint64_t user_data) noexcept {
  io_uring_sqe* sqe = reserve(1) ? io_uring_get_sqe(&ring_) : nullptr;
  if (sqe == nullptr) return nullptr;
  io_uring_prep_nop(sqe);
  sqe->user_data = user_data;
  return sqe;
}

Status Ring::wait(std::chrono::nanoseconds timeout) noexcept {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  __kernel_timespec limit{seconds.count(), (timeout - seconds).count()};
  io_uring_cqe* first = nullptr;
  if (io_uring_sq_ready(&ring_) != 0 || io_uring_cq_ready(&ring_) == 0) ++enters_;
  const int result = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &limit, nullptr);
  if (result >= 0) return Status::ok;
  switch (-result) {
    case ETIME: return Status::timeout;
    case EINTR: return Status::interrupted;
    // The kernel wants completions reaped, or is short of memory for requests, before it takes more.
    case EAGAIN:
    case EBUSY: return Status::ok;
    default: errno_value_ = -result; return Status::io_error;
  }
}

}  // namespace sluice
