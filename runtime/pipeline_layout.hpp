// The pipeline's persistent words, in the segment's runtime page. Bytes only; docs/layout.md has the table.
#pragma once

#include "shm/segment.hpp"

#include <cstddef>
#include <cstdint>

namespace sluice {

struct alignas(64) PipelineState {
  std::uint64_t next_flow;  // number of the next connection; never goes back.  W: ingress.  R: all
  // Times that somebody who makes messages found no block: who keeps history gives some up.  W: those
  std::uint64_t short_of_blocks;
  std::uint64_t reserved[6];
};
static_assert(sizeof(PipelineState) == 64);

inline PipelineState& pipeline_state(const Segment& segment) noexcept {
  return *segment.at<PipelineState>(RegionKind::runtime, 0);
}

}  // namespace sluice
