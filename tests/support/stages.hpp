// Two queues, of any kinds between which a message goes on in one step: what is put in, how a process forwards, and
// what is found afterwards. No test macro is used, so that verification programs share it.
#pragma once

#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

namespace sluice::test {

inline constexpr std::string_view from_name = "from", to_name = "to";

struct StagePair {
  QueueKind from, to;
  std::string_view name;
};
inline constexpr StagePair stage_pairs[] = {
    {QueueKind::stream, QueueKind::stream, "forward from a stream into a stream"},
    {QueueKind::stream, QueueKind::work, "forward from a stream into a work queue"},
    {QueueKind::stream, QueueKind::broadcast, "forward from a stream into a broadcast"},
    {QueueKind::work, QueueKind::stream, "forward from a work queue into a stream"},
    {QueueKind::work, QueueKind::work, "forward from a work queue into a work queue"},
    {QueueKind::work, QueueKind::broadcast, "forward from a work queue into a broadcast"},
};

/// Of a message's block, by its number; 0: none.
std::uint64_t staged_bytes(std::uint64_t number) noexcept;

/// Create both, the first at a position from which its ring goes round soon, with messages 0 to `messages` - 1 in it.
/// A broadcast as the second holds two older messages; the third and fourth that come drop them.
void make_stages(Lane& lane, const StagePair& pair, std::uint64_t messages);

/// One lane's ends of both, of a pair above: to take from the first, and to push into the second.
class Forwarder {
 public:
  Forwarder(Lane& lane, const StagePair& pair);
  /// A message is in hand, where the queue has leases.
  void take();
  /// Take the next message, unless one is in hand, and forward it as it is.
  Status forward_next();
  /// What is in hand goes back, as it was.
  void give_back();
  std::variant<StreamConsumer, WorkQueue> from;
  std::variant<StreamProducer, WorkQueue, Publisher> to;

 private:
  bool has_lease_ = false;
  WorkLease lease_;
};

struct StagedMessage {
  std::uint64_t number = 0;
  std::uint32_t deliveries = 0;
  bool is_whole = false;  // its block, and the bytes in it
  bool operator==(const StagedMessage&) const = default;
};

/// Take everything out of a queue by its name, older messages of a broadcast left out, and release the blocks.
std::vector<StagedMessage> drain_stage(Lane& lane, std::string_view name);

/// Messages 0 and up that are in a queue; nobody moves meanwhile.
std::uint64_t staged_in(const Segment& segment, std::string_view name);

}  // namespace sluice::test
