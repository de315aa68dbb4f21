// What a transport looks like to the one that measures, and what is done with a payload.
#pragma once

#include "tests/bench/queues/board.hpp"
#include "tests/bench/queues/processes.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace sluice::bench {

/// One process's end of both directions: it sends into one and receives from the other. Made in the process that uses
/// it. All payloads have the task's size; waiting for memory, room or a message is the transport's own affair.
template <class End>
concept Endpoint = requires(End& end) {
  { end.loan() } -> std::same_as<std::byte*>;           // memory for the next payload
  { end.send() } -> std::same_as<void>;                 // what loan() gave, now written
  { end.receive() } -> std::same_as<const std::byte*>;  // the next payload
  { end.release() } -> std::same_as<void>;              // what receive() gave, now read
};

constexpr std::uint64_t touched_words(std::uint64_t bytes, Touch touch) {
  return (touch == Touch::all ? bytes : 64) / sizeof(std::uint64_t);
}

inline void write_payload(std::byte* payload, std::uint64_t words, std::uint64_t value) {
  auto* to = reinterpret_cast<std::uint64_t*>(payload);
  for (std::uint64_t i = 0; i < words; ++i) to[i] = value;
}

/// Reads all the words; they are all the same, or something was lost or torn.
inline std::uint64_t read_payload(const std::byte* payload, std::uint64_t words) {
  const auto* from = reinterpret_cast<const std::uint64_t*>(payload);
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < words; ++i) sum += from[i];
  const std::uint64_t value = from[0];
  if (sum != value * words) [[unlikely]]
    die("a payload did not arrive as it was sent");
  return value;
}

template <Endpoint End>
void send(End& end, std::uint64_t words, std::uint64_t value) {
  write_payload(end.loan(), words, value);
  end.send();
}

template <Endpoint End>
std::uint64_t receive(End& end, std::uint64_t words) {
  const auto value = read_payload(end.receive(), words);
  end.release();
  return value;
}

}  // namespace sluice::bench
