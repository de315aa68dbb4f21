#include "tests/verify/soak/stream_ends.hpp"

#include "tests/support/must.hpp"
#include "tests/verify/soak/content.hpp"

#include <fmt/format.h>

#include <ctime>
#include <stdexcept>

namespace sluice::verify {

namespace {

constexpr std::uint16_t flag_fresh = 1;

template <class... Args>
[[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

std::uint32_t check_of(const Message& message) noexcept {
  return static_cast<std::uint32_t>(mix(message.flow * 131 + message.length, message.position) >> 7);
}

// Where a new holder of an end finds the stream: not before what is known to be done, not past what was begun.
void check_position(std::string_view what, std::uint32_t stream, std::uint64_t found, std::uint64_t done,
                    std::uint64_t begun, bool rested) {
  if (found < done || found > begun)
    wrong("stream {}: {} is {}, but {} were done and {} begun", stream, what, found, done, begun);
  if (rested && done != begun)
    wrong("stream {}: {} is {}, given up in order with {} done and {} begun", stream, what, found, done,
          begun);
}

}  // namespace

Message make_message(std::uint32_t stream, std::uint64_t number, std::uint64_t bytes,
                     bool is_fresh) noexcept {
  Message message{};
  message.kind = MessageKind::user;
  message.flow = stream;
  message.position = number;
  message.length = static_cast<std::uint32_t>(bytes);
  message.flags = is_fresh ? flag_fresh : 0;
  message.detail = check_of(message);
  return message;
}

std::uint64_t seed_of(std::uint32_t stream, std::uint64_t number) noexcept { return mix(stream + 1, number); }

// --- producer ---------------------------------------------------------------------------------------------

bool WitnessedProducer::claim(Lane& lane, QueueId queue, std::uint32_t stream, StreamJournal& journal) {
  auto claimed = StreamProducer::claim(lane, queue);
  if (!claimed) {
    if (claimed.error() == Status::busy) return false;
    wrong("stream {}: the producer's end cannot be claimed: {}", stream, to_string(claimed.error()));
  }
  check_position("tail", stream, claimed->tail(), journal.pushed, journal.pushing,
                 journal.producer_rested != 0);
  journal.producer_rested = 0;
  journal.pushed = claimed->tail();
  journal.pushing = claimed->tail();
  producer_ = std::move(*claimed);
  journal_ = &journal;
  stream_ = stream;
  return true;
}

void WitnessedProducer::rest() noexcept {
  if (!producer_) return;
  journal_->producer_rested = 1;
  producer_ = {};
}

bool WitnessedProducer::push(Reference reference, std::uint64_t bytes, bool is_fresh) {
  const auto number = producer_.tail();
  if (journal_->pushed != number || journal_->pushing != number)
    wrong("stream {}: somebody else has pushed: {} and {}, expected {}", stream_, journal_->pushed.load(),
          journal_->pushing.load(), number);
  const auto message = make_message(stream_, number, bytes, is_fresh);
  note(journal_->pushing, number + 1);
  const auto status = reference ? producer_.push(message, reference) : producer_.push(message);
  if (status == Status::full) {
    note(journal_->pushing, number);
    return false;
  }
  if (status != Status::ok) wrong("stream {}: push of {}: {}", stream_, number, to_string(status));
  note(journal_->pushed, number + 1);
  return true;
}

// --- consumer ---------------------------------------------------------------------------------------------

bool WitnessedConsumer::claim(Lane& lane, QueueId queue, std::uint32_t stream, StreamJournal& journal) {
  auto claimed = StreamConsumer::claim(lane, queue);
  if (!claimed) {
    if (claimed.error() == Status::busy) return false;
    wrong("stream {}: the consumer's end cannot be claimed: {}", stream, to_string(claimed.error()));
  }
  next_ = load(queue_row(lane.segment(), queue.index).head, acquire);
  const bool rested = journal.consumer_rested != 0;
  check_position("head", stream, next_, journal.taken, journal.shown, rested);
  may_be_marked_ = !rested;
  journal.consumer_rested = 0;
  journal.taken = next_;  // shown stays: it is what tells that the next one must be marked
  consumer_ = std::move(*claimed);
  lane_ = &lane;
  journal_ = &journal;
  stream_ = stream;
  return true;
}

void WitnessedConsumer::rest() noexcept {
  if (!consumer_) return;
  // Not in order if a message was shown and not taken: the next one sees it marked, as after a death.
  if (journal_->shown == next_ && !may_be_marked_) journal_->consumer_rested = 1;
  consumer_ = {};
}

std::optional<Reference> WitnessedConsumer::take(long handling_us) {
  const auto* message = consumer_.peek();
  if (message == nullptr) return std::nullopt;
  if (journal_->taken != next_)
    wrong("stream {}: somebody else has taken: {}, expected {}", stream_, journal_->taken.load(), next_);
  check_mark(journal_->shown == next_ + 1);
  note(journal_->shown, next_ + 1);
  check_contents(*message);
  if (handling_us != 0) {
    const timespec time{.tv_sec = 0, .tv_nsec = handling_us * 1000};
    ::nanosleep(&time, nullptr);
    check_contents(*message);
  }
  const auto handle = message->handle;
  const auto popped = consumer_.pop();
  if (!popped) wrong("stream {}: pop of {}: {}", stream_, next_, to_string(popped.error()));
  note(journal_->taken, ++next_);
  may_be_marked_ = false;
  if (popped->handle.value != handle)
    wrong("stream {}: message {} came with handle {:#x}, expected {:#x}", stream_, next_ - 1,
          popped->handle.value, handle);
  return *popped;
}

// A message that was shown before comes with the mark; one with the mark may have been, and is the first that its
// consumer sees.
void WitnessedConsumer::check_mark(bool was_shown) {
  const bool is_marked = consumer_.redelivered();
  if (was_shown && !is_marked) wrong("stream {}: message {} came twice without a mark", stream_, next_);
  if (is_marked && !may_be_marked_)
    wrong("stream {}: message {} is marked as redelivered, and no consumer died", stream_, next_);
  if (is_marked) count_one(journal_->redelivered);
}

void WitnessedConsumer::check_contents(const Message& message) const {
  const bool is_fresh = (message.flags & flag_fresh) != 0;
  if (message.position != next_ || message.flow != stream_ || message.kind != MessageKind::user ||
      message.detail != check_of(message))
    wrong("stream {}: message {} is number {} of stream {}, check {}", stream_, next_, message.position,
          message.flow, message.detail == check_of(message) ? "right" : "wrong");
  if ((message.handle == 0) != (message.length == 0))
    wrong("stream {}: message {} has handle {:#x} and {} bytes", stream_, next_, message.handle,
          message.length);
  if (message.handle == 0) return;
  const auto block = find_block(lane_->segment(), Handle{message.handle});
  if (!block) wrong("stream {}: message {} names {:#x}, which is not live", stream_, next_, message.handle);
  const auto seed = read_block(block->span(), Handle{message.handle});
  if (!seed)
    wrong("stream {}: the block {:#x} of message {} has other bytes", stream_, message.handle, next_);
  if (block->bytes < message.length || (is_fresh && *seed != seed_of(stream_, next_)))
    wrong("stream {}: the block {:#x} of message {} is another's", stream_, message.handle, next_);
}

}  // namespace sluice::verify
