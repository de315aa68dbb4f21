// Who lives while others die: a process that has joined, holds a few blocks and created a stream of numbered
// messages. Tests that kill and verification programs that search for deaths stand on the same one.
#pragma once

#include "ipc/queues.hpp"
#include "ipc/stream.hpp"
#include "tests/support/temp_segment.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::test {

inline constexpr std::string_view stream_name = "numbers";
inline constexpr std::uint32_t stream_capacity = 16;

struct SurvivorOptions {
  SegmentOptions segment;
  std::uint32_t cells = 32768;
  std::vector<std::size_t> kept_bytes = {64, 1000, 4096, 20000, 100'000};  // of the blocks that it holds
};

class Survivor {
 public:
  explicit Survivor(const SurvivorOptions& options);

  const std::string& path() const noexcept { return file.path(); }
  const Segment& segment() const noexcept { return session.segment(); }

  TempSegment file;
  Session session;
  std::unique_ptr<Lane> lane;
  std::vector<std::pair<Reference, std::uint64_t>> kept;  // with the seed of its pattern
  QueueId stream;
};

/// Push the message numbered by the stream's tail: a block of `bytes` with its pattern, or no block for 0.
/// A shared one is cloned once, and its other reference released: it stays marked as shared.
void push_numbered(Lane& lane, StreamProducer& producer, std::size_t bytes, bool shared = false);
/// Whether a message and its block are those of `number`.
bool is_numbered(const Segment& segment, const Message& message, std::uint64_t number);

}  // namespace sluice::test
