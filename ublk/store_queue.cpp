#include "ublk/store_queue.hpp"

#include <liburing.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace sluice {

namespace {

using Operation = Request::Operation;

constexpr std::uint64_t group_bytes = extent_group_pages * extent_page_bytes;
// A full stream is looked at again after this; its consumer takes thousands of messages meanwhile.
constexpr std::chrono::milliseconds room_interval{1};
// What waits for room when the device stops has this long.
constexpr std::chrono::seconds stop_patience{5};

int errno_of(Status status) noexcept {
  switch (status) {
    case Status::ok: return 0;
    case Status::exhausted: return ENOSPC;
    case Status::no_cell:
    case Status::overflow: return ENOMEM;
    default: return EIO;
  }
}

}  // namespace

StoreQueue::StoreQueue(TargetContext& context, ExtentStore& store, StoreLane& lane, PublishPolicy policy)
    : context_(context),
      store_(store),
      lane_(lane),
      policy_(policy),
      progress_(context.depth()),
      waiting_(context.depth()) {}

void StoreQueue::start(Request& request) noexcept {
  if (request.operation() == Operation::read) return request.finish(read(request));
  Progress& progress = progress_[request.tag()];
  progress = {.request = &request, .done = 0};
  if (store_.tells()) {
    if (policy_ == PublishPolicy::fail) {
      const auto messages = messages_of(request);
      if (messages > store_.room(messages)) {
        finish(progress, EIO);
        return;
      }
    }
    if (waiting_count_ != 0) return wait(request.tag());  // behind those that came before
  }
  if (advance(progress) != Next::nothing) wait(request.tag());
}

// ---- Reading ---------------------------------------------------------------------------------------------

int StoreQueue::read(Request& request) noexcept {
  for (std::uint32_t done = 0; done < request.bytes();) {
    const Progress at{.request = &request, .done = done};
    const Part part = part_of(at);
    std::array<iovec, extent_group_pages> pieces;
    std::size_t count = 0;
    const auto held =
        store_.hold(part.page / extent_group_pages);  // while the kernel copies: a block must not go
    for (std::uint32_t i = 0; i < part.pages; ++i) {
      const auto found = store_.bytes_of(part.page + i);
      if (!found) return EIO;
      const std::byte* bytes = *found != nullptr ? *found : zeroes().data() + i * extent_page_bytes;
      const bool adjoins =
          count != 0 &&
          static_cast<std::byte*>(pieces[count - 1].iov_base) + pieces[count - 1].iov_len == bytes;
      if (adjoins)
        pieces[count - 1].iov_len += extent_page_bytes;
      else
        pieces[count++] = {const_cast<std::byte*>(bytes), extent_page_bytes};
    }
    if (const int error = request.give_data(done, std::span(pieces).first(count)); error != 0) return error;
    done += part.pages * static_cast<std::uint32_t>(extent_page_bytes);
  }
  return 0;
}

// ---- Changing --------------------------------------------------------------------------------------------

StoreQueue::Part StoreQueue::part_of(const Progress& progress) const noexcept {
  const auto page = (progress.request->offset() + progress.done) / extent_page_bytes;
  const auto left = (progress.request->bytes() - progress.done) / extent_page_bytes;
  const auto pages = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(left, extent_group_pages - page % extent_group_pages));
  return {page, pages, pages == extent_group_pages};
}

// Messages that a request makes, at most.
std::uint64_t StoreQueue::messages_of(const Request& request) const noexcept {
  if (request.operation() == Operation::flush) return 1;
  if (request.operation() != Operation::write)
    return 1 + request.bytes() / (ExtentStore::clear_pages_max * extent_page_bytes);
  std::uint64_t messages = 0;
  for (Progress at{.request = const_cast<Request*>(&request), .done = 0}; at.done < request.bytes();) {
    const Part part = part_of(at);
    messages += part.blocks();
    at.done += part.pages * static_cast<std::uint32_t>(extent_page_bytes);
  }
  return messages;
}

StoreQueue::Next StoreQueue::advance(Progress& progress) noexcept {
  switch (progress.request->operation()) {
    case Operation::write: return write(progress);
    case Operation::discard:
    case Operation::write_zeroes: return clear(progress);
    case Operation::flush:
      if (const auto told = store_.flush(); told != Status::ok) return failed(progress, told);
      return synchronize(progress);
    case Operation::read: break;
  }
  return finish(progress, EIO);
}

StoreQueue::Next StoreQueue::write(Progress& progress) noexcept {
  Request& request = *progress.request;
  while (progress.done < request.bytes()) {
    Part part = part_of(progress);
    std::array<Reference, extent_group_pages> references{};
    std::array<iovec, extent_group_pages> pieces;
    if (const auto status = allocate(part, references, pieces); status != Status::ok)
      return failed(progress, status);
    const auto blocks = std::span(references).first(part.blocks());
    if (const int error = request.take_data(progress.done, std::span(pieces).first(blocks.size()));
        error != 0) {
      const std::lock_guard held(lane_.mutex);
      release(blocks);
      return finish(progress, error);
    }
    const std::lock_guard held(lane_.mutex);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const auto position = part.whole ? store_.slots().group_of(part.page) : part.page + i;
      if (const auto status = store_.write(*lane_.lane, position, blocks[i]); status != Status::ok) {
        release(blocks.subspan(i));
        return failed(progress, status);
      }
      progress.done += static_cast<std::uint32_t>(pieces[i].iov_len);
    }
  }
  return request.fua() ? synchronize(progress) : finish(progress, 0);
}

// A block for a whole group; or, if no unit is free any more, one for each page. As many as can be told now: a stream
// may be smaller than a part.
Status StoreQueue::allocate(Part& part, std::span<Reference> blocks, std::span<iovec> pieces) noexcept {
  const auto room = store_.room(part.pages);
  if (room == 0) return Status::full;
  const std::lock_guard held(lane_.mutex);
  auto& heap = lane_.lane->heap();
  if (part.whole) {
    if (const auto block = heap.allocate(group_bytes)) {
      blocks[0] = *block;
      pieces[0] = {heap.bytes(*block).data(), group_bytes};
      return Status::ok;
    }
    part.whole = false;
  }
  part.pages = static_cast<std::uint32_t>(std::min<std::uint64_t>(part.pages, room));
  for (std::uint32_t i = 0; i < part.pages; ++i) {
    const auto block = heap.allocate(extent_page_bytes);
    if (!block) {
      release(blocks.first(i));
      return block.error();
    }
    blocks[i] = *block;
    pieces[i] = {heap.bytes(*block).data(), extent_page_bytes};
  }
  return Status::ok;
}

// With the lane held. What is not its any more is not released: the cell says so.
void StoreQueue::release(std::span<const Reference> blocks) noexcept {
  for (const Reference block : blocks) [[maybe_unused]]
    const auto released = lane_.lane->heap().release(block);
}

StoreQueue::Next StoreQueue::clear(Progress& progress) noexcept {
  const Request& request = *progress.request;
  const auto first = (request.offset() + progress.done) / extent_page_bytes;
  const auto pages =
      std::min((request.bytes() - progress.done) / extent_page_bytes, ExtentStore::clear_pages_max);
  const auto status = [&] {
    const std::lock_guard held(lane_.mutex);
    return store_.clear(*lane_.lane, first, pages);
  }();
  if (status != Status::ok) return failed(progress, status);
  progress.done += static_cast<std::uint32_t>(pages * extent_page_bytes);
  if (progress.done < request.bytes()) return Next::soon;  // other requests are not to wait for all of it
  return request.fua() ? synchronize(progress) : finish(progress, 0);
}

StoreQueue::Next StoreQueue::failed(Progress& progress, Status status) noexcept {
  // What the stream still holds comes back once its consumer took it.
  const bool passes = status == Status::full || (status == Status::exhausted && store_.has_untaken());
  if (passes && policy_ == PublishPolicy::block && Clock::now() < give_up_) return Next::when_room;
  return finish(progress, errno_of(status));
}

StoreQueue::Next StoreQueue::synchronize(Progress& progress) noexcept {
  io_uring_sqe* entry = context_.prepare(progress.request->tag());
  if (entry == nullptr) return finish(progress, EBUSY);
  io_uring_prep_fsync(entry, lane_.lane->segment().fd(), IORING_FSYNC_DATASYNC);
  return Next::nothing;
}

void StoreQueue::complete(std::uint32_t cookie, std::int32_t result, std::uint32_t /*flags*/) noexcept {
  if (cookie >= progress_.size() || progress_[cookie].request == nullptr) return;
  Progress& progress = progress_[cookie];
  if (result == -EAGAIN || result == -EINTR)
    synchronize(progress);
  else
    finish(progress, result < 0 ? -result : 0);
}

StoreQueue::Next StoreQueue::finish(Progress& progress, int errno_value) noexcept {
  std::exchange(progress.request, nullptr)->finish(errno_value);
  return Next::nothing;
}

// ---- Waiting ---------------------------------------------------------------------------------------------

void StoreQueue::wait(std::uint16_t tag) noexcept {
  waiting_[(waiting_first_ + waiting_count_++) % waiting_.size()] = tag;
  poll_at_ = std::min(poll_at_, Clock::now());
}

std::uint16_t StoreQueue::next_waiting() noexcept {
  const auto tag = waiting_[waiting_first_];
  waiting_first_ = (waiting_first_ + 1) % waiting_.size();
  --waiting_count_;
  return tag;
}

// Each that waits goes on, in order, up to the first that finds no room.
void StoreQueue::poll() noexcept {
  bool full = false;
  for (auto left = waiting_count_; left != 0 && !full; --left) {
    const auto tag = waiting_[waiting_first_];
    switch (advance(progress_[tag])) {
      case Next::nothing: next_waiting(); break;
      case Next::soon: wait(next_waiting()); break;
      case Next::when_room: full = true; break;
    }
  }
  if (waiting_count_ == 0)
    poll_at_ = Clock::time_point::max();
  else if (full)
    poll_at_ = Clock::now() + room_interval;
  const std::lock_guard held(lane_.mutex);
  lane_.lane->heap().flush();  // nobody waits for blocks that a sleeper has freed
}

TargetQueue::Clock::time_point StoreQueue::poll_at() const noexcept { return poll_at_; }

void StoreQueue::stop() noexcept { give_up_ = Clock::now() + stop_patience; }

}  // namespace sluice
