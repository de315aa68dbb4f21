// The directory of named queues, and the SPSC stream's shared words. Bytes only; docs/layout.md has the tables.
#pragma once

#include "ipc/message.hpp"
#include "shm/bits.hpp"
#include "shm/lane_layout.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sluice {

enum class QueueState : std::uint8_t {
  free = 0,
  creating = 1,  // claimed by the lane in the word
  named = 2,     // its name can be read; its storage is not there yet
  ready = 3,
};

enum class QueueKind : std::uint32_t { none = 0, stream = 1, work = 2, broadcast = 3, extents = 4 };

/// What a push does that finds no room. Chosen with the queue.
enum class QueuePolicy : std::uint32_t {
  block = 0,        // it waits
  fail = 1,         // it is refused
  drop_oldest = 2,  // it drops the oldest message that nobody has begun to work on
};

/// The fields of QueueRow::word.
namespace queue_word {
using State = BitField<0, 3>;
using Lane = BitField<3, 12>;          // the creator, while creating or named
using Incarnation = BitField<15, 25>;  // of that lane, its low bits
using Era = BitField<40, 24>;          // counts the queues this row has been

constexpr std::uint64_t make(QueueState state, std::uint64_t era, std::uint64_t lane = 0,
                             std::uint64_t incarnation = 0) noexcept {
  return State::make(static_cast<std::uint64_t>(state)) | Era::make(era) | Lane::make(lane) |
         Incarnation::make(incarnation);
}
constexpr QueueState state(std::uint64_t word) noexcept { return static_cast<QueueState>(State::get(word)); }
}  // namespace queue_word

inline constexpr std::size_t queue_name_bytes = 64;  // with the closing zero
inline constexpr std::uint32_t queue_capacity_max = 1U << 20;

// Head, tail and roles lie two lines apart: the adjacent-line prefetcher pulls lines in pairs.
struct alignas(128) QueueRow {
  std::uint64_t word;           // queue_word.  W: creator (CAS).  R: all
  std::uint32_t kind;           // QueueKind
  std::uint32_t capacity;       // messages, a power of two; of extents pages
  std::uint32_t message_bytes;  // sizeof(Message); of extents a slot's, 8
  std::uint32_t first_unit;     // of the ring's storage
  std::uint32_t unit_count;
  std::uint32_t reserved;
  char name[queue_name_bytes];

  alignas(128) std::uint64_t producer;  // lane_claim.  W: CAS, recoverer
  std::uint64_t consumer;               // lane_claim.  W: CAS, recoverer

  // tail: a hint, messages pushed, behind the slots' stamps by a push, of one or many.  W: producer.  R: all
  alignas(128) std::uint64_t tail;
  std::uint64_t bytes_in;    // payload bytes pushed.     W: producer.  R: tools
  std::uint64_t closed;      // 1: nothing follows tail.  W: producer
  std::uint64_t refused;     // pushes that found no room and failed.  W: producers
  std::uint64_t dropped;     // messages dropped for newer ones.  W: producers
  std::uint64_t push_waits;  // times that a producer slept for room.  W: producers
  std::uint64_t high_water;  // most messages at once that anybody saw in it.  W: both ends

  // head: messages ever taken; delivered: ever shown to a handler.  W: consumer.  R: all
  // Of work they are one: the front, and its version, how often a message came back.  W: CAS of both
  alignas(128) std::uint64_t head;
  std::uint64_t delivered;
  std::uint64_t redelivered;    // messages shown again after a death
  std::uint64_t bytes_out;      // payload bytes of messages that are done.  W: consumers
  std::uint64_t take_waits;     // times that a consumer slept for a message.  W: consumers
  std::uint64_t dead_lettered;  // messages given up after deliveries_max.  W: consumers

  // Of extents: the writer, a process_claim, and the change that is under way and told to a stream, as
  // extent_store.hpp has it.  W: writer (claim: CAS).  R: the next writer
  alignas(128) std::uint64_t writer;
  std::uint64_t change_stream;    // the stream's place in the directory + 1, era:32 above; 0: none
  std::uint64_t change_sequence;  // 0, or 1 + the position in the stream of the message to come
  std::uint64_t change_first;     // position in the map, of zeroes the first page
  std::uint64_t change_pages;     // of zeroes
  std::uint64_t change_handle;    // the block that is put in; 0: zeroes
  std::uint64_t reserved_extents[2];

  // Who sleeps for the queue: a bit for each lane, modulo 64 (waiting.hpp).  W: sleepers, recoverer.  R: waker
  alignas(64) std::uint64_t consumers_waiting;
  std::uint64_t producers_waiting;
  // Chosen with the queue.  W: creator
  std::uint32_t policy;           // QueuePolicy
  std::uint32_t deliveries_max;   // of work: delivered so often, a message is given up; 0: never
  std::uint64_t dead_letter;      // of work: where to, as change_stream
  std::uint32_t subscribers_max;  // of broadcast
  std::uint32_t reserved_policy;
  std::uint64_t reserved_waiting[3];
  // Of broadcast: how far head is about to be raised; who joins begins there or later.  W: producer.  R: joiners
  alignas(128) std::uint64_t floor_next;
  std::uint64_t reserved_kinds[47];
};
static_assert(sizeof(QueueRow) == 1024);
static_assert(offsetof(QueueRow, name) == 32 && offsetof(QueueRow, producer) == 128);
static_assert(offsetof(QueueRow, tail) == 256 && offsetof(QueueRow, head) == 384);
static_assert(offsetof(QueueRow, writer) == 512 && offsetof(QueueRow, change_handle) == 552);
static_assert(offsetof(QueueRow, consumers_waiting) == 576 && offsetof(QueueRow, dead_letter) == 600);
static_assert(offsetof(QueueRow, floor_next) == 640);
static_assert(std::is_trivially_copyable_v<QueueRow>);

}  // namespace sluice
