#include "ipc/topic.hpp"

#include "ipc/subscription.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

namespace {

constexpr char number_sign = '#';
constexpr auto refresh_interval = std::chrono::milliseconds(50);

std::string ring_name(std::string_view topic, std::uint32_t number) {
  return number == 1 ? std::string(topic) : fmt::format("{}{}{}", topic, number_sign, number);
}

bool is_ring_of(std::string_view name, std::string_view topic) noexcept {
  if (!name.starts_with(topic)) return false;
  name.remove_prefix(topic.size());
  if (name.empty()) return true;
  return name.size() > 1 && name.front() == number_sign &&
         name.find_first_not_of("0123456789", 1) == std::string_view::npos;
}

}  // namespace

Expected<Publisher> TopicPublisher::open(Lane& lane, std::string_view topic,
                                         const BroadcastOptions& options) {
  // Somebody has each of the rings that are passed by, or is about to create it: the directory ends the search.
  for (std::uint32_t number = 1;; ++number) {
    const auto name = ring_name(topic, number);
    const auto ring = find_or_create_broadcast(lane, name, options);
    if (!ring && ring.error().status == Status::busy) continue;
    if (!ring) return std::unexpected(ring.error());
    auto publisher = Publisher::claim(lane, *ring);
    if (publisher) return std::move(*publisher);
    if (publisher.error() != Status::busy)
      return fail(publisher.error(), fmt::format("topic {}: ring {} cannot be published into", topic, name));
  }
}

Expected<TopicSubscriber> TopicSubscriber::open(Lane& lane, std::string_view topic,
                                                const SubscriberOptions& options) {
  TopicSubscriber subscriber;
  subscriber.lane_ = &lane;
  subscriber.topic_ = topic;
  subscriber.options_ = options;
  subscriber.name_ = options.name;
  if (const auto found = subscriber.subscribe(options.start); !found) return std::unexpected(found.error());
  return subscriber;
}

// What appears after open() has nothing that is older than the subscription.
Expected<std::size_t> TopicSubscriber::refresh() { return subscribe(Start::at(0)); }

std::vector<QueueId> TopicSubscriber::rings_of_topic() const {
  const auto& segment = lane_->segment();
  std::vector<QueueId> found;
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    const auto& row = queue_row(segment, index);
    const auto word = load(row.word, acquire);  // Q2 <- Q1 (create)
    if (queue_word::state(word) == QueueState::ready &&
        load(row.kind, relaxed) == static_cast<std::uint32_t>(QueueKind::broadcast) &&
        is_ring_of(queue_name(row), topic_))
      found.push_back({index, static_cast<std::uint32_t>(queue_word::Era::get(word))});
  }
  return found;
}

Expected<std::size_t> TopicSubscriber::subscribe(const Start& start) {
  const auto& segment = lane_->segment();
  const auto rings = rings_of_topic();
  const bool is_known = !name_.empty() && std::ranges::any_of(rings, [&](const QueueId& id) {
    const auto ring = sound_ring(segment, queue_row(segment, id.index));
    return ring && find_subscription(ring->subscribers, name_);
  });
  std::size_t found = 0;
  for (const auto& id : rings) {
    if (std::ranges::any_of(rings_, [&](const Subscriber& ring) { return ring.id() == id; })) continue;
    auto joined = Subscriber::join(*lane_, id, {options_.policy, is_known ? Start::at(0) : start, name_});
    if (!joined)
      return fail(joined.error(), fmt::format("topic {}: no subscription to {}: {}", topic_,
                                              queue_name(queue_row(segment, id.index)),
                                              why_not_joined(joined.error(), name_)));
    rings_.push_back(std::move(*joined));
    ++found;
  }
  return found;
}

std::expected<TakenMessage, Status> TopicSubscriber::take() noexcept {
  bool all_closed = !rings_.empty();
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    last_ = last_ + 1 < rings_.size() ? last_ + 1 : 0;
    auto taken = rings_[last_].take();
    if (taken || (taken.error() != Status::empty && taken.error() != Status::closed)) return taken;
    all_closed = all_closed && taken.error() == Status::closed;
  }
  return std::unexpected(all_closed ? Status::closed : Status::empty);
}

bool TopicSubscriber::ready() const noexcept {
  const auto speaks = [](const Subscriber& ring) { return ring.has_message() || ring.disconnected(); };
  return std::ranges::any_of(rings_, speaks) ||
         (!rings_.empty() && std::ranges::all_of(rings_, [](const auto& ring) { return ring.ended(); }));
}

// One source is ready as the whole is, the others leave a mark with each ring. A closed ring alone is not ready.
std::vector<WaitSource> TopicSubscriber::sources() const {
  const auto whole = [](const void* of) noexcept { return static_cast<const TopicSubscriber*>(of)->ready(); };
  const auto one = [](const void* of) noexcept { return static_cast<const Subscriber*>(of)->has_message(); };
  std::vector<WaitSource> sources{{.of = this, .ready = whole, .marks = nullptr}};
  for (const auto& ring : rings_)
    sources.push_back({.of = &ring, .ready = one, .marks = ring.messages().marks});
  return sources;
}

Expected<void> TopicSubscriber::wait(std::chrono::nanoseconds timeout) {
  const auto deadline = deadline_after(timeout);
  for (;;) {
    if (ready()) return {};
    const auto found = refresh();
    if (!found) return std::unexpected(found.error());
    if (*found != 0) continue;
    const auto left = left_until(deadline);
    if (left <= std::chrono::nanoseconds::zero())
      return fail(Status::timeout, fmt::format("topic {}: no message in time", topic_));
    const auto waited =
        wait_any(*lane_, sources(), std::min<std::chrono::nanoseconds>(left, refresh_interval));
    if (!waited && waited.error() != Status::timeout)
      return fail(waited.error(), fmt::format("topic {}: the wait was ended", topic_));
  }
}

}  // namespace sluice
