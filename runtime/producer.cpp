#include "runtime/producer.hpp"

#include <fmt/format.h>

#include <utility>

namespace sluice {

namespace {

std::unexpected<Error> cannot_open(std::string_view name, Status status) {
  return fail(status, fmt::format("queue {}: cannot be published into: {}", name,
                                  status == Status::busy ? "another lane does" : to_string(status)));
}

Message of_a_kind(const Message& message) noexcept {
  auto told = message;
  if (told.kind == MessageKind::none) told.kind = MessageKind::user;
  return told;
}

}  // namespace

Expected<Producer> Producer::open(Lane& lane, std::string_view name) {
  const auto queue = find_queue(lane.segment(), name);
  if (!queue) return std::unexpected(queue.error());
  auto& row = queue_row(lane.segment(), queue->index);
  const auto made = [&](auto end) -> Expected<Producer> {
    if (!end) return cannot_open(name, end.error());
    return Producer(lane, row, std::move(*end));
  };
  switch (static_cast<QueueKind>(load(row.kind, relaxed))) {
    case QueueKind::stream: return made(StreamProducer::claim(lane, *queue));
    case QueueKind::work: return made(WorkQueue::open(lane, *queue));
    case QueueKind::broadcast: return made(Publisher::claim(lane, *queue));
    case QueueKind::none:
    case QueueKind::extents: break;
  }
  return fail(Status::bad_argument, fmt::format("queue {}: found an extent map, expected a queue", name));
}

Status Producer::publish(MemoryBlock&& block, const Message& message,
                         std::chrono::nanoseconds timeout) noexcept {
  if (!block || &block.lane() != lane_) return Status::stale;
  if (block.offset() + block.size() > ~std::uint32_t{0}) return Status::too_large;
  auto told = message;
  told.offset = static_cast<std::uint32_t>(block.offset());
  told.length = static_cast<std::uint32_t>(block.size());
  const auto status = push(told, block.reference(), timeout);
  if (status == Status::ok) block.detach();
  return status;
}

Status Producer::publish(const Message& message, std::chrono::nanoseconds timeout) noexcept {
  return push(message, {}, timeout);
}

template <class Try>
Status Producer::wait_for_room(std::chrono::nanoseconds timeout, Try&& try_once) noexcept {
  auto status = try_once();
  if (status != Status::full || load(row_->policy, relaxed) != static_cast<std::uint32_t>(QueuePolicy::block))
    return status;
  const auto deadline = deadline_after(timeout);
  while (status == Status::full) {
    const auto left = left_until(deadline);
    if (left <= std::chrono::nanoseconds::zero()) break;
    const auto source = room();
    const auto woken = wait_any(*lane_, std::span(&source, 1), left);
    if (!woken && woken.error() == Status::interrupted) return Status::interrupted;
    status = try_once();
  }
  return status;
}

Status Producer::push(const Message& message, Reference reference,
                      std::chrono::nanoseconds timeout) noexcept {
  const auto told = of_a_kind(message);
  return wait_for_room(timeout, [&] {
    return std::visit([&](auto& end) { return reference ? end.push(told, reference) : end.push(told); },
                      end_);
  });
}

Status Producer::forward(WorkQueue& from, const WorkLease& lease, const Message& message,
                         std::chrono::nanoseconds timeout) noexcept {
  const auto told = of_a_kind(message);
  return wait_for_room(
      timeout, [&] { return std::visit([&](auto& to) { return from.forward(lease, to, told); }, end_); });
}

Status Producer::forward(StreamConsumer& from, const Message& message,
                         std::chrono::nanoseconds timeout) noexcept {
  const auto told = of_a_kind(message);
  return wait_for_room(timeout,
                       [&] { return std::visit([&](auto& to) { return from.forward(to, told); }, end_); });
}

Status Producer::forward(Subscriber& from, Handle handle, const Message& message,
                         std::chrono::nanoseconds timeout) noexcept {
  auto& heap = lane_->heap();
  const auto own = handle ? heap.look_up(handle) : std::expected<Reference, Status>(Reference{});
  if (!own) return own.error();
  const auto status = push(message, *own, timeout);
  if (status == Status::ok) return from.advance();
  if (*own) (void)heap.release(*own);
  return status;
}

void Producer::close() noexcept {
  std::visit([](auto& end) { end.close(); }, end_);
}

}  // namespace sluice
