// The two ends of a stream with their witness: each checks, when it takes over, that the stream stands where its
// predecessor can have left it, and each message against the number that must come.
//
// What is wrong throws: the process that finds it ends, and says why.
#pragma once

#include "ipc/stream.hpp"
#include "tests/verify/soak/journal.hpp"

#include <cstdint>
#include <optional>

namespace sluice::verify {

/// Message number `number` of stream `stream`, that carries `bytes` bytes. `is_fresh`: the block was written for it.
Message make_message(std::uint32_t stream, std::uint64_t number, std::uint64_t bytes, bool is_fresh) noexcept;
std::uint64_t seed_of(std::uint32_t stream, std::uint64_t number) noexcept;

class WitnessedProducer {
 public:
  /// Take over the producer's end; false if somebody has it.
  bool claim(Lane& lane, QueueId queue, std::uint32_t stream, StreamJournal& journal);
  /// Give it up in order.
  void rest() noexcept;

  /// Push the next message. false: the stream is full, the reference is the caller's still.
  bool push(Reference reference, std::uint64_t bytes, bool is_fresh);
  std::uint64_t next() const noexcept { return producer_.tail(); }
  std::uint32_t stream() const noexcept { return stream_; }
  explicit operator bool() const noexcept { return bool(producer_); }

 private:
  StreamProducer producer_;
  StreamJournal* journal_ = nullptr;
  std::uint32_t stream_ = 0;
};

class WitnessedConsumer {
 public:
  bool claim(Lane& lane, QueueId queue, std::uint32_t stream, StreamJournal& journal);
  void rest() noexcept;

  /// Take the next message after comparing it. Nothing: there is none. A null reference: it had no block.
  /// `handling_us`: how long it is looked at before it is taken.
  std::optional<Reference> take(long handling_us = 0);
  std::uint32_t stream() const noexcept { return stream_; }
  std::uint64_t next() const noexcept { return next_; }
  explicit operator bool() const noexcept { return bool(consumer_); }

 private:
  void check_mark(bool was_shown);
  void check_contents(const Message& message) const;

  StreamConsumer consumer_;
  Lane* lane_ = nullptr;
  StreamJournal* journal_ = nullptr;
  std::uint32_t stream_ = 0;
  std::uint64_t next_ = 0;
  bool may_be_marked_ = false;  // the predecessor died, and nothing was taken since
};

}  // namespace sluice::verify
