// Everything that names one block, and what the block is: the values behind `shm-dump holders`.
//
// Each place is read as the audit reads it: a cell in the middle of a move or of a clone or drop counts as
// recovery would decide it now.
#pragma once

#include "shm/segment.hpp"
#include "tools/common/parse.hpp"
#include "tools/shm-dump/queue_table.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::tools {

/// What holds the block, or only names it.
enum class ReferenceKind : std::uint8_t {
  cell,      // a ledger's cell, at rest
  push,      // a cell on its way into a queue
  pop,       // a cell on its way out of one
  kernel,    // a cell whose block the kernel may write to
  exchange,  // a cell on its way into or out of an extent map
  lease,     // a cell that tells of a lease in a work queue: the block is the slot's
  clone,     // a cell that an open clone is to fill; the count has it already
  drop,      // a cell that an open drop is to empty; the count has it no more
  invalid,   // a cell of a kind that this build does not know
  message,   // in a queue
  extent,    // in an extent map
  epoch,     // the block's own flag
};

struct BlockReference {
  ReferenceKind kind = ReferenceKind::cell;
  bool counts = false;           // it is one of those that the block's count is the number of
  std::uint64_t lane = 0;        // of the cell
  std::uint64_t cell = 0;        // in that lane's ledger
  std::uint64_t queue = 0;       // of all that have one: the queue's index
  std::uint64_t position = 0;    // in the queue or map; of a cell, the low 40 bits
  bool delivered = false;        // message: a handler has been shown it
  std::uint64_t leased_by = 0;   // message of a work queue: the lane that works on it; 0: it waits
  std::uint64_t deliveries = 0;  // and how often it was delivered before
  std::uint64_t receive_ns = 0;

  bool in_cell() const noexcept {
    return kind != ReferenceKind::message && kind != ReferenceKind::extent && kind != ReferenceKind::epoch;
  }
  bool has_queue() const noexcept {
    return kind == ReferenceKind::message || kind == ReferenceKind::push || kind == ReferenceKind::pop ||
           kind == ReferenceKind::extent || kind == ReferenceKind::exchange || kind == ReferenceKind::lease;
  }
  bool operator==(const BlockReference&) const noexcept = default;
};

/// How a handle relates to what is at its place.
enum class Standing : std::uint8_t {
  live,
  freeing,      // given up by its last holder; the slab's owner will take it back
  over,         // its generation is over
  quarantined,  // it is in its generation: nobody holds it, but a device may still write into it
  not_begun,    // its generation has not begun
  no_block,     // no block can be there: no such unit or slot, or a unit that holds no blocks
};

struct BlockFacts {
  Handle handle;  // as it was asked for
  std::uint64_t unit = 0;
  std::uint64_t slot = 0;
  std::uint64_t generation = 0;
  Standing standing = Standing::no_block;
  std::string why;  // no_block: in words

  // Of what is there now, unless no_block.
  Handle handle_now;
  std::uint64_t generation_now = 0;
  BlockState state = BlockState::free;
  std::uint64_t bytes = 0;  // capacity
  std::uint32_t size_class = 0;
  bool is_run = false;
  std::uint64_t lane = 0;  // the slab's owner; of a run, its taker
  bool orphaned = false;   // a slab whose lane was released
  std::uint64_t count = 0;
  std::uint64_t flags = 0;
  std::uint64_t tag_lane = 0;  // of the last 16-byte compare-and-swap on it; 0: none yet
  std::uint64_t tag_sequence = 0;

  /// The generation that was asked for is there, live or on its way out.
  bool is_there() const noexcept { return standing == Standing::live || standing == Standing::freeing; }
  bool operator==(const BlockFacts&) const = default;
};

/// What the comparison of the references found with the block's count says.
enum class Agreement : std::uint8_t {
  exact,     // as many as the count
  moving,    // they differ, and what was seen changed between looks
  violation  // they differ, and nothing moved: several looks saw the same, or nobody is left to move anything
};

struct BlockHolders {
  BlockFacts facts;
  std::vector<BlockReference> references;
  Agreement agreement = Agreement::exact;

  std::uint64_t counted() const noexcept;
};

/// The handle that a name stands for in this segment; null if no block can be there (read_block says why).
Handle resolve(const Segment& segment, const BlockName& name) noexcept;

BlockFacts read_block(const Segment& segment, const BlockName& name);

/// The block and everything that names it. `live`: somebody may be changing the segment; then up to `looks`
/// looks are taken, `pause` apart, until one is exact.
BlockHolders read_block_holders(const Segment& segment, const BlockName& name, bool live, unsigned looks = 5,
                                std::chrono::milliseconds pause = std::chrono::milliseconds(20));

/// How long ago a message's bytes were received, where that can be known: its clock counts since the boot, so
/// only in a segment that was created since this one.
std::optional<std::chrono::nanoseconds> received_ago(const Segment& segment, std::uint64_t receive_ns);

std::string_view to_string(ReferenceKind kind) noexcept;
std::string_view to_string(Standing standing) noexcept;
std::string_view to_string(Agreement agreement) noexcept;
/// "shared, findable", or "none".
std::string flag_names(std::uint64_t flags);

}  // namespace sluice::tools
