// Blocks that the kernel may still write into when their last reference goes: direct I/O that a dead process had
// under way. Before such a block is handed out again its pages are punched out of the file: what the device still
// writes lands in pages that nobody sees. Where that cannot be done, or has not worked, the block is set aside.
//
//   last drop  LIVE|IO -> FREEING|IO ; punch, look, commit ; FREEING -> as any other free
//                                    ; else count ; QUARANTINED in the next generation ; the cell is emptied
//   lift       claim ; cell = handle ; QUARANTINED -> FREEING|IO ; as above ; claim is given up
//
// Thread safety: isolate_or_quarantine() as the lane given; lift_after_reboot() by the only process that has the file.
#pragma once

#include "shm/block.hpp"

#include <cstdint>

namespace sluice {

/// Punch the block's pages out of the file and put fresh ones in their place. The block must be referred to by nobody.
///
/// returns  false  smaller than a page, or a page is still the old one (a large folio that cannot be split while
///                 a device uses it), or there was no room for fresh pages
bool replace_pages(const Segment& segment, const BlockView& block) noexcept;

/// `cell` holds a block that is FREEING with the flag IO. true: it is FREEING like any other, and the cell still
/// holds it. false: it is QUARANTINED, and the cell is empty. Repeatable.
bool isolate_or_quarantine(const LaneView& lane, const BlockView& block, std::uint32_t cell) noexcept;

/// A copied file, or one from an earlier boot: no device knows its pages. Frees the quarantined slots of slabs that
/// are too small for pages of their own.
void lift_after_reboot(const Segment& segment) noexcept;

}  // namespace sluice
