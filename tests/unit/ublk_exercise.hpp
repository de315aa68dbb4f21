// A queue between the model of the driver and a target, driven by any bytes: what tests do with random bytes from a
// seed, and a fuzzer with those that it searches for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::test {

/// One life of a device. The bytes choose the target, the data path and what happens: requests that the device can
/// have and others, errors and parts at every place where the driver or the store may give one, servers that die and
/// are followed by the next one, the end of the device at any moment.
///
/// A plain array of bytes says what must be read. Every request that was asked for ends exactly once, with the result
/// that it must have; in copy mode a tag's address is its buffer, always; a stop ends. Who follows the stream of a store
/// that is told of its changes has that store's content in the end.
struct UblkExercise {
  std::vector<std::string> complaints;  // a line for everything that is not so, at most a few; none is good
  // What was done, so that a test can tell that something was.
  std::uint64_t requests = 0, errors = 0, bytes_read = 0, servers = 0, told = 0;
};
UblkExercise exercise_ublk_queue(std::span<const std::uint8_t> choices);

}  // namespace sluice::test
