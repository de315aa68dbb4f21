#include "tests/verify/soak/broadcast_ends.hpp"

#include "tests/verify/soak/content.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <stdexcept>

namespace sluice::verify {

namespace {

template <class... Args>
[[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

std::uint32_t check_of(const Message& message) noexcept {
  return static_cast<std::uint32_t>(mix(message.flow * 131 + message.length, message.position) >> 11);
}

}  // namespace

// ---- Publishing ------------------------------------------------------------------------------------------

bool WitnessedPublisher::claim(Lane& lane, QueueId queue, std::uint32_t broadcast,
                               BroadcastJournal& journal) {
  auto claimed = Publisher::claim(lane, queue);
  if (!claimed) {
    if (claimed.error() == Status::busy) return false;
    wrong("broadcast {}: the publisher's role cannot be claimed: {}", broadcast, to_string(claimed.error()));
  }
  const auto tail = claimed->tail();
  if (tail < journal.published || tail > journal.publishing ||
      (journal.publisher_rested != 0 && tail != journal.publishing))
    wrong("broadcast {}: tail is {}, but {} were published and {} begun", broadcast, tail,
          journal.published.load(), journal.publishing.load());
  if (claimed->floor() > tail || tail - claimed->floor() > claimed->capacity())
    wrong("broadcast {}: keeps {} to {}", broadcast, claimed->floor(), tail);
  journal.publisher_rested = 0;
  journal.published = tail;
  journal.publishing = tail;
  publisher_ = std::move(*claimed);
  journal_ = &journal;
  broadcast_ = broadcast;
  return true;
}

void WitnessedPublisher::rest(bool closes) noexcept {
  if (!publisher_) return;
  if (closes) {
    ++journal_->closes;
    publisher_.close();
  }
  journal_->publisher_rested = 1;
  publisher_ = {};
}

bool WitnessedPublisher::publish(Reference reference, std::uint64_t bytes) {
  const auto number = publisher_.tail();
  if (journal_->published != number || journal_->publishing != number)
    wrong("broadcast {}: somebody else has published: {} and {}, expected {}", broadcast_,
          journal_->published.load(), journal_->publishing.load(), number);
  Message message{};
  message.kind = MessageKind::user;
  message.flow = broadcast_;
  message.position = number;
  message.length = static_cast<std::uint32_t>(bytes);
  message.detail = check_of(message);
  note(journal_->publishing, number + 1);
  const auto status = reference ? publisher_.push(message, reference) : publisher_.push(message);
  if (status == Status::ok) {
    note(journal_->published, number + 1);
    return true;
  }
  note(journal_->publishing, number);
  if (status != Status::full && status != Status::no_cell)
    wrong("broadcast {}: publish of {}: {}", broadcast_, number, to_string(status));
  return false;
}

void WitnessedPublisher::trim(std::uint64_t keep) {
  journal_->trims = 1;
  const auto status = publisher_.trim(keep);
  const auto left = publisher_.tail() - publisher_.floor();
  if ((status == Status::ok) != (left <= keep) ||
      (status != Status::ok && status != Status::full && status != Status::no_cell))
    wrong("broadcast {}: trim to {}: {}, {} are left", broadcast_, keep, to_string(status), left);
}

// ---- Reading ---------------------------------------------------------------------------------------------

bool WitnessedSubscriber::join(Lane& lane, QueueId queue, std::uint32_t broadcast, BroadcastJournal& journal,
                               const SubscriberOptions& options) {
  const auto published = journal.published.load();
  auto joined = Subscriber::join(lane, queue, options);
  if (!joined) {
    if (joined.error() == Status::exhausted) return false;
    wrong("broadcast {}: join: {}", broadcast, to_string(joined.error()));
  }
  subscriber_ = std::move(*joined);
  lane_ = &lane;
  journal_ = &journal;
  policy_ = options.policy;
  broadcast_ = broadcast;
  check_join(options.start, published);
  return true;
}

// Between what was published before it joined and what was begun until now; from then on, who blocks is not passed.
void WitnessedSubscriber::check_join(const Start& start, std::uint64_t published) const {
  const auto begun = journal_->publishing.load();
  const auto wanted = [&](std::uint64_t tail) {
    if (start.from == Start::From::now) return tail;
    return start.from == Start::From::last ? tail - std::min(tail, start.value) : std::min(tail, start.value);
  };
  const auto asked = subscriber_.position() - subscriber_.missed();
  if (asked < wanted(published) || asked > wanted(begun) || subscriber_.position() > begun)
    wrong("broadcast {}: who joins at {} to {} begins at {}, and missed {}", broadcast_, wanted(published),
          wanted(begun), subscriber_.position(), subscriber_.missed());
  const auto floor = load(queue_row(lane_->segment(), subscriber_.id().index).head, acquire);
  if (blocks() && floor > subscriber_.position())
    wrong("broadcast {}: the floor is {}, and one that blocks has joined at {}", broadcast_, floor,
          subscriber_.position());
}

void WitnessedSubscriber::check_message(const Message& message, std::uint64_t expected) const {
  if (message.position != expected || message.flow != broadcast_ || message.kind != MessageKind::user ||
      message.detail != check_of(message))
    wrong("broadcast {}: message {} is number {} of {}, check {}", broadcast_, expected, message.position,
          message.flow, message.detail == check_of(message) ? "right" : "wrong");
  if ((message.handle == 0) != (message.length == 0))
    wrong("broadcast {}: message {} has handle {:#x} and {} bytes", broadcast_, expected, message.handle,
          message.length);
  if (message.handle == 0) return;
  const auto block = find_block(lane_->segment(), Handle{message.handle});
  if (!block || block->bytes < message.length || !read_block(block->span(), Handle{message.handle}))
    wrong("broadcast {}: the block {:#x} of message {} {}", broadcast_, message.handle, expected,
          block ? "has other bytes" : "is not live");
}

void WitnessedSubscriber::check_nothing(Status status, std::uint64_t published) {
  const auto position = subscriber_.position();
  switch (status) {
    case Status::no_cell:
    case Status::overflow: return;
    case Status::closed:
      if (journal_->closes == 0) wrong("broadcast {}: closed by nobody", broadcast_);
      [[fallthrough]];
    case Status::empty:
      if (published > position)
        wrong("broadcast {}: nothing is there at {}, but {} were published", broadcast_, position, published);
      return;
    case Status::disconnected: {
      if (policy_ != SubscriberPolicy::disconnect ||
          (journal_->trims == 0 && journal_->publishing - position < broadcast_capacity_of(broadcast_)))
        wrong("broadcast {}: disconnected at {} of {}", broadcast_, position, journal_->publishing.load());
      ++journal_->disconnected;
      return leave();
    }
    default: wrong("broadcast {}: read of {}: {}", broadcast_, position, to_string(status));
  }
}

std::optional<Reference> WitnessedSubscriber::take() {
  const auto published = journal_->published.load();
  const auto before = subscriber_.position();
  const auto lost_before = subscriber_.lost();
  const auto taken = subscriber_.take();
  const auto lost = subscriber_.lost() - lost_before;
  if (lost != 0) {
    const auto floor = load(queue_row(lane_->segment(), subscriber_.id().index).head, acquire);
    if (policy_ != SubscriberPolicy::lose_oldest || before + lost > floor)
      wrong("broadcast {}: {} from {} on are lost, and the floor is {}", broadcast_, lost, before, floor);
    journal_->lost += lost;
  }
  if (!taken) {
    check_nothing(taken.error(), published);
    return std::nullopt;
  }
  if (taken->reference.handle.value != taken->message.handle)
    wrong("broadcast {}: message {} came with {:#x}, expected {:#x}", broadcast_, before,
          taken->reference.handle.value, taken->message.handle);
  check_message(taken->message, before + lost);
  ++journal_->read;
  return taken->reference;
}

bool WitnessedSubscriber::read_in_place(long handling_us) {
  const auto published = journal_->published.load();
  const auto before = subscriber_.position();
  const auto* message = subscriber_.peek();
  if (message == nullptr) {
    check_nothing(Status::empty, published);
    return false;
  }
  check_message(*message, before);
  if (handling_us != 0) {
    const timespec time{.tv_sec = 0, .tv_nsec = handling_us * 1000};
    ::nanosleep(&time, nullptr);
    check_message(*message, before);
  }
  if (const auto status = subscriber_.advance(); status != Status::ok)
    wrong("broadcast {}: advance from {}: {}", broadcast_, before, to_string(status));
  ++journal_->read;
  return true;
}

}  // namespace sluice::verify
