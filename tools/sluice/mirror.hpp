// The mirror: what a device's stream tells, done again to a file, which so becomes the device's copy.
//
// Invariants
//   1. A message is acknowledged after its effect is in the file, not before; done twice it changes nothing, because
//      what came after it is done again too.
//   2. FILE.mirror says which stream of which segment the file follows, and the number of the next change. A file that
//      does not follow this one, or that a change is missing in, is not touched.
// Thread safety: one thread.
#pragma once

#include "runtime/unique_fd.hpp"
#include "runtime/worker.hpp"

#include <cstdint>
#include <string>

namespace sluice::tools {

struct MirrorCounters {
  std::uint64_t writes = 0;
  std::uint64_t zeroes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t bytes = 0;  // written
};

class Mirror {
 public:
  /// The file of a stream, created with the first message.
  ///
  /// errors  exists     the file is not empty and follows nothing, or something else
  ///         not_found  the stream's first messages were taken by others, and there is no such file
  ///         busy       another mirror has it
  ///         bad_argument  not a file; permission, io_error
  static Expected<Mirror> open(const Segment& segment, const std::string& path, std::string_view stream);

  /// Do what the message says.
  /// errors  corrupt  not a message of a device, or of another device than before; ends beyond the device
  ///         exhausted, io_error  from the kernel; the message may be handed in again
  Expected<void> handle(const Delivery& delivery);

  const MirrorCounters& counters() const noexcept { return counters_; }

 private:
  Mirror(const Segment& segment, std::string path, std::string follows, UniqueFd file) noexcept;
  Expected<void> begin(const Message& message);
  Expected<void> write(const Message& message, std::span<const std::byte> bytes);
  Expected<void> zero(const Message& message);
  Expected<void> note(std::uint64_t next);
  std::unexpected<Error> failed(std::string_view what) const;

  const Segment* segment_;
  std::string path_;
  std::string follows_;  // the first line of FILE.mirror; the second is the number of the next change
  UniqueFd file_;
  UniqueFd note_;  // FILE.mirror, once it is there
  std::uint64_t next_ = 0;
  std::uint64_t device_ = 0;
  std::uint64_t device_bytes_ = 0;  // 0: no message came yet
  MirrorCounters counters_;
};

}  // namespace sluice::tools
