// The address ranges at which this process maps segments for writing.
//
// A child made by fork does not inherit those mappings (MADV_DONTFORK), but it inherits pointers into them. In the
// child the ranges are blocked, so that nothing which it maps itself can come to lie where the parent's lanes are
// thought to be: use of them is a fault, never a store into the parent's rows.
// Thread safety: all functions.
#pragma once

#include <cstddef>

namespace sluice {

/// The range is mapped: block it in children from now on.
void add_mapped_range(void* base, std::size_t bytes);
/// Before it is unmapped.
void remove_mapped_range(void* base);

}  // namespace sluice
