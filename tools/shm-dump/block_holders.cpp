#include "tools/shm-dump/block_holders.hpp"

#include "ipc/queues.hpp"
#include "shm/block.hpp"
#include "shm/shared.hpp"
#include "tools/common/format.hpp"
#include "tools/shm-dump/block_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <thread>

namespace sluice::tools {

namespace {

using std::chrono::nanoseconds;

nanoseconds clock_now(clockid_t clock) noexcept {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

ReferenceKind kind_of(std::uint64_t aux) noexcept {
  switch (cell_aux::Kind::get(aux)) {
    case cell_aux::at_rest: return ReferenceKind::cell;
    case cell_aux::claim:
    case cell_aux::publish:
    case cell_aux::push: return ReferenceKind::push;
    case cell_aux::acknowledge:
    case cell_aux::pop: return ReferenceKind::pop;
    case cell_aux::kernel: return ReferenceKind::kernel;
    case cell_aux::extent: return ReferenceKind::exchange;
    case cell_aux::lease:
    case cell_aux::forward:
    case cell_aux::forwarded: return ReferenceKind::lease;
    default: return ReferenceKind::invalid;
  }
}

// The cells of one lane that name the block, or that an open operation makes name it.
void read_lane(const Segment& segment, LaneId id, Handle handle, std::vector<BlockReference>& references) {
  const auto lane = lane_view(segment, id);
  const auto open = open_cell(lane);
  for (std::uint32_t i = 0; i < lane.cell_count; ++i) {
    const Handle named{load(lane.cells[i].handle, acquire)};
    const bool differs = open.differs && open.cell == i;
    if (named != handle && !(differs && open.handle == handle)) continue;
    const auto aux = load(lane.cells[i].aux, acquire);
    BlockReference reference;
    reference.lane = id;
    reference.cell = i;
    reference.kind = kind_of(aux);
    reference.counts = true;
    if (reference.has_queue()) {
      reference.queue = cell_aux::Queue::get(aux);
      reference.position = cell_aux::Position::get(aux);
      reference.counts = moving_cell_holds(segment, handle, aux);
    }
    if (differs) {
      reference.counts = open.handle == handle;
      reference.kind = reference.counts ? ReferenceKind::clone : ReferenceKind::drop;
    }
    references.push_back(reference);
  }
}

// One pass: of a reference that moves meanwhile, both places are met, or neither.
std::vector<BlockReference> read_references(const Segment& segment, const BlockFacts& facts) {
  std::vector<BlockReference> references;
  if (!facts.handle) return references;
  for (LaneId id = 1; id < segment.lane_count(); ++id) read_lane(segment, id, facts.handle, references);
  visit_blocks(segment, read_queue_table(segment), [&](const QueueEntry& queue, const QueuedBlock& block) {
    if (block.handle != facts.handle.value) return;
    const bool shown = queue.is_work() ? block.deliveries != 0 || block.lane != 0
                                       : !queue.is_map() && block.position < queue.delivered;
    references.push_back({.kind = queue.is_map() ? ReferenceKind::extent : ReferenceKind::message,
                          .counts = true,
                          .queue = queue.index,
                          .position = block.position,
                          .delivered = shown,
                          .leased_by = block.lane,
                          .deliveries = block.deliveries,
                          .receive_ns = block.receive_ns});
  });
  if (facts.is_there() && (facts.flags & truth::flag_epoch) != 0)
    references.push_back({.kind = ReferenceKind::epoch, .counts = true});
  // A reference to a block that is not live is none: an allocation that has not happened, or a free that has.
  if (facts.standing != Standing::live)
    for (auto& reference : references) reference.counts = false;
  return references;
}

std::string why_no_block(const Segment& segment, const BlockFacts& facts) {
  const auto committed = segment.units_committed();
  if (facts.unit >= committed)
    return fmt::format("unit {} does not exist: {} are committed", facts.unit, committed);
  const auto word = load(segment.unit(facts.unit).word, acquire);
  if (unit_word::State::get(word) > unit_state_max)
    return fmt::format("unit {} cannot be read: its state is {}", facts.unit, unit_word::State::get(word));
  const auto state = unit_word::state(word);
  const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
  if (state == UnitState::slab && size_class < segment.classes().count())
    return fmt::format("unit {} has slots 0 to {} now, of {}", facts.unit,
                       segment.classes().slots(size_class) - 1,
                       format_size(segment.classes().bytes(size_class)));
  if (state == UnitState::run) return fmt::format("unit {} is one block now, slot 0", facts.unit);
  return fmt::format("unit {} holds no blocks now: it is {}", facts.unit, to_string(state));
}

Standing standing_of(const BlockFacts& facts) noexcept {
  if (facts.generation < facts.generation_now) return Standing::over;
  if (facts.generation > facts.generation_now) return Standing::not_begun;
  switch (facts.state) {
    case BlockState::live: return Standing::live;
    case BlockState::freeing: return Standing::freeing;
    case BlockState::retired: return Standing::over;
    case BlockState::quarantined: return Standing::quarantined;
    default: return Standing::not_begun;
  }
}

// What a look saw, as far as a second one must see the same.
bool same(const BlockHolders& a, const BlockHolders& b) {
  return a.facts == b.facts && a.references == b.references;
}

BlockHolders look(const Segment& segment, const BlockName& name) {
  BlockHolders holders;
  holders.facts = read_block(segment, name);
  holders.references = read_references(segment, holders.facts);
  return holders;
}

}  // namespace

std::uint64_t BlockHolders::counted() const noexcept {
  return static_cast<std::uint64_t>(std::ranges::count_if(references, &BlockReference::counts));
}

Handle resolve(const Segment& segment, const BlockName& name) noexcept {
  if (name.handle != 0) return {name.handle};
  const auto& split = segment.split();
  if (name.unit >= segment.units_committed() || name.slot >= (1U << slot_bits) ||
      name.generation > split.generation_max())
    return {};
  const auto place = split.make(1, name.unit, name.slot);
  const auto view = locate(segment, place);
  if (view.word == nullptr) return {};
  return split.make(name.generation != 0 ? name.generation : truth::next_generation(view.low), name.unit,
                    name.slot);
}

BlockFacts read_block(const Segment& segment, const BlockName& name) {
  const auto& split = segment.split();
  BlockFacts facts;
  facts.handle = resolve(segment, name);
  facts.unit = name.handle != 0 ? split.unit(facts.handle) : name.unit;
  facts.slot = name.handle != 0 ? split.slot(facts.handle) : name.slot;
  facts.generation = facts.handle ? split.generation(facts.handle) : name.generation;
  const auto view = locate(segment, facts.handle);
  if (view.word == nullptr) {
    facts.why = why_no_block(segment, facts);
    return facts;
  }
  facts.state = truth::state(view.low);
  facts.generation_now =
      facts.state == BlockState::free ? truth::next_generation(view.low) : truth::Generation::get(view.low);
  facts.handle_now = split.make(facts.generation_now, facts.unit, facts.slot);
  facts.standing = standing_of(facts);
  facts.bytes = view.bytes;
  facts.is_run = view.is_run;
  facts.size_class = view.is_run ? 0 : static_cast<std::uint32_t>(unit_word::Class::get(view.unit_word));
  facts.lane = unit_word::Lane::get(view.unit_word);
  if (!view.is_run && facts.lane < segment.header().lane_count) {
    const auto owner = load(segment.lane_row(facts.lane).word, acquire);
    facts.orphaned = lane_word::Active::get(owner) == 0 ||
                     lane_word::Incarnation::get(owner) != unit_word::Tag::get(view.unit_word);
  }
  facts.count = truth::Count::get(view.low);
  facts.flags = truth::Flags::get(view.low);
  const auto tag = load(view.word->tag, acquire);
  facts.tag_lane = truth_tag::Lane::get(tag);
  facts.tag_sequence = truth_tag::Sequence::get(tag);
  return facts;
}

BlockHolders read_block_holders(const Segment& segment, const BlockName& name, bool live, unsigned looks,
                                std::chrono::milliseconds pause) {
  // The first look says which generation is meant; later ones stay with that.
  auto holders = look(segment, name);
  const BlockName exact{.handle = holders.facts.handle.value};
  bool stood_still = true;
  for (unsigned i = 1;; ++i) {
    const bool agrees = holders.facts.standing != Standing::live || holders.counted() == holders.facts.count;
    if (agrees) return holders;
    holders.agreement = live && (!stood_still || i < looks) ? Agreement::moving : Agreement::violation;
    if (!live || i >= looks) return holders;
    std::this_thread::sleep_for(pause);
    auto next = look(segment, exact);
    stood_still = stood_still && same(holders, next);
    holders = std::move(next);
  }
}

std::optional<nanoseconds> received_ago(const Segment& segment, std::uint64_t receive_ns) {
  const auto boot = current_boot_id();
  if (receive_ns == 0 || !boot ||
      std::memcmp(segment.identity().boot_id, boot->bytes, sizeof boot->bytes) != 0)
    return std::nullopt;
  const auto booted = clock_now(CLOCK_REALTIME) - clock_now(CLOCK_BOOTTIME);
  const auto now = clock_now(CLOCK_MONOTONIC);
  if (segment.header().created_ns < static_cast<std::uint64_t>(booted.count()) ||
      receive_ns > static_cast<std::uint64_t>(now.count()))
    return std::nullopt;
  return now - nanoseconds(receive_ns);
}

std::string_view to_string(ReferenceKind kind) noexcept {
  switch (kind) {
    case ReferenceKind::cell: return "cell";
    case ReferenceKind::push: return "push";
    case ReferenceKind::pop: return "pop";
    case ReferenceKind::kernel: return "kernel";
    case ReferenceKind::exchange: return "exchange";
    case ReferenceKind::lease: return "lease";
    case ReferenceKind::clone: return "clone";
    case ReferenceKind::drop: return "drop";
    case ReferenceKind::message: return "message";
    case ReferenceKind::extent: return "extent";
    case ReferenceKind::epoch: return "epoch";
    case ReferenceKind::invalid: break;
  }
  return "invalid";
}

std::string_view to_string(Standing standing) noexcept {
  switch (standing) {
    case Standing::live: return "live";
    case Standing::freeing: return "freeing";
    case Standing::quarantined: return "quarantined";
    case Standing::over: return "over";
    case Standing::not_begun: return "not_begun";
    case Standing::no_block: break;
  }
  return "no_block";
}

std::string_view to_string(Agreement agreement) noexcept {
  switch (agreement) {
    case Agreement::exact: return "exact";
    case Agreement::moving: return "moving";
    case Agreement::violation: break;
  }
  return "violation";
}

std::string flag_names(std::uint64_t flags) {
  std::string names;
  const auto add = [&](std::uint64_t flag, std::string_view name) {
    if ((flags & flag) != 0) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  };
  add(truth::flag_shared, "shared");
  add(truth::flag_epoch, "epoch");
  add(truth::flag_findable, "findable");
  add(truth::flag_io, "io");
  add(truth::Flags::max & ~truth::flags_known, "unknown");
  return names.empty() ? "none" : names;
}

}  // namespace sluice::tools
