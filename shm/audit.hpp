// The audit: a read-only walk of every invariant of a segment. Tests, recovery and tools use this one.
//
// It is exact when all lanes are parked or dead. On a live file references move while it looks, so a finding
// about one is provisional; audit_settled() repeats the walk and keeps what stays.
#pragma once

#include "shm/segment.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

namespace sluice {

/// One broken invariant.
struct Violation {
  std::string what;       // a line for a person
  std::uint64_t key = 0;  // identifies the thing and its generation, to recognise it in a second walk
};

struct AuditCounts {
  std::uint64_t units_committed = 0;
  std::uint64_t units_free = 0;  // free or free_uncommitted
  std::uint64_t units_reserved = 0;
  std::uint64_t slabs = 0;
  std::uint64_t slabs_orphaned = 0;
  std::uint64_t runs = 0;
  std::uint64_t run_units = 0;  // heads and interior
  std::uint64_t storage_units = 0;
  std::uint64_t blocks_live = 0;
  std::uint64_t block_bytes_live = 0;  // capacity
  std::uint64_t blocks_freeing = 0;
  std::uint64_t blocks_retired = 0;
  std::uint64_t blocks_quarantined = 0;
  std::uint64_t references = 0;  // in cells and queues
  std::uint64_t cells_used = 0;
  std::uint64_t lanes_active = 0;
  std::uint64_t queue_messages = 0;
  std::uint64_t extents = 0;  // blocks in extent maps
};

struct AuditReport {
  std::vector<Violation> violations;
  AuditCounts counts;
  std::vector<std::uint64_t> live_by_class;  // blocks, by size class
};

/// References that live outside the ledgers, and how a moving cell is to be read. ipc provides it.
class ReferenceSource {
 public:
  virtual ~ReferenceSource() = default;
  /// Call `reference(handle)` for each reference in a queue; report what is wrong with the queues.
  virtual void visit(const Segment& segment, AuditReport& report,
                     const std::function<void(Handle)>& reference) const = 0;
  /// Whether a cell with that aux (not at rest) holds the reference in it now.
  virtual bool cell_holds(const Segment& segment, Handle handle, std::uint64_t aux) const = 0;
  /// Whether queue `queue` names storage that begins at `unit`.
  virtual bool owns_storage(const Segment& segment, std::uint32_t unit) const = 0;
};

/// One walk. `source` may be null: then any cell that moves is taken to hold its reference.
AuditReport audit_heap(const Segment& segment, const ReferenceSource* source);

}  // namespace sluice
