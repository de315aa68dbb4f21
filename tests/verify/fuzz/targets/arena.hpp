// The segment that a fuzzer damages: made once per process, put back before every execution.
//
// It is what processes leave that were killed in the middle of their work: blocks of several classes and a run,
// messages in a stream, a shared block, open operations, cells on their way into and out of a stream, a free that
// was not flagged. The file keeps its path and inode for the life of the process, because the sidecar's descriptor
// is kept as long (shm/sidecar.hpp).
#pragma once

#include "ipc/message.hpp"
#include "shm/segment.hpp"
#include "tests/verify/fuzz/targets/input.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::fuzz {

inline constexpr const char* stream_name = "fuzz.stream";
inline constexpr const char* spare_stream_name = "fuzz.spare";

/// A message of nothing but its kind.
inline Message message_of(MessageKind kind) {
  Message message{};
  message.kind = kind;
  return message;
}

/// One change of some words, as an input holds it. Any bytes are one.
struct Edit {
  std::uint8_t place;   // which of the arena's places
  std::uint8_t how;     // width:2, EditKind:3
  std::uint16_t where;  // in the place, in words of the width
  std::uint32_t other;  // special: which number; copy: from where
  std::uint64_t value;
};
static_assert(sizeof(Edit) == 16);

enum class EditKind : std::uint8_t { set, add, flip, special, copy };

class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  const std::string& path() const noexcept { return path_; }
  /// A second file, for whole files out of an input.
  const std::string& raw_path() const noexcept { return raw_path_; }
  const SegmentHeader& header() const noexcept;

  /// Put the file back as it was made. Only where edits were: somebody who writes says so by `written`.
  void restore();
  /// The code under test may have written anywhere since.
  void written() noexcept { written_ = true; }
  /// Change it as the input says: a number of edits, then the edits. The header's checksum fits afterwards.
  void edit(Input& input);
  /// Make the second file: these bytes, then nothing up to `file_bytes`.
  void write_raw(std::span<const std::uint8_t> bytes, std::uint64_t file_bytes);
  void put_raw(std::uint64_t offset, std::uint64_t word);

  /// Inputs to start from, one file each: every place, every kind of edit.
  void write_seeds(const std::string& directory) const;

 private:
  struct Place {
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  void build();
  void find_places();
  void apply(const Edit& edit) noexcept;
  void restore_page(std::uint64_t at) noexcept;

  std::string directory_, path_, raw_path_;
  int fd_ = -1;
  int raw_fd_ = -1;
  std::vector<std::byte> made_;        // the file's bytes as they were made
  std::byte* live_ = nullptr;          // the file
  std::vector<Place> places_;          // where edits go
  std::vector<Place> restored_;        // what an execution that writes can have changed
  std::vector<std::uint64_t> edited_;  // pages, by the last edits
  bool written_ = false;
  std::vector<std::uint64_t> known_;  // numbers that mean something in this file
};

/// The arena of this process. With SLUICE_FUZZ_SEEDS in the environment: write the seeds there and exit.
Arena& arena();

}  // namespace sluice::fuzz
