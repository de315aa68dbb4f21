#include "io/outlet.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sluice {

namespace {

// Closed by the end of an earlier run it is opened, as streams and broadcasts are by their next producer.
std::expected<WorkQueue, Status> open_work(Lane& lane, QueueId id) {
  auto queue = WorkQueue::open(lane, id);
  if (queue && queue->closed()) queue->reopen();
  return queue;
}

}  // namespace

Expected<Outlet> Outlet::open(Lane& lane, const std::string& name) {
  const auto id = find_queue(lane.segment(), name);
  if (!id) return std::unexpected(id.error());
  auto& row = queue_row(lane.segment(), id->index);
  const auto made = [&](auto end) -> Expected<Outlet> {
    if (!end)
      return fail(end.error(), fmt::format("queue {}: {}", name,
                                           end.error() == Status::busy ? "another producer has it"
                                                                       : to_string(end.error())));
    const auto capacity = end->capacity();
    Outlet outlet(lane, row, capacity, std::move(*end));
    outlet.taken_ = load(row.head, acquire);
    return outlet;
  };
  switch (static_cast<QueueKind>(load(row.kind, relaxed))) {
    case QueueKind::stream: return made(StreamProducer::claim(lane, *id));
    case QueueKind::work: return made(open_work(lane, *id));
    case QueueKind::broadcast: return made(Publisher::claim(lane, *id));
    case QueueKind::none:
    case QueueKind::extents: break;
  }
  return fail(Status::bad_argument, fmt::format("queue {}: found an extent map, expected a queue", name));
}

std::uint64_t Outlet::next() const noexcept {
  if (const auto* stream = std::get_if<StreamProducer>(&end_)) return stream->tail();
  if (const auto* publisher = std::get_if<Publisher>(&end_)) return publisher->tail();
  return load(row_->tail, acquire);
}

std::expected<std::uint64_t, Status> Outlet::push(const Message& message, Reference reference) noexcept {
  const auto position = next();
  const auto status = std::visit(
      [&](auto& end) { return reference ? end.push(message, reference) : end.push(message); }, end_);
  if (status != Status::ok) return std::unexpected(status);
  const auto* work = std::get_if<WorkQueue>(&end_);
  return work != nullptr ? work->last_pushed() : position;
}

Status Outlet::look() noexcept {
  if (out_of_order()) return Status::ok;
  if (const auto* publisher = std::get_if<Publisher>(&end_)) {
    taken_ = std::max(taken_, publisher->tail() - publisher->held());
    return Status::ok;
  }
  // The head as the consumer published it lies between what was seen of it and our tail.
  const auto head = load(row_->head, acquire);
  if (head - taken_ > next() - taken_) return Status::corrupt;
  taken_ = head;
  return Status::ok;
}

bool Outlet::is_taken(std::uint64_t position) const noexcept {
  const auto* work = std::get_if<WorkQueue>(&end_);
  return work != nullptr ? work->is_done(position) : position < taken_;
}

std::uint64_t Outlet::room() noexcept {
  if (auto* publisher = std::get_if<Publisher>(&end_))
    return publisher->room(std::max<std::uint64_t>(1, capacity_ / 4));
  if (const auto* work = std::get_if<WorkQueue>(&end_); work != nullptr) {
    if (!work->has_room()) return 0;
    const auto front = load(row_->head, acquire);  // at most behind, as tail is
    const auto depth = std::max(load(row_->tail, acquire), front) - front;
    return std::max<std::uint64_t>(1, capacity_ - std::min(capacity_, depth));
  }
  return capacity_ - (next() - taken_);
}

bool Outlet::shed() noexcept {
  auto* publisher = std::get_if<Publisher>(&end_);
  return publisher != nullptr && publisher->shed();
}

Doorbell* Outlet::consumer_bell() const noexcept {
  if (!std::holds_alternative<StreamProducer>(end_)) return nullptr;
  const auto& segment = lane_->segment();
  const auto lane = lane_claim::Lane::get(load(row_->consumer, relaxed));
  if (lane == 0 || lane >= segment.header().lane_count) return nullptr;
  return &segment.lane_row(lane).doorbell;
}

void Outlet::close() noexcept {
  if (auto* stream = std::get_if<StreamProducer>(&end_)) stream->close();
  if (auto* publisher = std::get_if<Publisher>(&end_)) publisher->close();
}

}  // namespace sluice
