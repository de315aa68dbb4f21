#include "ipc/queues.hpp"

#include "ipc/doorbell.hpp"
#include "ipc/extents.hpp"
#include "ipc/subscription.hpp"
#include "ipc/work_queue.hpp"
#include "shm/crash_point.hpp"

#include <fmt/format.h>

#include <bit>
#include <cstring>

namespace sluice {

namespace {

bool has_name(QueueState state) noexcept { return state == QueueState::named || state == QueueState::ready; }

bool is_creation_of(std::uint64_t word, const LaneView& lane) noexcept {
  const auto state = queue_word::state(word);
  return (state == QueueState::creating || state == QueueState::named) &&
         queue_word::Lane::get(word) == lane.id &&
         queue_word::Incarnation::get(word) == (lane.incarnation & queue_word::Incarnation::max);
}

std::uint64_t free_row_word(std::uint64_t word) noexcept {
  return queue_word::make(QueueState::free, queue_word::Era::get(word) + 1);
}

std::string_view describe(QueuePolicy policy) noexcept {
  switch (policy) {
    case QueuePolicy::block: return "block";
    case QueuePolicy::fail: return "fail";
    case QueuePolicy::drop_oldest: return "drop_oldest";
  }
  return "unknown";
}

void reset_row(QueueRow& row, const QueueShape& shape) noexcept {
  store(row.kind, static_cast<std::uint32_t>(shape.kind), relaxed);
  store(row.capacity, shape.capacity, relaxed);
  store(row.message_bytes, shape.slot_bytes, relaxed);
  store(row.policy, static_cast<std::uint32_t>(shape.policy), relaxed);
  store(row.deliveries_max, shape.deliveries_max, relaxed);
  store(row.dead_letter, shape.dead_letter, relaxed);
  store(row.subscribers_max, shape.subscribers_max, relaxed);
  for (auto* word : {&row.producer,
                     &row.consumer,
                     &row.tail,
                     &row.bytes_in,
                     &row.closed,
                     &row.head,
                     &row.delivered,
                     &row.redelivered,
                     &row.writer,
                     &row.change_stream,
                     &row.change_sequence,
                     &row.refused,
                     &row.dropped,
                     &row.push_waits,
                     &row.high_water,
                     &row.bytes_out,
                     &row.take_waits,
                     &row.dead_lettered,
                     &row.consumers_waiting,
                     &row.producers_waiting,
                     &row.floor_next})
    store(*word, 0, relaxed);
}

// Whether the lane in a claim word can be woken, and do so.
void wake_claimant(const Segment& segment, std::uint64_t claim) noexcept {
  const auto lane = lane_claim::Lane::get(claim);
  if (lane != 0 && lane < segment.header().lane_count) ring(segment.lane_row(lane).doorbell);
}

// Before the producer's role: who takes that over is not held up by a dead subscriber of the same lane.
std::uint32_t release_subscriptions(const Segment& segment, const QueueRow& row,
                                    std::uint64_t claim) noexcept {
  std::uint32_t released = 0;
  if (const auto ring = sound_ring(segment, row))
    for (auto& subscriber : ring->subscribers)
      if (give_subscription(subscriber, claim)) ++released;
  if (released != 0) wake_claimant(segment, load(row.producer, relaxed));
  return released;
}

Expected<QueueId> create_in_row(Lane& lane, std::uint32_t index, std::uint64_t era, std::string_view name,
                                const QueueShape& shape) {
  const auto& segment = lane.segment();
  auto& row = queue_row(segment, index);
  const auto withdraw = [&](Status status, std::string message) {
    store(row.word, free_row_word(queue_word::make(QueueState::free, era)), release);
    return fail(status, std::move(message));
  };
  std::memset(row.name, 0, sizeof row.name);
  std::memcpy(row.name, name.data(), name.size());
  store(row.word, queue_word::make(QueueState::named, era, lane.id(), lane.incarnation()), seq_cst);
  // Of two that create one name at once, at least one sees the other here (both orders are seq_cst).
  for (std::uint32_t other = 0; other < segment.header().queue_count; ++other) {
    if (other == index) continue;
    const auto& candidate = queue_row(segment, other);
    const auto state = queue_word::state(load(candidate.word, seq_cst));
    if (!has_name(state) || queue_name(candidate) != name) continue;
    return state == QueueState::ready
               ? withdraw(Status::exists, fmt::format("queue {}: it exists already", name))
               : withdraw(Status::busy, fmt::format("queue {}: another process is creating it", name));
  }
  reset_row(row, shape);
  const auto units = round_up(shape.slots * shape.slot_bytes, unit_bytes) / unit_bytes;
  const auto storage = take_storage(lane.view(), units, index, [&](std::uint32_t first) {
    crash_point("queue.create.storage");  // recovery: the row does not name it, the units go back
    store(row.first_unit, first, relaxed);
    store(row.unit_count, static_cast<std::uint32_t>(units), relaxed);
    // Units keep the bytes of what they were: an old message's stamp must not pass for a new one's.
    std::memset(segment.unit_address(first), 0, units * unit_bytes);
    store(row.word, queue_word::make(QueueState::ready, era), release);  // Q1 -> Q2 (find_queue, claim)
    crash_point("queue.create.ready");
  });
  if (!storage)
    return withdraw(storage.error(), fmt::format("queue {}: no room for {} slots of {} bytes", name,
                                                 shape.slots, shape.slot_bytes));
  return QueueId{index, static_cast<std::uint32_t>(era)};
}

}  // namespace

std::string_view kind_name(QueueKind kind) noexcept {
  switch (kind) {
    case QueueKind::stream: return "a stream";
    case QueueKind::work: return "a work queue";
    case QueueKind::broadcast: return "a broadcast";
    case QueueKind::extents: return "an extent map";
    case QueueKind::none: break;
  }
  return "an unknown kind";
}

std::string_view queue_name(const QueueRow& row) noexcept {
  return {row.name, strnlen(row.name, sizeof row.name)};
}

QueueRow& queue_row(const Segment& segment, std::uint64_t index) noexcept {
  return *segment.at<QueueRow>(RegionKind::queues, index);
}

Expected<QueueId> create_queue(Lane& lane, std::string_view name, const QueueShape& shape) {
  const auto& segment = lane.segment();
  if (name.empty() || name.size() >= queue_name_bytes || name.find('\0') != std::string_view::npos)
    return fail(Status::bad_argument, fmt::format("queue name \"{}\": found {} bytes, expected 1 to {}", name,
                                                  name.size(), queue_name_bytes - 1));
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    auto& row = queue_row(segment, index);
    auto word = load(row.word, acquire);
    if (queue_word::state(word) != QueueState::free) continue;
    const auto era = queue_word::Era::get(word);
    if (!cas(row.word, word, queue_word::make(QueueState::creating, era, lane.id(), lane.incarnation()),
             acq_rel))
      continue;
    crash_point("queue.create.claimed");  // recovery: the row is free again
    return create_in_row(lane, index, era, name, shape);
  }
  return fail(Status::exhausted, fmt::format("queue {}: all {} places of the directory are taken", name,
                                             segment.header().queue_count));
}

Expected<void> check_capacity(std::string_view name, std::uint32_t capacity) {
  if (capacity != 0 && capacity <= queue_capacity_max) return {};
  return fail(Status::bad_argument, fmt::format("capacity of queue {}: found {}, expected 1 to {}", name,
                                                capacity, queue_capacity_max));
}

Expected<QueueId> create_stream(Lane& lane, std::string_view name, std::uint32_t capacity,
                                QueuePolicy policy) {
  if (auto sound = check_capacity(name, capacity); !sound) return std::unexpected(sound.error());
  if (policy == QueuePolicy::drop_oldest)
    return fail(Status::bad_argument, fmt::format("queue {}: a stream drops nothing", name));
  const auto slots = std::bit_ceil(capacity);
  return create_queue(lane, name, {QueueKind::stream, slots, slots, sizeof(Message), policy});
}

Expected<QueueId> find_queue(const Segment& segment, std::string_view name) {
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    const auto& row = queue_row(segment, index);
    const auto word = load(row.word, acquire);  // Q2 <- Q1 (create)
    if (queue_word::state(word) == QueueState::ready && queue_name(row) == name)
      return QueueId{index, static_cast<std::uint32_t>(queue_word::Era::get(word))};
  }
  return fail(Status::not_found, fmt::format("{}: no queue named {}", segment.path(), name));
}

Expected<QueueId> find_or_create(const Segment& segment, std::string_view name, QueueKind kind,
                                 QueuePolicy policy, const std::function<Expected<QueueId>()>& create) {
  auto id = find_queue(segment, name);
  if (!id) id = create();
  if (!id && id.error().status == Status::exists) id = find_queue(segment, name);
  if (!id) return id;
  const auto& row = queue_row(segment, id->index);
  if (const auto found = load(row.kind, relaxed); found != static_cast<std::uint32_t>(kind))
    return fail(Status::bad_argument, fmt::format("queue {}: found {}, expected {}", name,
                                                  kind_name(static_cast<QueueKind>(found)), kind_name(kind)));
  if (const auto found = static_cast<QueuePolicy>(load(row.policy, relaxed)); found != policy)
    return fail(Status::bad_argument, fmt::format("queue {}: found policy {}, expected {}", name,
                                                  describe(found), describe(policy)));
  return id;
}

Expected<QueueId> expect_same(QueueId id, std::string_view name,
                              std::initializer_list<ExpectedNumber> numbers) {
  for (const auto& number : numbers)
    if (number.found != number.expected)
      return fail(Status::bad_argument, fmt::format("queue {}: found {} {}, expected {}", name, number.what,
                                                    number.found, number.expected));
  return id;
}

Expected<QueueId> find_or_create_stream(Lane& lane, std::string_view name, std::uint32_t capacity,
                                        QueuePolicy policy) {
  return find_or_create(lane.segment(), name, QueueKind::stream, policy,
                        [&] { return create_stream(lane, name, capacity, policy); });
}

std::uint32_t release_roles(const Segment& segment, const LaneView& lane) noexcept {
  std::uint32_t released = 0;
  const auto self = lane_claim::make(lane.id, lane.incarnation);
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    auto& row = queue_row(segment, index);
    auto word = load(row.word, acquire);
    if (is_creation_of(word, lane)) {
      cas(row.word, word, free_row_word(word), acq_rel);
      ++released;
      continue;
    }
    if (queue_word::state(word) != QueueState::ready) continue;
    released += release_subscriptions(segment, row, self);
    for (auto* role : {&row.producer, &row.consumer}) {
      auto expected = self;
      if (load(*role, acquire) != self) continue;
      if (!cas(*role, expected, 0, acq_rel)) continue;
      ++released;
      wake_claimant(segment, load(row.producer, relaxed));
      wake_claimant(segment, load(row.consumer, relaxed));
    }
  }
  return released;
}

bool storage_published(const Segment& segment, std::uint64_t queue, std::uint32_t first) noexcept {
  if (queue >= segment.header().queue_count) return false;
  const auto& row = queue_row(segment, queue);
  return queue_word::state(load(row.word, acquire)) == QueueState::ready &&
         load(row.first_unit, relaxed) == first;
}

std::optional<QueueStorage> sound_storage(const Segment& segment, const QueueRow& row,
                                          const QueueShape& shape) noexcept {
  const std::uint64_t first = load(row.first_unit, relaxed);
  const std::uint64_t units = load(row.unit_count, relaxed);
  const auto committed = segment.units_committed();
  if (load(row.kind, relaxed) != static_cast<std::uint32_t>(shape.kind) ||
      load(row.message_bytes, relaxed) != shape.slot_bytes || units > committed ||
      first > committed - units || units * unit_bytes < shape.slots * shape.slot_bytes)
    return std::nullopt;
  return QueueStorage{first, units};
}

std::optional<StreamRing> sound_ring(const Segment& segment, const QueueRow& row) noexcept {
  const bool is_broadcast = load(row.kind, relaxed) == static_cast<std::uint32_t>(QueueKind::broadcast);
  return sound_ring(segment, row, is_broadcast ? QueueKind::broadcast : QueueKind::stream);
}

std::optional<StreamRing> sound_ring(const Segment& segment, const QueueRow& row, QueueKind kind) noexcept {
  const auto capacity = load(row.capacity, relaxed);
  if (!std::has_single_bit(capacity) || capacity > queue_capacity_max) return std::nullopt;
  const bool is_broadcast = kind == QueueKind::broadcast;
  if (is_broadcast && capacity < broadcast_capacity_min) return std::nullopt;
  const std::uint64_t subscribers = is_broadcast ? load(row.subscribers_max, relaxed) : 0;
  const auto storage = sound_storage(segment, row,
                                     {.kind = kind,
                                      .capacity = capacity,
                                      .slots = capacity + subscribers * slots_per_subscriber,
                                      .slot_bytes = sizeof(Message)});
  if (!storage) return std::nullopt;
  auto* slots = reinterpret_cast<Message*>(segment.unit_address(storage->first_unit));
  return StreamRing{slots,
                    capacity,
                    storage->first_unit,
                    storage->unit_count,
                    {reinterpret_cast<SubscriberRow*>(slots + capacity), subscribers}};
}

std::uint64_t pushed_messages(const StreamRing& ring, const QueueRow& row) noexcept {
  auto tail = load(row.tail, acquire);
  for (std::uint64_t behind = 0; behind < ring.capacity; ++behind, ++tail)
    if (load(ring.at(tail).stamp, acquire) != tail + 1) break;  // S4 <- S1
  return tail;
}

std::uint64_t pushed_messages(const Segment& segment, const QueueRow& row) noexcept {
  const auto ring = sound_ring(segment, row);
  return ring ? pushed_messages(*ring, row) : load(row.tail, acquire);
}

bool moving_cell_holds(const Segment& segment, Handle handle, std::uint64_t aux) noexcept {
  const auto kind = cell_aux::Kind::get(aux);
  const auto queue = cell_aux::Queue::get(aux);
  if (queue >= segment.header().queue_count) return true;
  const auto& row = queue_row(segment, queue);
  const auto position = cell_aux::Position::get(aux);
  if (kind == cell_aux::extent) {
    const auto map = sound_extents(segment, row);
    return !map || position >= map->count() || map->at(position) != handle.value;  // X4 <- X3 (put)
  }
  if (kind == cell_aux::forward || kind == cell_aux::forwarded) return false;
  if (kind >= cell_aux::claim && kind <= cell_aux::acknowledge) return work_cell_holds(segment, aux);
  if (kind != cell_aux::push && kind != cell_aux::pop) return true;
  const auto ring = sound_ring(segment, row);
  if (!ring) return true;
  if (kind == cell_aux::push) {
    const auto stamp = load(ring->at(position).stamp, acquire);  // S4 <- S1
    return stamp == 0 || ((stamp - 1) & cell_aux::Position::max) != position;
  }
  // Head has passed the position, in the 40 bits that a cell keeps: they differ by less than half.
  return ((load(row.head, acquire) - position - 1) & cell_aux::Position::max) < cell_aux::Position::max / 2;
}

}  // namespace sluice
