// A device whose changes a stream is told of, and what must hold whenever somebody died in one of them: whoever follows
// the stream has the very content that the device has.
#pragma once

#include "ipc/extent_store.hpp"
#include "runtime/session.hpp"
#include "tests/support/model.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace sluice::test {

inline constexpr std::string_view device_name = "device";
inline constexpr std::string_view changes_name = "device.changes";

/// Become the writer of the device: its map exists, the stream is created if there is none.
std::unique_ptr<ExtentStore> open_told_device(const Session& session, Lane& lane);

/// A pattern of `seed` into a page's or a group's position.
void write_pattern(Lane& lane, ExtentStore& store, std::uint64_t position, std::uint64_t seed);

/// What the device has, as a reader sees it.
std::vector<std::byte> content_of(const ExtentStore& store);

/// Take all that the stream has and do the same to `content`. Messages are of that device and have numbers without a
/// gap, or it throws. Returns how many were taken.
std::uint64_t replay_changes(Lane& lane, QueueId map, QueueId stream, std::span<std::byte> content);

/// As the next writer: what the stream tells from its beginning, of which nothing was taken, is what the device has.
/// Then the device is cleared, and the stream taken. Returns the content that the device had.
std::vector<std::byte> check_told(const Session& session, Lane& lane, Complaints& complaints);

}  // namespace sluice::test
