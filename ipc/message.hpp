// A message: a block's handle and what a consumer must know about it. One cache line in the ring.
#pragma once

#include "shm/atomic.hpp"
#include "shm/handle.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

enum class MessageKind : std::uint16_t {
  none = 0,
  data = 1,     // `length` bytes of `flow`, at `position` in it
  open = 2,     // a flow begins; no block
  close = 3,    // a flow ends in order, after `position` bytes; no block
  abort = 4,    // a flow was cut off after `position` bytes (reset, or drained away); no block
  restart = 5,  // the producer was replaced: all flows below `flow` that have not ended never will; no block
  write = 6,    // `length` bytes of device `flow`, at byte `position`: the very block that the device keeps
  zeroes = 7,   // `length` bytes of device `flow`, from byte `position`, read as zeroes; no block
  flush = 8,    // what came before of device `flow` is asked to be durable; no block
  user = 64,    // from here on the application's own
};

struct alignas(64) Message {
  std::uint64_t handle = 0;      // of the block; 0: none
  std::uint32_t offset = 0;      // of the bytes, from the block's start
  std::uint32_t length = 0;      // of the bytes
  std::uint64_t flow = 0;        // ordered stream of bytes that this belongs to, e.g. a connection's number
  std::uint64_t position = 0;    // of the first byte, in the flow
  std::uint64_t receive_ns = 0;  // CLOCK_MONOTONIC when the bytes were received
  MessageKind kind = MessageKind::none;
  std::uint16_t flags = 0;
  std::uint32_t detail = 0;  // abort: the errno
  std::uint64_t reserved = 0;
  std::uint64_t stamp = 0;  // the slot's, not the message's: position + 1 once it is published.  W: producer
};
static_assert(sizeof(Message) == 64 && offsetof(Message, flow) == 16 && offsetof(Message, kind) == 40);
static_assert(offsetof(Message, stamp) == 56);
static_assert(std::is_trivially_copyable_v<Message>);

/// Copy a message into a ring's slot, all but the stamp. The slot is the caller's.
inline void fill_slot(Message& slot, const Message& message, Handle handle) noexcept {
  // Field by field, in their own sizes: a wider load of fields just written waits until those stores, and the
  // block's before them, have left the store buffer.
  store(slot.handle, handle.value, relaxed);
  store(slot.offset, load(message.offset, relaxed), relaxed);
  store(slot.length, load(message.length, relaxed), relaxed);
  store(slot.flow, load(message.flow, relaxed), relaxed);
  store(slot.position, load(message.position, relaxed), relaxed);
  store(slot.receive_ns, load(message.receive_ns, relaxed), relaxed);
  store(slot.kind, message.kind, relaxed);
  store(slot.flags, load(message.flags, relaxed), relaxed);
  store(slot.detail, load(message.detail, relaxed), relaxed);
  store(slot.reserved, load(message.reserved, relaxed), relaxed);
}

}  // namespace sluice
