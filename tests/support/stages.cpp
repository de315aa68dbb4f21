#include "tests/support/stages.hpp"

#include "shm/block.hpp"
#include "tests/support/must.hpp"
#include "tests/support/temp_segment.hpp"

#include <utility>

namespace sluice::test {

namespace {

constexpr std::uint64_t older = 1000;  // numbers of messages that were there before
constexpr std::uint32_t from_capacity = 8, to_capacity = 4;

template <class Queue>
Status push(Lane& lane, Queue& queue, std::uint64_t number) {
  Message message{};
  message.kind = MessageKind::user;
  message.position = number;
  message.length = static_cast<std::uint32_t>(staged_bytes(number));
  if (message.length == 0) return queue.push(message);
  const auto block = must(lane.heap().allocate(message.length));
  fill_pattern(lane.heap().bytes(block).first(message.length), number);
  return queue.push(message, block);
}

QueueId create(Lane& lane, std::string_view name, QueueKind kind, std::uint32_t capacity) {
  if (kind == QueueKind::stream) return must(create_stream(lane, name, capacity));
  if (kind == QueueKind::work) return must(create_work_queue(lane, name, {.capacity = capacity}));
  return must(create_broadcast(lane, name, {.capacity = capacity, .subscribers_max = 2}));
}

QueueKind kind_of(const Segment& segment, QueueId id) {
  return static_cast<QueueKind>(load(queue_row(segment, id.index).kind, relaxed));
}

StagedMessage seen(const Segment& segment, const Message& message, std::uint32_t deliveries) {
  const auto bytes = staged_bytes(message.position);
  bool is_whole = message.length == bytes && (message.handle != 0) == (bytes != 0);
  if (is_whole && bytes != 0) {
    const auto block = find_block(segment, {message.handle});
    is_whole = block && has_pattern(block->span().first(bytes), message.position);
  }
  return {message.position, deliveries, is_whole};
}

}  // namespace

std::uint64_t staged_bytes(std::uint64_t number) noexcept {
  constexpr std::uint64_t bytes[] = {100, 0, 5000, 2 * unit_bytes, 64};
  return number >= older ? 64 : bytes[number % std::size(bytes)];
}

void make_stages(Lane& lane, const StagePair& pair, std::uint64_t messages) {
  const auto from = create(lane, from_name, pair.from, from_capacity);
  const auto to = create(lane, to_name, pair.to, to_capacity);
  if (pair.to == QueueKind::broadcast) {
    auto publisher = must(Publisher::claim(lane, to));
    for (std::uint64_t i = 0; i < 2; ++i) must(push(lane, publisher, older + i));
  }
  if (pair.from == QueueKind::broadcast) {
    auto publisher = must(Publisher::claim(lane, from));
    for (std::uint64_t i = 0; i < messages; ++i) must(push(lane, publisher, i));
  } else if (pair.from == QueueKind::stream) {
    auto producer = must(StreamProducer::claim(lane, from));
    auto consumer = must(StreamConsumer::claim(lane, from));
    for (std::uint32_t i = 0; i + 2 < from_capacity; ++i)
      must(push(lane, producer, i)), must(consumer.acknowledge());
    for (std::uint64_t i = 0; i < messages; ++i) must(push(lane, producer, i));
  } else {
    auto queue = must(WorkQueue::open(lane, from));
    for (std::uint32_t i = 0; i + 2 < from_capacity; ++i)
      must(push(lane, queue, i)), must(queue.acknowledge(must(queue.take())));
    for (std::uint64_t i = 0; i < messages; ++i) must(push(lane, queue, i));
  }
}

Forwarder::Forwarder(Lane& lane, const StagePair& pair) {
  const auto from_id = must(find_queue(lane.segment(), from_name));
  const auto to_id = must(find_queue(lane.segment(), to_name));
  if (pair.from == QueueKind::stream)
    from = must(StreamConsumer::claim(lane, from_id));
  else
    from = must(WorkQueue::open(lane, from_id));
  if (pair.to == QueueKind::stream) to = must(StreamProducer::claim(lane, to_id));
  if (pair.to == QueueKind::work) to = must(WorkQueue::open(lane, to_id));
  if (pair.to == QueueKind::broadcast) to = must(Publisher::claim(lane, to_id));
}

void Forwarder::take() {
  if (auto* queue = std::get_if<WorkQueue>(&from); queue != nullptr && !has_lease_) {
    lease_ = must(queue->take());
    has_lease_ = true;
  }
}

Status Forwarder::forward_next() {
  take();
  const auto status = std::visit(
      [&](auto& target) {
        if (auto* stream = std::get_if<StreamConsumer>(&from)) {
          const auto* message = stream->peek();
          return message == nullptr ? Status::empty : stream->forward(target, *message);
        }
        auto& queue = std::get<WorkQueue>(from);
        return queue.forward(lease_, target, *queue.message(lease_));
      },
      to);
  if (status == Status::ok) has_lease_ = false;
  return status;
}

void Forwarder::give_back() {
  if (std::exchange(has_lease_, false)) must(std::get<WorkQueue>(from).reject(lease_));
}

std::vector<StagedMessage> drain_stage(Lane& lane, std::string_view name) {
  const auto& segment = lane.segment();
  const auto id = must(find_queue(segment, name));
  std::vector<StagedMessage> found;
  if (kind_of(segment, id) == QueueKind::stream) {
    auto consumer = must(StreamConsumer::claim(lane, id));
    while (const auto* message = consumer.peek()) {
      found.push_back(seen(segment, *message, consumer.redelivered() ? 1 : 0));
      must(consumer.acknowledge());
    }
  } else if (kind_of(segment, id) == QueueKind::work) {
    auto queue = must(WorkQueue::open(lane, id));
    while (const auto lease = queue.take()) {
      found.push_back(seen(segment, *queue.message(*lease), lease->deliveries));
      must(queue.acknowledge(*lease));
    }
  } else {
    auto publisher = must(Publisher::claim(lane, id));
    auto subscriber = must(Subscriber::join(lane, id, {.start = Start::at(0)}));
    while (subscriber.has_message()) {
      const auto taken = subscriber.take();  // by look-up: the block can be found
      must_hold(taken.has_value(), "a message of the broadcast can be taken");
      if (taken->message.position < older) found.push_back(seen(segment, taken->message, 0));
      if (taken->reference) must(lane.heap().release(taken->reference));
    }
    must(publisher.trim(0));
  }
  lane.heap().flush();
  return found;
}

std::uint64_t staged_in(const Segment& segment, std::string_view name) {
  const auto& row = queue_row(segment, must(find_queue(segment, name)).index);
  std::uint64_t count = 0;
  if (const auto work = sound_ring(segment, row, QueueKind::work)) {
    for (std::uint64_t i = 0; i < work->capacity; ++i) {
      const auto state = work_word::state(load(work->slots[i].stamp, acquire));
      if (state == WorkState::full || state == WorkState::leased) ++count;
    }
    return count;
  }
  const auto ring = sound_ring(segment, row).value();
  const auto tail = pushed_messages(ring, row);
  for (auto position = load(row.head, acquire); position != tail; ++position)
    if (load(ring.at(position).position, relaxed) < older) ++count;
  return count;
}

}  // namespace sluice::test
