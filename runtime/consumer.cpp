#include "runtime/consumer.hpp"

#include "ipc/subscription.hpp"
#include "shm/block.hpp"

#include <fmt/format.h>

#include <utility>

namespace sluice {

namespace {

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

// Whether bytes that begin at `offset` lie in the block.
bool holds_bytes(const BlockView& block, std::uint64_t offset, std::uint64_t length) noexcept {
  return offset <= block.bytes && length <= block.bytes - offset;
}

}  // namespace

// ---- A message in hand -----------------------------------------------------------------------------------

Received::Received(Received&& other) noexcept
    : consumer_(other.end()),
      message_(other.message_),
      bytes_(other.bytes_),
      deliveries_(other.deliveries_),
      lease_(other.lease_),
      has_copy_(other.has_copy_),
      copy_(other.copy_),
      block_(std::move(other.block_)) {}

Received::~Received() {
  if (open() && consumer_->lane_->is_ours()) (void)reject();  // in a forked child it is the parent's
}

Status Received::acknowledge() noexcept {
  if (!open()) return Status::stale;
  const auto status =
      std::visit(Overloaded{
                     [](StreamConsumer& stream) { return stream.acknowledge(); },
                     [&](WorkQueue& queue) { return queue.acknowledge(lease_); },
                     [&](Subscriber& subscriber) { return has_copy_ ? Status::ok : subscriber.advance(); },
                 },
                 consumer_->end_);
  if (status == Status::no_cell) return status;  // it is still in hand
  block_.reset();
  end()->in_hand_ = false;
  return status;
}

// A stream's and a broadcast's message was never taken. One that was copied was: only it can be shown no more.
Status Received::reject() noexcept {
  auto* consumer = end();
  if (consumer == nullptr) return Status::stale;
  consumer->in_hand_ = false;
  block_.reset();
  auto* queue = std::get_if<WorkQueue>(&consumer->end_);
  return queue == nullptr ? Status::ok : queue->reject(lease_);
}

std::expected<MemoryBlock, Status> Received::keep() noexcept {
  if (!open()) return std::unexpected(Status::stale);
  auto& lane = *consumer_->lane_;
  const auto offset = message().offset;
  const auto length = message().length;
  auto kept = std::visit(Overloaded{
                             [](StreamConsumer& stream) { return stream.pop(); },
                             [&](WorkQueue& queue) { return queue.keep(lease_); },
                             [&](Subscriber& subscriber) -> std::expected<Reference, Status> {
                               if (has_copy_) return block_.detach();
                               auto own = message_->handle == 0
                                              ? std::expected<Reference, Status>(Reference{})
                                              : lane.heap().look_up({message_->handle});
                               if (own) (void)subscriber.advance();
                               return own;
                             },
                         },
                         consumer_->end_);
  if (!kept) return std::unexpected(kept.error());
  end()->in_hand_ = false;
  return *kept ? MemoryBlock(lane, *kept, offset, length) : MemoryBlock();
}

// The block is the queue's, and this lane alone can take it out; what others hold, or can find, is not to be changed.
std::span<std::byte> Received::writable() noexcept {
  if (!open() || std::holds_alternative<Subscriber>(consumer_->end_) || message_->kind == MessageKind::write)
    return {};
  const auto block = consumer_->lane_->heap().own_of({message_->handle});
  return block ? block->subspan(message_->offset, bytes_.size()) : std::span<std::byte>{};
}

Status Received::forward(Producer& to, const Message& message, std::chrono::nanoseconds timeout) noexcept {
  if (!open()) return Status::stale;
  if (&to.lane() != consumer_->lane_) return Status::bad_argument;
  const auto& received = this->message();
  auto told = message;
  if (told.offset == 0 && told.length == 0) {
    told.offset = received.offset;
    told.length = received.length;
  }
  // Without a block the numbers are the application's own.
  if (received.handle != 0) {
    const auto block = find_block(consumer_->lane_->segment(), {received.handle});
    if (!block || !holds_bytes(*block, told.offset, told.length)) return Status::bad_argument;
  }
  const auto status =
      std::visit(Overloaded{
                     [&](StreamConsumer& stream) { return to.forward(stream, told, timeout); },
                     [&](WorkQueue& queue) { return to.forward(queue, lease_, told, timeout); },
                     [&](Subscriber& subscriber) {
                       if (to.row_ == &queue_row(to.lane().segment(), subscriber.id().index))
                         return Status::bad_argument;
                       if (!has_copy_) return to.forward(subscriber, {message_->handle}, told, timeout);
                       const auto pushed = to.push(told, block_.reference(), timeout);
                       if (pushed == Status::ok) (void)block_.detach();
                       return pushed;
                     },
                 },
                 consumer_->end_);
  if (status == Status::ok) end()->in_hand_ = false;
  return status;
}

// ---- Opening ---------------------------------------------------------------------------------------------

Consumer::Consumer(Lane& lane, SubscriberPolicy policy, End end) noexcept
    : lane_(&lane), policy_(policy), end_(std::move(end)) {}

Consumer::Consumer(Consumer&& other) noexcept : Consumer(*other.lane_, other.policy_, std::move(other.end_)) {
  stopped_ = other.stopped_.load();
}

Expected<Consumer> Consumer::open(Lane& lane, std::string_view name, const SubscriberOptions& options) {
  const auto queue = find_queue(lane.segment(), name);
  if (!queue) return std::unexpected(queue.error());
  const auto& row = queue_row(lane.segment(), queue->index);
  const auto made = [&](auto end) -> Expected<Consumer> {
    if (end) return Consumer(lane, options.policy, std::move(*end));
    const auto kind = static_cast<QueueKind>(load(row.kind, relaxed));
    return fail(end.error(),
                fmt::format("queue {}: cannot be consumed: {}", name,
                            kind == QueueKind::broadcast  ? why_not_joined(end.error(), options.name)
                            : end.error() == Status::busy ? "another lane consumes it"
                                                          : to_string(end.error())));
  };
  switch (static_cast<QueueKind>(load(row.kind, relaxed))) {
    case QueueKind::stream: return made(StreamConsumer::claim(lane, *queue));
    case QueueKind::work: return made(WorkQueue::open(lane, *queue));
    case QueueKind::broadcast: return made(Subscriber::join(lane, *queue, options));
    case QueueKind::none:
    case QueueKind::extents: break;
  }
  return fail(Status::bad_argument, fmt::format("queue {}: found an extent map, expected a queue", name));
}

// ---- Receiving -------------------------------------------------------------------------------------------

std::expected<void, Status> Consumer::look(StreamConsumer& stream, Received& received) noexcept {
  received.message_ = stream.peek();
  if (received.message_ == nullptr) return std::unexpected(stream.ended() ? Status::closed : Status::empty);
  received.deliveries_ = stream.redelivered() ? 1 : 0;
  in_hand_ = true;
  return {};
}

std::expected<void, Status> Consumer::look(WorkQueue& queue, Received& received) noexcept {
  const auto lease = queue.take();
  if (!lease)
    return std::unexpected(lease.error() == Status::empty && queue.ended() ? Status::closed : lease.error());
  received.lease_ = *lease;
  received.message_ = queue.message(*lease);
  received.deliveries_ = lease->deliveries;
  return {};
}

std::expected<void, Status> Consumer::look(Subscriber& subscriber, Received& received) noexcept {
  if (policy_ == SubscriberPolicy::block) {
    received.message_ = subscriber.peek();
    if (received.message_ == nullptr)
      return std::unexpected(subscriber.ended() ? Status::closed : Status::empty);
    received.deliveries_ = subscriber.redelivered() ? 1 : 0;
    in_hand_ = true;
    return {};
  }
  const auto taken = subscriber.take();
  if (!taken) return std::unexpected(taken.error());
  received.has_copy_ = true;
  received.deliveries_ = taken->redelivered ? 1 : 0;
  received.copy_ = taken->message;
  if (taken->reference)
    received.block_ = MemoryBlock(*lane_, taken->reference, taken->message.offset, taken->message.length);
  return {};
}

std::expected<Received, Status> Consumer::try_receive() noexcept {
  if (in_hand_) return std::unexpected(Status::busy);
  if (stopped_.load(std::memory_order_acquire)) {
    // A message that came with the stop is left to who does not stop.
    if (const auto news = messages(); news.ready(news.of)) wake_one(lane_->segment(), *news.marks);
    return std::unexpected(Status::interrupted);
  }
  Received received(*this);
  const auto found = std::visit([&](auto& end) { return look(end, received); }, end_);
  if (!found) {
    received.end();
    return std::unexpected(found.error());
  }
  const auto& message = received.message();
  if (message.handle == 0) return received;
  // The queue, or our own reference, keeps the block: it is there unless bytes are damaged.
  const auto block = find_block(lane_->segment(), {message.handle});
  if (!block || !holds_bytes(*block, message.offset, message.length)) {
    damaged_ = message;
    return std::unexpected(Status::corrupt);
  }
  received.bytes_ = block->span().subspan(message.offset, message.length);
  return received;
}

WaitSource Consumer::messages() const noexcept {
  return std::visit([](const auto& end) { return end.messages(); }, end_);
}

WaitSource Consumer::source() noexcept {
  auto source = messages();
  source.of = this;
  source.ready = [](const void* of) noexcept {
    const auto& self = *static_cast<const Consumer*>(of);
    const auto news = self.messages();
    return self.stopped_.load(std::memory_order_acquire) || news.ready(news.of);
  };
  return source;
}

std::expected<Received, Status> Consumer::receive(std::chrono::nanoseconds timeout) noexcept {
  const auto deadline = deadline_after(timeout);
  for (;;) {
    auto received = try_receive();
    if (received || received.error() != Status::empty) return received;
    const auto left = left_until(deadline);
    if (left <= std::chrono::nanoseconds::zero()) return std::unexpected(Status::timeout);
    const auto news = source();
    const auto woken = wait_any(*lane_, std::span(&news, 1), left);
    if (!woken && woken.error() == Status::interrupted) return std::unexpected(Status::interrupted);
  }
}

void Consumer::go_on() noexcept {
  if (current_ && current_->open())
    if (const auto status = current_->acknowledge(); status != Status::ok && status != Status::stale) {
      current_.reset();
      ended_with_ = status;
      return;
    }
  current_.reset();
  if (auto next = receive())
    current_.emplace(std::move(*next));
  else
    ended_with_ = next.error();
}

std::uint64_t Consumer::lost() const noexcept {
  const auto* subscriber = std::get_if<Subscriber>(&end_);
  return subscriber == nullptr ? 0 : subscriber->missed() + subscriber->lost();
}

void Consumer::stop() noexcept {
  stopped_.store(true, std::memory_order_release);
  ring(lane_->row().doorbell);
}

}  // namespace sluice
