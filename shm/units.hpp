// The shared pool of units: reserving them under the lane's log, publishing them as slabs, runs or ring
// storage, and giving them back. Every operation here is logged; undo or redo is finish_operation().
#pragma once

#include "shm/operation_log.hpp"

#include <cstdint>
#include <expected>

namespace sluice {

/// Take one unit and publish it as a slab of `size_class` owned by the lane.
/// errors  exhausted
std::expected<std::uint32_t, Status> take_slab(const LaneView& lane, std::uint32_t size_class) noexcept;

/// Take `count` units as one block, held by `cell`, which is empty.
/// errors  exhausted, too_large
std::expected<Handle, Status> take_run(const LaneView& lane, std::uint64_t count,
                                       std::uint32_t cell) noexcept;

/// Give back the run that `cell` holds, as its sole holder; empties the cell.
void free_run(const LaneView& lane, const BlockView& block, std::uint32_t cell) noexcept;

/// Take `count` units as the storage of queue `queue`; returns the first. They are the queue's once the
/// caller's `publish(first)` has made its row name them; the log stays open across it.
template <class Publish>
std::expected<std::uint32_t, Status> take_storage(const LaneView& lane, std::uint64_t count,
                                                  std::uint64_t queue, Publish&& publish) noexcept;

/// Give an empty slab's unit back to the pool. The caller owns it and all its slots are free or retired.
void return_slab(const LaneView& lane, std::uint32_t unit) noexcept;

/// Make an owned, empty slab one of another class.  errors  exhausted
Status recut_slab(const LaneView& lane, std::uint32_t unit, std::uint32_t size_class) noexcept;

/// Step 1 of recovery: finish or undo the lane's open operation, if there is one. Repeatable.
/// `storage_published(queue, first)` tells whether a queue's row names that storage.
using StoragePublished = bool (*)(const Segment& segment, std::uint64_t queue, std::uint32_t first);
void finish_operation(const LaneView& lane, StoragePublished storage_published) noexcept;

namespace detail {
std::expected<std::uint32_t, Status> begin_storage(const LaneView& lane, std::uint64_t count,
                                                   std::uint64_t queue) noexcept;
}  // namespace detail

template <class Publish>
std::expected<std::uint32_t, Status> take_storage(const LaneView& lane, std::uint64_t count,
                                                  std::uint64_t queue, Publish&& publish) noexcept {
  const auto first = detail::begin_storage(lane, count, queue);
  if (first) {
    publish(*first);
    close_log(lane);
  }
  return first;
}

}  // namespace sluice
