// The audit as a detector: each kind of fault, planted in a sound segment, is found; the sound one has none.
#include "ipc/audit.hpp"

#include "ipc/stream.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cstring>
#include <functional>

namespace sluice::test {

namespace {

/// One of everything: slabs, a run, a stream with messages, an orphaned slab, retired and freed slots.
struct Furnished : Rig {
  Furnished() : Rig(small_options(24)), queue(must(create_stream(*lane, "furnished", 16))) {
    small = must(heap().allocate(64));
    page = must(heap().allocate(4096));
    run = must(heap().allocate(3 * unit_bytes));
    freed = must(heap().allocate(64));
    must(heap().release(freed));
    auto producer = must(StreamProducer::claim(*lane, queue));
    Message message{};
    message.kind = MessageKind::user;
    must(producer.push(message));
    queued = must(heap().allocate(2000));
    must(producer.push(message, queued));
    auto leaver = another_lane();
    must(leaver->heap().allocate(20000));
  }

  TruthWord& word_of(Reference of) const {
    return segment().truth_word(segment().split().unit(of.handle), segment().split().slot(of.handle));
  }
  UnitDescriptor& unit_of(Reference of) const { return segment().unit(segment().split().unit(of.handle)); }
  UnitDescriptor& unit_behind(Reference of, std::uint32_t distance) const {
    return segment().unit(segment().split().unit(of.handle) + distance);
  }
  QueueRow& row() const { return queue_row(segment(), queue.index); }
  std::uint64_t free_unit() const {
    for (std::uint64_t i = 0; i < segment().units_committed(); ++i)
      if (const auto state = unit_word::state(segment().unit(i).word);
          state == UnitState::free || state == UnitState::free_uncommitted)
        return i;
    throw std::runtime_error("no unit is free");
  }

  Reference small, page, run, freed, queued;
  QueueId queue;
};

/// Changes bytes of the segment, and puts them back.
class Poke {
 public:
  template <class T>
  Poke& set(T& place, std::type_identity_t<T> value) {
    saved_.push_back([&place, old = place] { place = old; });
    place = value;
    return *this;
  }
  Poke() = default;
  Poke(const Poke&) = delete;
  Poke& operator=(const Poke&) = delete;
  ~Poke() {
    for (auto undo = saved_.rbegin(); undo != saved_.rend(); ++undo) (*undo)();
  }

 private:
  std::vector<std::function<void()>> saved_;
};

void check_found(const Furnished& rig, std::string_view fault) {
  CAPTURE(fault);
  CHECK_FALSE(audit(rig.segment()).violations.empty());
}

template <class T>
void check_set(const Furnished& rig, std::string_view fault, T& place, std::type_identity_t<T> value) {
  Poke poke;
  poke.set(place, value);
  check_found(rig, fault);
}

std::uint64_t with_state(std::uint64_t word, std::uint64_t state) {
  return unit_word::State::set(word, state);
}
std::uint64_t with_count(std::uint64_t low, std::uint64_t count) { return truth::Count::set(low, count); }
std::uint64_t with_state(std::uint64_t low, BlockState state) {
  return truth::State::set(low, static_cast<std::uint64_t>(state));
}

}  // namespace

TEST_CASE("audit: a sound segment has no violation, and is counted right", "[audit]") {
  Furnished rig;
  const auto report = audit(rig.segment());
  for (const auto& violation : report.violations) FAIL_CHECK(violation.what);
  CHECK(report.counts.units_committed == rig.segment().units_committed());
  CHECK(report.counts.blocks_live == 4);
  CHECK(report.counts.references == 4);
  CHECK(report.counts.cells_used == 3);
  CHECK(report.counts.block_bytes_live == 64 + 4096 + 3 * unit_bytes + 2048);
  CHECK(report.counts.runs == 1);
  CHECK(report.counts.run_units == 3);
  CHECK(report.counts.storage_units == 1);
  CHECK(report.counts.slabs == 4);
  CHECK(report.counts.slabs_orphaned == 1);
  CHECK(report.counts.units_free == report.counts.units_committed - 8);
  CHECK(report.counts.lanes_active == 1);
  CHECK(report.counts.queue_messages == 2);
  CHECK(report.counts.blocks_freeing == 0);
  const auto& classes = rig.segment().classes();
  REQUIRE(report.live_by_class.size() == classes.count());
  for (std::uint32_t i = 0; i < classes.count(); ++i) {
    const bool used = classes.bytes(i) == 64 || classes.bytes(i) == 4096 || classes.bytes(i) == 2048;
    CHECK(report.live_by_class[i] == (used ? 1 : 0));
  }
}

TEST_CASE("audit: an empty segment and a read-only one can be walked", "[audit]") {
  const TempSegment file;
  const auto attached = must(Segment::attach_read_only(file.path()));
  CHECK(audit(attached).violations.empty());
  CHECK(audit(attached).counts.blocks_live == 0);
}

TEST_CASE("audit: a wrong truth word is found", "[audit]") {
  Furnished rig;
  for (const auto& block : {rig.small, rig.page, rig.run, rig.queued}) {
    auto& low = rig.word_of(block).low;
    CAPTURE(block.handle.value);
    check_set(rig, "count too high", low, with_count(low, 2) | truth::Flags::make(truth::flag_shared));
    check_set(rig, "two references, not shared", low, with_count(low, 2));
    check_set(rig, "findable, not shared", low, low | truth::Flags::make(truth::flag_findable));
    check_set(rig, "a flag that is not one", low, low | truth::Flags::make(16));
    auto& tag = rig.word_of(block).tag;
    check_set(rig, "the tag of nobody", tag, truth_tag::make(0, 1));
    check_set(rig, "the tag of a lane that is not there", tag, truth_tag::make(4095, 1));
    check_set(rig, "the tag of an operation to come", tag, truth_tag::make(rig.lane->id(), 1000));
    check_set(rig, "live without a count", low, with_count(low, 0));
    check_set(rig, "unknown state", low, truth::State::set(low, 5));
    check_set(rig, "no generation", low, truth::Generation::set(low, 0));
    check_set(rig, "live in a generation that nobody names", low,
              truth::Generation::set(low, truth::Generation::get(low) + 1));
    check_set(rig, "free but counted", low, with_state(low, BlockState::free));
  }
  auto& free_low = rig.word_of(rig.freed).low;
  check_set(rig, "live without a reference", free_low, with_count(with_state(free_low, BlockState::live), 1));
  check_set(rig, "free but counted", free_low, with_count(free_low, 3));
  check_set(rig, "free but shared", free_low, free_low | truth::Flags::make(truth::flag_shared));
  check_set(rig, "an operation to come was seen", rig.segment().seen_row(rig.lane->id())[2], 1000);
  const auto clone = must(rig.heap().clone(rig.small));
  check_set(rig, "a reference without its cell", rig.heap().cell(clone.cell).handle, 0);
  must(rig.heap().release(clone));
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: a reference too few or too many is found", "[audit]") {
  Furnished rig;
  auto& cell = rig.heap().cell(rig.small.cell);
  auto& spare = rig.heap().cell(rig.heap().lane().cell_count - 1);
  REQUIRE(spare.handle == 0);
  check_set(rig, "live without a reference", cell.handle, 0);
  check_set(rig, "two references, count one", spare.handle, cell.handle);
  check_set(rig, "held and queued", spare.handle, rig.queued.handle.value);
  auto& message = message_slot(rig.segment(), rig.row(), 1);
  check_set(rig, "a message names a dead block", message.handle, rig.freed.handle.value);
  check_set(rig, "a message names nonsense", message.handle, ~std::uint64_t{0});
  check_set(rig, "the queue lost a block", message.handle, 0);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: a cell with garbage is found", "[audit]") {
  Furnished rig;
  auto& cell = rig.heap().cell(rig.heap().lane().cell_count - 1);
  const auto& split = rig.segment().split();
  check_set(rig, "all ones", cell.handle, ~std::uint64_t{0});
  check_set(rig, "a unit beyond the end", cell.handle,
            split.make(1, rig.segment().units_committed(), 0).value);
  check_set(rig, "an unknown move", cell.aux, cell_aux::make(cell_aux::kind_max + 1, 0, 0, 0));
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: a cell for an allocation that did not happen yet is no fault", "[audit]") {
  Furnished rig;
  auto& cell = rig.heap().cell(rig.heap().lane().cell_count - 1);
  const auto& split = rig.segment().split();
  const auto next = split.make(split.generation(rig.freed.handle) + 1, split.unit(rig.freed.handle),
                               split.slot(rig.freed.handle));
  Poke poke;
  poke.set(cell.handle, next.value);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: a wrong unit is found", "[audit]") {
  Furnished rig;
  const auto& segment = rig.segment();
  auto& slab = rig.unit_of(rig.small).word;
  check_set(rig, "unknown state", slab, with_state(slab, 12));
  check_set(rig, "unknown class", slab, unit_word::Class::set(slab, 63));
  check_set(rig, "owned by nobody", slab, unit_word::Lane::set(slab, 0));
  check_set(rig, "owned by no lane", slab, unit_word::Lane::set(slab, 4095));
  check_set(rig, "owned in an incarnation that was not yet", slab,
            unit_word::Tag::set(slab, unit_word::Tag::max));
  check_set(rig, "a free unit with a live block", slab, with_state(slab, std::uint64_t(UnitState::free)));
  check_set(rig, "truth words that are not there", rig.unit_of(rig.small).bands, 1);
  auto& head = rig.unit_of(rig.run);
  check_set(rig, "a run over its neighbour", head.run_units, 4);
  check_set(rig, "a run that lost its end", head.run_units, 2);
  check_set(rig, "a run of nothing", head.run_units, 0);
  check_set(rig, "a run beyond the end", head.run_units, 0xffffffff);
  check_set(rig, "interior without a head", head.word, with_state(head.word, std::uint64_t(UnitState::free)));
  auto& inside = rig.unit_behind(rig.run, 1);
  check_set(rig, "interior at another distance", inside.run_offset, 2);
  check_set(rig, "a slab inside a run", inside.word, slab);
  auto& unused = segment.unit(rig.free_unit());
  check_set(rig, "interior of nothing", unused.word, unit_word::make(UnitState::interior, 0, 1, 1));
  check_set(rig, "reserved by no operation", unused.word, unit_word::make(UnitState::reserved, 0, 1, 1));
  {
    Poke poke;
    poke.set(unused.word, unit_word::make(UnitState::run, 0, 1, 1)).set(unused.run_units, 1);
    check_found(rig, "a run that is no block");
  }
  {
    Poke poke;
    poke.set(unused.word, unit_word::make(UnitState::storage, 0, 1, 1)).set(unused.run_units, 1);
    check_found(rig, "storage of no queue");
  }
  CHECK(audit(segment).violations.empty());
}

TEST_CASE("audit: a wrong queue is found", "[audit]") {
  Furnished rig;
  auto& row = rig.row();
  check_set(rig, "head beyond what was pushed", row.head, 3);
  check_set(rig, "head far beyond", row.head, 1000);
  check_set(rig, "more messages than slots", row.tail, 1000);
  check_set(rig, "more delivered than pushed", row.delivered, 1000);
  check_set(rig, "unknown state", row.word, queue_word::State::set(row.word, 7));
  check_set(rig, "storage without its queue", row.word, queue_word::State::set(row.word, 0));
  check_set(rig, "unknown kind", row.kind, 9);
  check_set(rig, "capacity not a power of two", row.capacity, 15);
  check_set(rig, "no capacity", row.capacity, 0);
  check_set(rig, "more capacity than storage", row.capacity, 1U << 20);
  check_set(rig, "other messages", row.message_bytes, 32);
  check_set(rig, "storage in a block", row.first_unit, rig.segment().split().unit(rig.run.handle));
  check_set(rig, "storage beyond the end", row.first_unit, 0xffffffff);
  check_set(rig, "more storage than it has", row.unit_count, 2);
  check_set(rig, "a consumer that is no lane", row.consumer, lane_claim::make(4095, 1));
  check_set(rig, "a producer from another life", row.producer,
            lane_claim::make(rig.lane->id(), rig.lane->incarnation() + 1));
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: a ring that several queues name is found, and its messages are counted once", "[audit]") {
  Furnished rig;
  const auto messages = audit(rig.segment()).counts.queue_messages;
  REQUIRE(messages != 0);
  auto& copy = queue_row(rig.segment(), rig.queue.index + 1);
  std::memcpy(static_cast<void*>(&copy), &rig.row(), sizeof copy);
  const auto report = audit(rig.segment());
  REQUIRE(report.violations.size() == 1);
  CHECK(report.violations.front().what.find("another queue's too") != std::string::npos);
  CHECK(report.counts.queue_messages == messages);
  std::memset(static_cast<void*>(&copy), 0, sizeof copy);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: a wrong process or lane is found", "[audit]") {
  Furnished rig;
  auto& process = process_row(rig.segment(), rig.session.membership().row()).word;
  check_set(rig, "unknown process state", process, process_word::State::set(process, 7));
  check_set(rig, "a lane of nobody", process, process_word::make(ProcessState::free, 9));
  auto& lane = rig.lane->row();
  check_set(rig, "a lane of no process", lane.word, lane_word::Process::set(lane.word, 2047));
  check_set(rig, "more cells than the ledger", lane.cell_count, 1U << 30);
  check_set(rig, "an unknown operation", lane.log.operation, 99);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: random damage to the tables never crashes it", "[audit][fuzz]") {
  Furnished rig;
  const auto& geometry = rig.segment().geometry();
  const auto seed = GENERATE(1U, 2U);
  std::uint64_t state = seed;
  const auto random = [&] {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return state >> 33;
  };
  std::uint64_t found = 0;
  for (int i = 0; i < 1500; ++i) {
    Poke poke;
    for (int changes = 0; changes < 3; ++changes) {
      static constexpr RegionKind kinds[] = {RegionKind::control, RegionKind::processes, RegionKind::lanes,
                                             RegionKind::queues,  RegionKind::units,     RegionKind::truth};
      const auto& region = geometry.region(kinds[random() % 6]);
      const auto words = std::min<std::uint64_t>(region.count, 8) * region.stride / 8;
      auto* word = reinterpret_cast<std::uint64_t*>(rig.segment().base() + region.offset) + random() % words;
      poke.set(*word, random() % 3 == 0 ? ~std::uint64_t{0} : *word ^ (std::uint64_t{1} << (random() % 64)));
    }
    found += audit(rig.segment()).violations.empty() ? 0U : 1U;
  }
  CHECK(found > 100);
  CHECK(audit(rig.segment()).violations.empty());
}

TEST_CASE("audit: on a live segment only what stays is reported", "[audit]") {
  Furnished rig;
  using namespace std::chrono_literals;
  CHECK(audit_settled(rig.segment(), 3, 1ms).violations.empty());
  auto& low = rig.word_of(rig.small).low;
  Poke poke;
  poke.set(low, with_count(low, 2) | truth::Flags::make(truth::flag_shared));
  CHECK(audit_settled(rig.segment(), 3, 1ms).violations.size() == 1);
}

}  // namespace sluice::test
