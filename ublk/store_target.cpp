#include "ublk/store_target.hpp"

#include "ublk/store_queue.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include <sys/stat.h>

namespace sluice {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t group_bytes = extent_group_pages * extent_page_bytes;
constexpr std::uint32_t lane_cells = 8192;  // each queue's part of a request holds some 20
constexpr std::uint32_t teller_cells = 64;

// The process that has the map's role; 0: nobody has.
std::uint64_t writer_of(const Segment& segment, QueueId map) {
  const auto claim = load(queue_row(segment, map.index).writer, acquire);
  const auto row = process_claim::Row::get(claim);
  return claim != 0 && row < segment.header().process_count ? load(process_row(segment, row).pid, relaxed)
                                                            : 0;
}

// What would be refused later, after something was created that nobody can remove.
Expected<void> check_names(const StoreTargetOptions& options) {
  for (const auto* name : {&options.name, &options.publish})
    if ((name->empty() && name == &options.name) || name->size() >= queue_name_bytes)
      return fail(Status::bad_argument, fmt::format("device name \"{}\": found {} bytes, expected 1 to {}",
                                                    *name, name->size(), queue_name_bytes - 1));
  if (options.publish == options.name)
    return fail(Status::bad_argument,
                fmt::format("device {}: its stream has its own name, expected another", options.name));
  if (!options.publish.empty() &&
      (options.stream_capacity == 0 || options.stream_capacity > queue_capacity_max))
    return fail(Status::bad_argument, fmt::format("stream {}: capacity {}, expected 1 to {}", options.publish,
                                                  options.stream_capacity, queue_capacity_max));
  return {};
}

}  // namespace

StoreTarget::StoreTarget(StoreTargetOptions options, Session session) noexcept
    : options_(std::move(options)), session_(std::move(session)) {}

Expected<std::unique_ptr<Target>> StoreTarget::open(const StoreTargetOptions& options) {
  if (auto checked = check_names(options); !checked) return std::unexpected(std::move(checked.error()));
  auto session = Session::open(options.segment, "ublk");
  if (!session) return std::unexpected(std::move(session.error()));
  std::unique_ptr<StoreTarget> target(new StoreTarget(options, std::move(*session)));
  auto& here = target->session_;
  const auto cells = std::min<std::uint32_t>(lane_cells, here.segment().header().cells_per_lane);
  auto lane = here.claim_lane({.cells = cells, .name = "ublk.blocks"});
  if (!lane) return std::unexpected(std::move(lane.error()));
  target->lane_.lane = std::move(*lane);
  const auto give_up = Clock::now() + options.role_wait;
  for (;;) {
    auto teller = here.claim_lane({.cells = teller_cells, .name = "ublk.told"});
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
    if (store.error().status != Status::busy || Clock::now() >= give_up) {
      // Of the map's role; else somebody has the stream's, and the message says so.
      if (const auto who = writer_of(here.segment(), *map); who != 0)
        return fail(Status::busy, fmt::format("device {}: served by process {}", options.name, who), EBUSY);
      return std::unexpected(std::move(store.error()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    here.recover_dead();
  }
  // The file, not the uuid: a copy of the segment has that too, and must not be taken for the device's content.
  struct stat file{};
  if (::fstat(here.segment().fd(), &file) != 0) return fail_errno("fstat " + options.segment);
  target->fingerprint_ = fingerprint_of(
      fmt::format("store {} {} {}", std::uint64_t{file.st_dev}, std::uint64_t{file.st_ino}, options.name));
  return std::unique_ptr<Target>(std::move(target));
}

Expected<void> StoreTarget::check_size() const {
  const auto bytes = options_.bytes;
  if (bytes == 0 || bytes % group_bytes != 0)
    return fail(Status::bad_argument,
                fmt::format("device {}: the size is {} bytes, expected a multiple of {} above 0",
                            options_.name, bytes, group_bytes));
  const auto room = session_.segment().geometry().units_max * unit_bytes;
  // Twice: a group's block of 64 KiB stays until each of its pages has one of its own.
  const auto needed = 2 * bytes + bytes / extent_page_bytes * sizeof(std::uint64_t);
  if (needed > room && !options_.thin)
    return fail(
        Status::bad_argument,
        fmt::format("device {}: {} bytes and its map may need {} of the segment, which has at most {}; with "
                    "--thin writes fail once that is full",
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
  return std::make_unique<StoreQueue>(context, *store_, lane_, options_.policy);
}

std::string StoreTarget::describe() const {
  auto text = fmt::format("store {} in {}", options_.name, options_.segment);
  if (!options_.publish.empty()) text += fmt::format(", told to {}", options_.publish);
  return text;
}

}  // namespace sluice
