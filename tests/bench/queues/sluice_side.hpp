// What all queues of ours have in common here: a segment, and each process's side of it, which allocates blocks.
#pragma once

#include "ipc/message.hpp"
#include "ipc/queues.hpp"
#include "runtime/session.hpp"
#include "tests/bench/queues/pair.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace sluice::bench {

template <class T>
T must(Expected<T> result) {
  if (!result) die(result.error().message);
  return std::move(*result);
}
template <class T>
T must(std::expected<T, Status> result) {
  if (!result) die(fmt::format("sluice: {}", to_string(result.error())));
  return std::move(*result);
}
inline void must(Status status) {
  if (status != Status::ok) die(fmt::format("sluice: {}", to_string(status)));
}

/// Create a segment for payloads of this size, with room for in_flight() of them in both directions, and its queues.
void create_segment(const std::string& path, std::uint64_t bytes,
                    const std::function<void(Lane&)>& create_queues);

/// A process's session and lane. All of the segment's payload is mapped into the process beforehand.
class SluiceSide {
 public:
  SluiceSide(const std::string& path, const char* role, std::uint64_t bytes);

  /// Allocate a block for the next payload, once there is one; loaned() is the reference to it.
  std::byte* loan() {
    auto& heap = lane_->heap();
    auto reference = heap.allocate(bytes_);
    while (!reference) {  // the receivers still have everything
      if (reference.error() != Status::exhausted) must(reference.error());
      cpu_relax();
      reference = heap.allocate(bytes_);
    }
    loaned_ = *reference;
    return heap.bytes(loaned_).data();
  }
  Reference loaned() const { return loaned_; }

  /// The message that goes with a block of payload.
  Message message() const {
    Message message{};
    message.kind = MessageKind::data;
    message.length = static_cast<std::uint32_t>(bytes_);
    return message;
  }

  /// Where the payload of a message lies.
  const std::byte* payload(const Message& message) const {
    return must(find_block(session_.segment(), {message.handle})).data;
  }

  QueueId queue(const char* name) const { return must(find_queue(session_.segment(), name)); }
  Lane& lane() { return *lane_; }

 private:
  Session session_;
  std::unique_ptr<Lane> lane_;
  Reference loaned_;
  std::uint64_t bytes_;
};

}  // namespace sluice::bench
