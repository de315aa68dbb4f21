// The sink: each flow of a stream becomes a file in a directory, written at the messages' positions, so that
// a message that is delivered again changes nothing.
//
//   FLOW.STREAM.part   an open flow; the name says whose, so that a successor finds what its stream left
//   FLOW.bin           a flow that ended in order
//   FLOW.bin.aborted   a flow that was cut off
//
// Invariants
//   1. A message is acknowledged after its effect is in the file system, not before.
//   2. A file holds a beginning of its flow without gaps; what comes behind one is left out, and the flow ends as aborted.
//   3. No file of another stream, another run or another program is ever written or replaced.
// Thread safety: one FlowSink per stream and thread; several may share a directory.
#pragma once

#include "runtime/unique_fd.hpp"
#include "runtime/worker.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

namespace sluice::tools {

struct SinkCounters {
  std::uint64_t closed = 0;   // flows that became FLOW.bin
  std::uint64_t aborted = 0;  // flows that became FLOW.bin.aborted
  std::uint64_t damaged = 0;  // of these: flows that ended in order, but whose file somebody had changed
};

class FlowSink {
 public:
  /// errors  not_found, permission, io_error  the directory cannot be opened
  ///         bad_argument  a stream's name that cannot be part of a file name
  static Expected<FlowSink> open(const std::string& directory, std::string_view stream,
                                 std::size_t open_files_max = 256);

  /// Do what the message says.
  ///
  /// errors  exists  the flow's file is there already, from somebody else
  ///         exhausted, permission, io_error  from the kernel; the message may be handed in again
  Expected<void> handle(const Delivery& delivery);

  const SinkCounters& counters() const noexcept { return counters_; }

 private:
  struct OpenFile {
    UniqueFd fd;
    std::uint64_t used = 0;
    std::uint64_t end = 0;  // of what was written
  };
  enum class Ending : std::uint8_t { closed, aborted };

  FlowSink(std::string directory, std::string_view stream, UniqueFd fd, std::size_t open_files_max);
  Expected<int> file_of(std::uint64_t flow, bool redelivered);
  Expected<UniqueFd> open_file(std::uint64_t flow, bool redelivered);
  Expected<void> write(std::uint64_t flow, std::span<const std::byte> bytes, std::uint64_t position,
                       bool redelivered);
  Expected<void> end(std::uint64_t flow, Ending ending, std::uint64_t bytes, bool redelivered);
  Expected<void> abort_below(std::uint64_t flow);
  Expected<void> forget(std::uint64_t flow);
  Expected<void> make_room();
  bool present(const std::string& name) const noexcept;
  int open_name(const std::string& name, int flags) noexcept;
  std::unexpected<Error> failed(std::string_view what, const std::string& name, int error) const;

  std::string part_name(std::uint64_t flow) const;

  std::string directory_;
  std::string part_suffix_;  // ".STREAM.part"
  UniqueFd directory_fd_;
  std::size_t open_files_max_;
  std::unordered_map<std::uint64_t, OpenFile> open_files_;
  std::uint64_t clock_ = 0;
  SinkCounters counters_;
};

/// A directory that is ready to be a pipeline's sink.
struct SinkDirectory {
  UniqueFd lock;                 // held for as long as the pipeline runs
  std::uint64_t first_flow = 0;  // above every flow that has a file in it
};

/// Create the directory if it is missing, take it for this pipeline, and see that files can be written there.
/// errors  busy  another pipeline has it; permission, exhausted, not_found, io_error
Expected<SinkDirectory> prepare_sink(const std::string& directory);

}  // namespace sluice::tools
