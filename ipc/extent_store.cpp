#include "ipc/extent_store.hpp"

#include "shm/crash_point.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace sluice {

namespace {

constexpr std::uint64_t group_bytes = extent_group_pages * extent_page_bytes;

std::string name_of_stream(const Segment& segment, std::uint64_t word) {
  const auto index = (word & 0xffffffff) - 1;
  return index < segment.header().queue_count ? std::string(queue_name(queue_row(segment, index))) : "?";
}

}  // namespace

ExtentStore::ExtentStore(ExtentWriter writer, QueueRow& row, QueueId map,
                         std::unique_ptr<Lane> teller) noexcept
    : writer_(std::move(writer)), row_(&row), map_(map), teller_(std::move(teller)) {}

Expected<std::unique_ptr<ExtentStore>> ExtentStore::open(const Membership& process, QueueId map,
                                                         std::unique_ptr<Lane> teller,
                                                         std::optional<QueueId> stream) {
  const auto& segment = teller->segment();
  auto writer = ExtentWriter::claim(segment, process, map);
  if (!writer)
    return fail(writer.error(), fmt::format("extent map {}: {}", map.index,
                                            writer.error() == Status::busy ? "another process writes it"
                                                                           : to_string(writer.error())));
  auto& row = queue_row(segment, map.index);
  std::unique_ptr<ExtentStore> store(new ExtentStore(std::move(*writer), row, map, std::move(teller)));
  if (stream) {
    if (auto bound = store->bind(*stream); !bound) return std::unexpected(std::move(bound.error()));
  } else if (const auto bound = load(row.change_stream, relaxed); bound != 0) {
    return fail(Status::bad_argument,
                fmt::format("device {}: its changes go to stream {}, and would be missing there without it",
                            queue_name(row), name_of_stream(segment, bound)));
  }
  return store;
}

// ---- Reading ---------------------------------------------------------------------------------------------

std::expected<const std::byte*, Status> ExtentStore::bytes_of(std::uint64_t page) const noexcept {
  const auto& map = slots();
  const auto own = map.at(page);
  if (own == extent_zeroes) return nullptr;
  const auto handle = own != 0 ? own : map.at(map.group_of(page));
  if (handle == 0) return nullptr;
  const auto block = find_block(teller_->segment(), {handle});
  if (!block || block->bytes < (own != 0 ? extent_page_bytes : group_bytes))
    return std::unexpected(Status::corrupt);
  return block->data + (own != 0 ? 0 : page % extent_group_pages * extent_page_bytes);
}

// ---- Changing --------------------------------------------------------------------------------------------

Status ExtentStore::drop(Lane& lane, std::uint64_t position, std::uint64_t leave) noexcept {
  if (slots().at(position) == leave) return Status::ok;
  const auto old = writer_.take(lane, position, leave);
  if (!old) return old.error();
  return *old ? lane.heap().release(*old) : Status::ok;
}

Status ExtentStore::put(Lane& lane, std::uint64_t position, Reference block) noexcept {
  const auto old = writer_.put(lane, position, block);
  if (!old) return old.error();
  // From here on the change is made: what is left cannot be undone, only finished.
  if (*old && lane.heap().release(*old) != Status::ok) return Status::corrupt;
  return settle(lane, position) == Status::ok ? Status::ok : Status::corrupt;
}

// What a block that was put in makes superfluous. A group's block is seen through pages that have none of their own.
Status ExtentStore::settle(Lane& lane, std::uint64_t position) noexcept {
  const auto& map = slots();
  if (position >= map.pages) {
    const auto first = (position - map.pages) * extent_group_pages;
    for (auto page = first; page < first + extent_group_pages; ++page)
      if (const auto status = drop(lane, page, 0); status != Status::ok) return status;
    return Status::ok;
  }
  const auto group = map.group_of(position);
  if (map.at(group) == 0) return Status::ok;
  const auto first = position - position % extent_group_pages;
  for (auto page = first; page < first + extent_group_pages; ++page)
    if (map.at(page) == 0) return Status::ok;
  return drop(lane, group, 0);
}

Status ExtentStore::empty(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept {
  for (auto page = first; page < first + pages;) {
    const auto group = page / extent_group_pages;
    const auto end = std::min(first + pages, (group + 1) * extent_group_pages);
    const auto held = hold(group);
    if (const auto status = empty_in_group(lane, page, end - page); status != Status::ok) return status;
    page = end;
  }
  return Status::ok;
}

// Each page by itself; the group's block goes when none of them shows it any more. Before, its old bytes would show
// where a page had newer ones.
Status ExtentStore::empty_in_group(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept {
  const auto& map = slots();
  const auto group = map.group_of(first);
  const auto leave = map.at(group) == 0 ? 0 : extent_zeroes;
  for (auto page = first; page < first + pages; ++page)
    if (const auto status = drop(lane, page, leave); status != Status::ok) return status;
  return leave == 0 ? Status::ok : settle(lane, first);
}

Status ExtentStore::write(Lane& lane, std::uint64_t position, Reference block) noexcept {
  if (position >= slots().count()) return Status::bad_argument;
  const bool is_group = position >= slots().pages;
  const auto group = is_group ? position - slots().pages : position / extent_group_pages;
  if (!producer_) {
    const auto held = hold(group);
    return put(lane, position, block);
  }
  const std::lock_guard telling(telling_);
  if (broken_) return Status::corrupt;
  if (producer_->room() == 0) return Status::full;
  const auto told = teller_->heap().clone_of(block.handle);
  if (!told) return told.error();
  const auto first = is_group ? group * extent_group_pages : position;
  begin_change(position, 0, block.handle);
  {
    const auto held = hold(group);
    if (const auto status = put(lane, position, block); status != Status::ok) {
      if (status == Status::corrupt) return broken();
      store(row_->change_sequence, 0, release);
      return teller_->heap().release(*told) == Status::ok ? status : broken();
    }
  }
  crash_point("extents.change.made");  // recovery: the block is in; the next writer tells it
  if (producer_->push(message_of(MessageKind::write, first, is_group ? extent_group_pages : 1), *told) !=
      Status::ok)
    return broken();
  crash_point("extents.change.told");  // recovery: tail has passed it, it is over
  return Status::ok;
}

Status ExtentStore::clear(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept {
  const auto& map = slots();
  if (pages == 0 || pages > clear_pages_max || first >= map.pages || pages > map.pages - first)
    return Status::bad_argument;
  if (!producer_) return empty(lane, first, pages);
  const std::lock_guard telling(telling_);
  if (broken_) return Status::corrupt;
  if (producer_->room() == 0) return Status::full;
  begin_change(first, pages, {});
  return empty_and_tell(lane, first, pages);
}

Status ExtentStore::empty_and_tell(Lane& lane, std::uint64_t first, std::uint64_t pages) noexcept {
  if (empty(lane, first, pages) != Status::ok) return broken();
  crash_point("extents.change.made");
  if (producer_->push(message_of(MessageKind::zeroes, first, pages)) != Status::ok) return broken();
  crash_point("extents.change.told");
  return Status::ok;
}

// ---- Telling ---------------------------------------------------------------------------------------------

Expected<void> ExtentStore::bind(QueueId stream) {
  const auto& segment = teller_->segment();
  if (stream.index >= segment.header().queue_count) return fail(Status::bad_argument, "no such stream");
  const bool was_closed = load(queue_row(segment, stream.index).closed, acquire) != 0;
  auto producer = StreamProducer::claim(*teller_, stream);
  if (!producer)
    return fail(
        producer.error(),
        fmt::format("device {}: its stream cannot be produced into: {}", queue_name(*row_),
                    producer.error() == Status::busy ? "another lane does" : to_string(producer.error())));
  if (auto allowed = may_tell(stream, producer->tail()); !allowed) {
    if (was_closed) producer->close();  // to claim it was to open it
    return allowed;
  }
  store(row_->change_stream, packed(stream), release);
  producer_ = std::move(*producer);
  if (const auto status = finish_change(); status != Status::ok)
    return fail(status, fmt::format("device {}: the change that its last server was killed at: {}",
                                    queue_name(*row_), to_string(status)));
  teller_->heap().flush();
  return {};
}

// A map and a stream belong together from the first change on, and for good.
Expected<void> ExtentStore::may_tell(QueueId stream, std::uint64_t tail) const {
  const auto& segment = teller_->segment();
  const auto name = queue_name(*row_);
  const auto wanted = packed(stream);
  const auto bound = load(row_->change_stream, relaxed);
  if (bound == wanted) return {};
  if (bound != 0)
    return fail(Status::bad_argument,
                fmt::format("device {}: its changes go to stream {}, not to {}", name,
                            name_of_stream(segment, bound), name_of_stream(segment, wanted)));
  for (std::uint64_t position = 0; position < slots().count(); ++position)
    if (slots().at(position) != 0)
      return fail(
          Status::bad_argument,
          fmt::format("device {}: it has content that no stream was told of, expected an empty one", name));
  bool is_others = tail != 0;
  for (std::uint32_t other = 0; other < segment.header().queue_count; ++other)
    is_others = is_others || load(queue_row(segment, other).change_stream, relaxed) == wanted;
  if (is_others)
    return fail(Status::bad_argument,
                fmt::format("device {}: stream {} has messages of others, expected one that was never used",
                            name, name_of_stream(segment, wanted)));
  return {};
}

// The change that a predecessor was killed at. It is not in the stream, so the stream has room: it had then.
Status ExtentStore::finish_change() noexcept {
  if (load(row_->change_sequence, acquire) != producer_->tail() + 1) return Status::ok;
  const auto& map = slots();
  const auto first = load(row_->change_first, relaxed);
  const auto pages = load(row_->change_pages, relaxed);
  const Handle handle{load(row_->change_handle, relaxed)};
  if (!handle) {
    const bool is_sound = pages <= clear_pages_max && first < map.pages && pages <= map.pages - first;
    return is_sound ? empty_and_tell(*teller_, first, pages) : Status::corrupt;
  }
  if (first >= map.count()) return Status::corrupt;
  if (map.at(first) != handle.value) return Status::ok;  // it was not made
  if (settle(*teller_, first) != Status::ok) return Status::corrupt;
  const auto told = teller_->heap().clone_of(handle);
  if (!told) return told.error();
  const bool is_group = first >= map.pages;
  const auto page = is_group ? (first - map.pages) * extent_group_pages : first;
  return producer_->push(message_of(MessageKind::write, page, is_group ? extent_group_pages : 1), *told);
}

// Void while it is written: whoever dies in between has changed nothing.
void ExtentStore::begin_change(std::uint64_t first, std::uint64_t pages, Handle block) noexcept {
  store(row_->change_sequence, 0, release);
  store(row_->change_first, first, release);
  store(row_->change_pages, pages, release);
  store(row_->change_handle, block.value, release);
  store(row_->change_sequence, producer_->tail() + 1, release);
  crash_point("extents.change.begun");  // recovery: the block is not in: nothing was changed; zeroes are made
}

Message ExtentStore::message_of(MessageKind kind, std::uint64_t first, std::uint64_t pages) const noexcept {
  Message message{};
  message.kind = kind;
  message.flow = device_number(map_);
  message.position = first * extent_page_bytes;
  message.length = static_cast<std::uint32_t>(pages * extent_page_bytes);
  message.receive_ns =
      static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  return message;
}

// A change that is half made stays as it is described: the next writer finishes it.
Status ExtentStore::broken() noexcept {
  broken_ = true;
  return Status::corrupt;
}

Status ExtentStore::flush() noexcept {
  if (!producer_) return Status::ok;
  const std::lock_guard telling(telling_);
  return broken_ ? Status::corrupt : producer_->push(message_of(MessageKind::flush, 0, 0));
}

std::uint64_t ExtentStore::room(std::uint64_t wanted) noexcept {
  if (!producer_) return ~std::uint64_t{0};
  const std::lock_guard telling(telling_);
  return producer_->room(wanted);
}

bool ExtentStore::has_untaken() noexcept {
  if (!producer_) return false;
  const std::lock_guard telling(telling_);
  return producer_->head() != producer_->tail();
}

void ExtentStore::close() noexcept {
  if (!producer_) return;
  const std::lock_guard telling(telling_);
  producer_->close();
}

}  // namespace sluice
