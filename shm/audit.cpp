#include "shm/audit.hpp"

#include "shm/block.hpp"
#include "shm/operation_log.hpp"
#include "shm/shared.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

namespace sluice {

namespace {

struct BlockSeen {
  std::uint64_t low = 0;
  std::uint64_t references = 0;
};

class Walk {
 public:
  Walk(const Segment& segment, const ReferenceSource* source) : segment_(segment), source_(source) {
    report_.live_by_class.resize(segment.classes().count());
  }

  AuditReport run() {
    units();
    cells();
    if (source_ != nullptr)
      source_->visit(segment_, report_, [this](Handle handle) { refer(handle, "a queue"); });
    counts();
    return std::move(report_);
  }

 private:
  template <class... Args>
  void violation(std::uint64_t key, fmt::format_string<Args...> format, Args&&... args) {
    if (report_.violations.size() < violations_max)
      report_.violations.push_back({fmt::format(format, std::forward<Args>(args)...), key});
  }

  std::uint64_t key_of(std::uint64_t unit, std::uint32_t slot, std::uint64_t generation) const {
    return segment_.split().make(generation, unit, slot).value;
  }

  void units() {
    const auto committed = segment_.units_committed();
    report_.counts.units_committed = committed;
    for (std::uint64_t unit = 0; unit < committed; ++unit) {
      const auto word = load(segment_.unit(unit).word, acquire);
      switch (unit_word::State::get(word)) {
        case static_cast<std::uint64_t>(UnitState::free):
        case static_cast<std::uint64_t>(UnitState::free_uncommitted):
          ++report_.counts.units_free;
          no_blocks(unit, 0);
          break;
        case static_cast<std::uint64_t>(UnitState::reserved):
          ++report_.counts.units_reserved;
          no_blocks(unit, 0);
          tagged_by_open_operation(unit, word, "reserved");
          break;
        case static_cast<std::uint64_t>(UnitState::slab): slab(unit, word); break;
        case static_cast<std::uint64_t>(UnitState::run): unit = run(unit, word, committed); break;
        case static_cast<std::uint64_t>(UnitState::storage): unit = storage(unit, word, committed); break;
        case static_cast<std::uint64_t>(UnitState::interior):
          // Runs step over their interior: this one has no head, or is being taken or freed.
          tagged_by_open_operation(unit, word, "interior without a head");
          break;
        default:
          violation(unit, "unit {}: state {}, expected at most {}", unit, unit_word::State::get(word),
                    unit_state_max);
      }
    }
  }

  // Legal only while some lane's logged operation covers the unit.
  void tagged_by_open_operation(std::uint64_t unit, std::uint64_t word, std::string_view what) {
    for (std::uint64_t lane = 1; lane < segment_.header().lane_count; ++lane) {
      const auto& row = segment_.lane_row(lane);
      if (open_sequence(row) == 0 || !is_of_units(load(row.log.operation, relaxed))) continue;
      const auto first = load(row.log.first, relaxed);
      const auto count = load(row.log.count, relaxed);
      if (unit >= first && unit - first < count) return;
    }
    violation(unit, "unit {}: {} (lane {}, tag {}), but no open operation covers it", unit, what,
              unit_word::Lane::get(word), unit_word::Tag::get(word));
  }

  void slab(std::uint64_t unit, std::uint64_t word) {
    ++report_.counts.slabs;
    const auto size_class = static_cast<std::uint32_t>(unit_word::Class::get(word));
    const auto lane = unit_word::Lane::get(word);
    if (size_class >= segment_.classes().count()) {
      violation(unit, "unit {}: slab of class {}, expected below {}", unit, size_class,
                segment_.classes().count());
      return;
    }
    if (lane == 0 || lane >= segment_.header().lane_count) {
      violation(unit, "unit {}: slab owned by lane {}, expected 1 to {}", unit, lane,
                segment_.header().lane_count - 1);
      return;
    }
    const auto owner = lane_word::Incarnation::get(load(segment_.lane_row(lane).word, acquire));
    if (owner != unit_word::Tag::get(word)) ++report_.counts.slabs_orphaned;
    if (owner < unit_word::Tag::get(word))
      violation(unit, "unit {}: slab of incarnation {} of lane {}, which has only reached {}", unit,
                unit_word::Tag::get(word), lane, owner);
    const auto bands = bands_for(segment_.classes().bytes(size_class));
    if (const auto committed = load(segment_.unit(unit).bands, relaxed); committed < bands) {
      violation(unit, "unit {}: {} bands of truth words committed, its class needs {}", unit, committed,
                bands);
      return;
    }
    for (std::uint32_t slot = 0; slot < segment_.classes().slots(size_class); ++slot) {
      const auto low = truth_low(unit, slot);
      if (truth::state(low) == BlockState::live) {
        ++report_.live_by_class[size_class];
        live(unit, slot, low, segment_.classes().bytes(size_class));
      } else {
        not_live(unit, slot, low);
      }
    }
    no_blocks(unit, segment_.classes().slots(size_class));
  }

  // No slot from `first` on may hold a block: the unit is not cut so that it could.
  void no_blocks(std::uint64_t unit, std::uint32_t first) {
    const auto bands = std::min(load(segment_.unit(unit).bands, relaxed), band_count);
    for (auto slot = first; slot < bands * slots_per_band; ++slot) {
      const auto low = truth_low(unit, slot);
      if (truth::state(low) == BlockState::live || truth::state(low) == BlockState::freeing)
        violation(key_of(unit, slot, 0), "block {}:{}: {}, but its unit has no such slot", unit, slot,
                  truth::state(low) == BlockState::live ? "live" : "being freed");
    }
  }

  std::uint64_t truth_low(std::uint64_t unit, std::uint32_t slot) const {
    return load(segment_.truth_word(unit, slot).low, acquire);
  }

  void live(std::uint64_t unit, std::uint32_t slot, std::uint64_t low, std::uint64_t bytes) {
    ++report_.counts.blocks_live;
    report_.counts.block_bytes_live += bytes;
    const auto generation = truth::Generation::get(low);
    if (generation == 0 || generation > segment_.split().generation_max())
      violation(key_of(unit, slot, 0), "block {}:{}: live in generation {}, expected 1 to {}", unit, slot,
                generation, segment_.split().generation_max());
    const auto count = truth::Count::get(low);
    const auto flags = truth::Flags::get(low);
    if (count == 0)
      violation(key_of(unit, slot, generation), "block {}:{}: live with a count of 0", unit, slot);
    if ((flags & ~truth::flags_known) != 0)
      violation(key_of(unit, slot, generation), "block {}:{}: flags {:#x}, expected none but {:#x}", unit,
                slot, flags, truth::flags_known);
    if ((count > 1 || (flags & truth::flag_findable) != 0) && (flags & truth::flag_shared) == 0)
      violation(key_of(unit, slot, generation), "block {}:{}: {} references{}, but not marked as shared",
                unit, slot, count, (flags & truth::flag_findable) != 0 ? ", findable" : "");
    tag(unit, slot);
    blocks_[key_of(unit, slot, generation)].low = low;
  }

  // Who changed it last did so with a sequence number that it has reached.
  void tag(std::uint64_t unit, std::uint32_t slot) {
    const auto tag = load(segment_.truth_word(unit, slot).tag, acquire);
    const auto lane = truth_tag::Lane::get(tag);
    if (tag == 0) return;
    const auto reached =
        lane < segment_.header().lane_count ? load(segment_.lane_row(lane).sequence, acquire) : 0;
    if (lane == 0 || truth_tag::Sequence::get(tag) > reached)
      violation(key_of(unit, slot, 0), "block {}:{}: tagged by operation {} of lane {}, which has reached {}",
                unit, slot, truth_tag::Sequence::get(tag), lane, reached);
  }

  // What a lane has seen of others was so.
  void seen_of(const LaneView& view) {
    for (LaneId other = 1; other < segment_.lane_count() && view.cell_count != 0; ++other) {
      const auto seen = load(segment_.seen_row(view.id)[other], acquire);
      const auto reached = load(segment_.lane_row(other).sequence, acquire);
      if (seen > reached)
        violation(view.id, "lane {}: has seen operation {} of lane {}, which has reached {}", view.id, seen,
                  other, reached);
    }
  }

  void not_live(std::uint64_t unit, std::uint32_t slot, std::uint64_t low) {
    switch (truth::State::get(low)) {
      case static_cast<std::uint64_t>(BlockState::freeing): ++report_.counts.blocks_freeing; break;
      case static_cast<std::uint64_t>(BlockState::retired): ++report_.counts.blocks_retired; break;
      case static_cast<std::uint64_t>(BlockState::quarantined): ++report_.counts.blocks_quarantined; break;
      case static_cast<std::uint64_t>(BlockState::free): break;
      default:
        violation(key_of(unit, slot, 0), "block {}:{}: state {}, expected at most 4", unit, slot,
                  truth::State::get(low));
    }
    const auto allowed = truth::state(low) == BlockState::freeing ? truth::flag_io : 0;
    if ((truth::Flags::get(low) & ~allowed) != 0)
      violation(key_of(unit, slot, 0), "block {}:{}: not live, but has flags {:#x}", unit, slot,
                truth::Flags::get(low));
    tag(unit, slot);
    if (truth::Count::get(low) != 0)
      violation(key_of(unit, slot, 0), "block {}:{}: not live, but counts {} references", unit, slot,
                truth::Count::get(low));
    if (truth::Generation::get(low) > segment_.split().generation_max())
      violation(key_of(unit, slot, 0), "block {}:{}: generation {}, expected at most {}", unit, slot,
                truth::Generation::get(low), segment_.split().generation_max());
  }

  // The interior must be this head's. Returns the last unit that belongs to it.
  std::uint64_t span_of(std::uint64_t unit, std::uint64_t word, std::uint64_t committed,
                        std::string_view what) {
    const std::uint64_t count = load(segment_.unit(unit).run_units, relaxed);
    if (count == 0 || count > committed - unit) {
      violation(unit, "unit {}: {} of {} units, expected 1 to {}", unit, what, count, committed - unit);
      return unit;
    }
    const auto interior = unit_word::State::set(word, static_cast<std::uint64_t>(UnitState::interior));
    for (std::uint64_t i = 1; i < count; ++i) {
      const auto found = load(segment_.unit(unit + i).word, acquire);
      no_blocks(unit + i, 0);
      if (found == interior && load(segment_.unit(unit + i).run_offset, relaxed) == i) continue;
      if (in_open_operation(unit)) return unit + i - 1;
      violation(unit + i, "unit {}: should be interior {} of the {} at unit {}, but holds word {:#x}",
                unit + i, i, what, unit, found);
      return unit + i - 1;
    }
    return unit + count - 1;
  }

  bool in_open_operation(std::uint64_t unit) {
    const auto before = report_.violations.size();
    tagged_by_open_operation(unit, 0, "");
    const bool covered = report_.violations.size() == before && before < violations_max;
    report_.violations.resize(std::min(before, report_.violations.size()));
    return covered;
  }

  std::uint64_t run(std::uint64_t unit, std::uint64_t word, std::uint64_t committed) {
    const auto last = span_of(unit, word, committed, "run");
    ++report_.counts.runs;
    report_.counts.run_units += last - unit + 1;
    no_blocks(unit, 1);
    const auto low = truth_low(unit, 0);
    if (truth::state(low) == BlockState::live) {
      live(unit, 0, low, (last - unit + 1) * unit_bytes);
    } else {
      not_live(unit, 0, low);
      // Given up by the last of several holders, the cell leads to it until the log of the free is open.
      if (truth::state(low) == BlockState::freeing && !in_open_operation(unit))
        freeing_runs_.insert(key_of(unit, 0, truth::Generation::get(low)));
      else if (truth::state(low) != BlockState::quarantined && truth::state(low) != BlockState::retired)
        tagged_by_open_operation(unit, word, "head of a run that is not live");
    }
    return last;
  }

  std::uint64_t storage(std::uint64_t unit, std::uint64_t word, std::uint64_t committed) {
    const auto last = span_of(unit, word, committed, "queue storage");
    report_.counts.storage_units += last - unit + 1;
    if (source_ != nullptr && !source_->owns_storage(segment_, static_cast<std::uint32_t>(unit)))
      tagged_by_open_operation(unit, word, "queue storage that no queue names");
    return last;
  }

  void cells() {
    for (LaneId lane = 1; lane < segment_.lane_count(); ++lane) {
      const auto view = lane_view(segment_, lane);
      const auto cells = load(view.row->cell_count, acquire);
      if (lane_word::Active::get(load(view.row->word, acquire)) != 0) ++report_.counts.lanes_active;
      if (cells > segment_.header().cells_per_lane)
        violation(lane, "lane {}: {} cells, expected at most {}", lane, cells,
                  segment_.header().cells_per_lane);
      seen_of(view);
      // Where a death left a cell behind its operation, it counts as recovery will make it.
      const auto open = open_cell(view);
      for (std::uint32_t i = 0; i < view.cell_count; ++i) {
        const bool differs = open.differs && open.cell == i;
        cell(lane, i, differs ? open.handle : Handle{load(view.cells[i].handle, acquire)},
             load(view.cells[i].aux, acquire));
      }
    }
  }

  void cell(LaneId lane, std::uint32_t index, Handle handle, std::uint64_t aux) {
    if (cell_aux::Kind::get(aux) > cell_aux::kind_max)
      violation(key_of(lane, index % 1024, 0), "lane {} cell {}: kind {}, expected at most {}", lane, index,
                cell_aux::Kind::get(aux), cell_aux::kind_max);
    if (!handle) return;
    ++report_.counts.cells_used;
    if (aux != cell_aux::at_rest && source_ != nullptr && !source_->cell_holds(segment_, handle, aux)) return;
    // A cell counts only while its block is live in its generation: else it is an allocation that did not
    // happen yet, or a free that did. That it names something that could be a block is still required.
    const auto& split = segment_.split();
    if (split.unit(handle) >= segment_.units_committed()) {
      violation(handle.value, "lane {} cell {}: handle {:#x} names unit {} of {}", lane, index, handle.value,
                split.unit(handle), segment_.units_committed());
      return;
    }
    const auto view = locate(segment_, handle);
    if (view.word == nullptr || truth::Generation::get(view.low) != split.generation(handle)) return;
    if (truth::state(view.low) == BlockState::freeing) freeing_runs_.erase(handle.value);
    if (truth::state(view.low) == BlockState::live)
      refer(handle, fmt::format("lane {} cell {}", lane, index));
  }

  void refer(Handle handle, std::string_view who) {
    ++report_.counts.references;
    const auto found = blocks_.find(handle.value);
    if (found == blocks_.end())
      violation(handle.value, "handle {:#x}: {} refers to it, but no such block is live", handle.value, who);
    else
      ++found->second.references;
  }

  void counts() {
    for (const auto handle : freeing_runs_)
      violation(handle, "unit {}: head of a run that is being freed, but no cell or operation leads to it",
                segment_.split().unit({handle}));
    for (const auto& [handle, block] : blocks_) {
      const auto count = truth::Count::get(block.low);
      const auto held = block.references + ((truth::Flags::get(block.low) & truth::flag_epoch) != 0 ? 1 : 0);
      if (count == held) continue;
      violation(handle, "block {}:{} generation {}: count {}, but {} references",
                segment_.split().unit({handle}), segment_.split().slot({handle}),
                segment_.split().generation({handle}), count, held);
    }
  }

  static constexpr std::size_t violations_max = 10000;  // a damaged file does not fill memory
  const Segment& segment_;
  const ReferenceSource* source_;
  AuditReport report_;
  std::unordered_map<std::uint64_t, BlockSeen> blocks_;
  std::unordered_set<std::uint64_t> freeing_runs_;
};

}  // namespace

AuditReport audit_heap(const Segment& segment, const ReferenceSource* source) {
  return Walk(segment, source).run();
}

}  // namespace sluice
