// Contents of blocks that tell whose they are: a label with the block's own handle, and a word in each line that
// follows from it. A block that two think theirs, or whose handle leads elsewhere, does not read as written.
#pragma once

#include "shm/handle.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace sluice::verify {

/// Fill all of a block's lines. It has at least 64 bytes.
void write_block(std::span<std::byte> bytes, Handle handle, std::uint64_t seed) noexcept;

/// The seed that the block was written with; nothing if it does not read as written under that handle.
/// `bytes_max`: look at so many bytes only, e.g. because the rest was not copied.
std::optional<std::uint64_t> read_block(std::span<const std::byte> bytes, Handle handle,
                                        std::size_t bytes_max = ~std::size_t{0}) noexcept;

}  // namespace sluice::verify
