#include "ublk/store_target.hpp"

#include "ublk/store_queue.hpp"

#include <fmt/format.h>

#include <thread>
#include <utility>

namespace sluice {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t group_bytes = extent_group_pages * extent_page_bytes;
constexpr std::uint32_t lane_cells = 1024;  // a step of a request holds some 40
constexpr std::uint32_t teller_cells = 64;

// "served by process 4711", of a map whose writer is another.
std::string served_by(const Segment& segment, QueueId map) {
  const auto claim = load(queue_row(segment, map.index).writer, acquire);
  const auto row = process_claim::Row::get(claim);
  const auto pid = row < segment.header().process_count ? load(process_row(segment, row).pid, relaxed) : 0;
  return fmt::format("served by process {}", pid);
}

}  // namespace

StoreTarget::StoreTarget(StoreTargetOptions options, Session session) noexcept
    : options_(std::move(options)), session_(std::move(session)) {}

StoreTarget::~StoreTarget() {
  if (store_ && ended_.load(relaxed)) store_->close();
}

Expected<std::unique_ptr<Target>> StoreTarget::open(const StoreTargetOptions& options) {
  auto session = Session::open(options.segment, "ublk");
  if (!session) return std::unexpected(std::move(session.error()));
  std::unique_ptr<StoreTarget> target(new StoreTarget(options, std::move(*session)));
  auto& here = target->session_;
  const auto give_up = Clock::now() + options.role_wait;
  for (;;) {
    auto teller = here.claim_lane({.cells = teller_cells, .name = "ublk"});
    if (!teller) return std::unexpected(std::move(teller.error()));
    const auto map = target->find_map(**teller);
    if (!map) return std::unexpected(map.error());
    std::optional<QueueId> stream;
    if (!options.publish.empty()) {
      const auto found = find_or_create_stream(**teller, options.publish, options.stream_capacity);
      if (!found) return std::unexpected(found.error());
      stream = *found;
    }
    auto store = ExtentStore::open(here.membership(), *map, std::move(*teller), stream);
    if (store) {
      target->store_ = std::move(*store);
      break;
    }
    if (store.error().status != Status::busy) return std::unexpected(std::move(store.error()));
    if (Clock::now() >= give_up)
      return fail(Status::busy, fmt::format("device {}: {}", options.name, served_by(here.segment(), *map)),
                  EBUSY);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    here.recover_dead();
  }
  const auto& uuid = here.segment().header().uuid;
  target->fingerprint_ = fingerprint_of(
      fmt::format("store {:02x} {}", fmt::join(std::begin(uuid), std::end(uuid), ""), options.name));
  return std::unique_ptr<Target>(std::move(target));
}

Expected<void> StoreTarget::check_size() const {
  const auto bytes = options_.bytes;
  if (bytes == 0 || bytes % group_bytes != 0)
    return fail(Status::bad_argument,
                fmt::format("device {}: the size is {} bytes, expected a multiple of {} above 0",
                            options_.name, bytes, group_bytes));
  const auto room = session_.segment().geometry().units_max * unit_bytes;
  const auto needed = bytes + bytes / extent_page_bytes * sizeof(std::uint64_t);
  if (needed > room && !options_.thin)
    return fail(
        Status::bad_argument,
        fmt::format(
            "device {}: {} bytes and its map need {} of the segment, which has at most {}; with --thin "
            "writes fail once that is full",
            options_.name, bytes, needed, room));
  return {};
}

Expected<QueueId> StoreTarget::find_map(Lane& lane) {
  const auto& segment = session_.segment();
  const auto found = find_queue(segment, options_.name);
  if (!found && found.error().status != Status::not_found) return found;
  if (!found) {
    if (auto checked = check_size(); !checked) return std::unexpected(std::move(checked.error()));
    return create_extents(lane, options_.name, options_.bytes / extent_page_bytes);
  }
  const auto& row = queue_row(segment, found->index);
  if (load(row.kind, relaxed) != static_cast<std::uint32_t>(QueueKind::extents))
    return fail(Status::bad_argument, fmt::format("device {}: that is a queue in {}, expected an extent map",
                                                  options_.name, segment.path()));
  const auto slots = sound_extents(segment, row);
  if (!slots) return fail(Status::corrupt, fmt::format("device {}: its map is damaged", options_.name));
  if (options_.bytes != 0 && options_.bytes != slots->pages * extent_page_bytes)
    return fail(Status::bad_argument,
                fmt::format("device {}: it has {} bytes, {} are to be served", options_.name,
                            slots->pages * extent_page_bytes, options_.bytes));
  return found;
}

TargetGeometry StoreTarget::geometry() const noexcept {
  return {.bytes = store_->slots().pages * extent_page_bytes,
          .logical_block = extent_page_bytes,
          .physical_block = extent_page_bytes,
          .volatile_cache = true,
          .discard_granularity = extent_page_bytes};
}

Expected<std::unique_ptr<TargetQueue>> StoreTarget::open_queue(TargetContext& context) {
  auto lane = session_.claim_lane({.cells = lane_cells, .name = fmt::format("ublk.{}", context.queue())});
  if (!lane) return std::unexpected(std::move(lane.error()));
  return std::make_unique<StoreQueue>(context, *store_, std::move(*lane), options_.policy, ended_);
}

std::string StoreTarget::describe() const {
  auto text = fmt::format("store {} in {}", options_.name, options_.segment);
  if (!options_.publish.empty()) text += fmt::format(", told to {}", options_.publish);
  return text;
}

}  // namespace sluice
