#include "ublk/file_queue.hpp"

#include <liburing.h>

#include <cerrno>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>

namespace sluice {

using Operation = Request::Operation;

FileQueue::FileQueue(TargetContext& context, int file)
    : context_(context), file_(file), slots_(context.depth()) {}

void FileQueue::start(Request& request) noexcept {
  Slot& slot = slots_[request.tag()];
  slot = {.request = &request, .done = 0, .syncing = request.operation() == Operation::flush};
  // With zero copy there is no buffer, and the data stays where it is.
  if (request.operation() == Operation::write)
    if (const int error = request.take_data(0, request.buffer()); error != 0) return finish(slot, error);
  submit(slot);
}

void FileQueue::submit(Slot& slot) noexcept {
  Request& request = *slot.request;
  const bool moves = request.operation() == Operation::read || request.operation() == Operation::write;
  if (moves && !slot.syncing && context_.zero_copy()) {
    const bool durable = request.operation() == Operation::write && request.fua();
    if (!context_.transfer(request, {.file = file_,
                                     .position = request.offset() + slot.done,
                                     .at = slot.done,
                                     .bytes = request.bytes() - slot.done,
                                     .rw_flags = durable ? RWF_DSYNC : 0,
                                     .cookie = request.tag()}))
      finish(slot, EBUSY);
    return;
  }
  io_uring_sqe* entry = context_.prepare(request.tag());
  if (entry == nullptr) return finish(slot, EBUSY);
  if (slot.syncing) return io_uring_prep_fsync(entry, file_, IORING_FSYNC_DATASYNC);
  std::byte* memory = request.buffer().data() + slot.done;
  const auto left = request.bytes() - slot.done;
  switch (request.operation()) {
    case Operation::read: io_uring_prep_read(entry, file_, memory, left, request.offset() + slot.done); break;
    case Operation::write:
      io_uring_prep_write(entry, file_, memory, left, request.offset() + slot.done);
      if (request.fua()) entry->rw_flags = RWF_DSYNC;
      break;
    case Operation::discard:
    case Operation::write_zeroes: {
      const int mode = request.keep_allocated() ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
      io_uring_prep_fallocate(entry, file_, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(request.offset()),
                              request.bytes());
      break;
    }
    case Operation::flush: break;  // syncing
  }
}

void FileQueue::complete(std::uint32_t cookie, std::int32_t result, std::uint32_t /*flags*/) noexcept {
  if (cookie >= slots_.size() || slots_[cookie].request == nullptr) return;
  Slot& slot = slots_[cookie];
  Request& request = *slot.request;
  if (result == -EAGAIN || result == -EINTR) return submit(slot);
  if (result < 0) return finish(slot, -result);
  const bool moves = request.operation() == Operation::read || request.operation() == Operation::write;
  if (slot.syncing) return finish(slot, 0);
  if (moves) {
    if (result == 0) return finish(slot, EIO);  // the file has become shorter
    slot.done += static_cast<std::uint32_t>(result);
    if (slot.done < request.bytes()) return submit(slot);
    return finish(slot, request.operation() == Operation::read ? request.give_data(0, request.buffer()) : 0);
  }
  slot.syncing = request.fua();
  if (slot.syncing) return submit(slot);
  finish(slot, 0);
}

void FileQueue::finish(Slot& slot, int error) noexcept {
  Request& request = *slot.request;
  slot.request = nullptr;
  request.finish(error);
}

}  // namespace sluice
