#include "tests/verify/soak/checker.hpp"

#include "ipc/audit.hpp"
#include "tests/support/census.hpp"
#include "tests/verify/soak/checker_queues.hpp"

#include <fmt/format.h>

#include <exception>

namespace sluice::verify {

namespace {

// As much as a lane must hold to take up all memory in blocks of 64 bytes.
std::uint32_t cells_for(const Segment& segment) { return segment.header().cells_per_lane; }

void recover_all(Session& session, Complaints& complaints) {
  const auto report = session.recover_dead();
  for (const auto& line : report.disagreements) complaints.push_back("disagreement: " + line);
  test::check_nothing_left_to_recover(session, complaints);
  if (const auto claimer = load(session.segment().control().run_claimer, acquire); claimer != 0)
    complaints.push_back(
        fmt::format("the claim of who allocates alone is held by lane {}", lane_claim::Lane::get(claimer)));
}

// No row, lane or end of a queue belongs to anybody but this session.
void check_tables_empty(const Session& session, Complaints& complaints) {
  const auto& segment = session.segment();
  for (std::uint64_t row = 0; row < segment.header().process_count; ++row) {
    if (row == session.membership().row()) continue;
    if (const auto word = load(process_row(segment, row).word, acquire);
        process_word::state(word) != ProcessState::free)
      complaints.push_back(fmt::format("process row {} is left: state {}, pid {}", row,
                                       process_word::State::get(word), process_row(segment, row).pid));
  }
  for (LaneId lane = 1; lane < segment.lane_count(); ++lane)
    if (lane_word::Active::get(load(segment.lane_row(lane).word, acquire)) != 0)
      complaints.push_back(fmt::format("lane {} is left", lane));
  for (std::uint32_t index = 0; index < segment.header().queue_count; ++index) {
    const auto& row = queue_row(segment, index);
    for (const auto* role : {&row.producer, &row.consumer})
      if (load(*role, acquire) != 0)
        complaints.push_back(
            fmt::format("queue {}: its {} is left", index, role == &row.producer ? "producer" : "consumer"));
  }
}

// Both ends stand where the witness says; what is in it is right; a message goes through.
void check_stream(Lane& lane, const Stage& stage, std::uint32_t stream, bool is_thorough,
                  Complaints& complaints) {
  const auto found = find_queue(lane.segment(), stream_name_of(stream));
  auto& journal = stage.witness->streams[stream];
  if (!found) {
    if (journal.pushing != 0) complaints.push_back(fmt::format("stream {} is gone", stream));
    return;
  }
  WitnessedProducer producer;
  WitnessedConsumer consumer;
  if (!producer.claim(lane, *found, stream, journal) || !consumer.claim(lane, *found, stream, journal)) {
    complaints.push_back(fmt::format("stream {}: an end is held", stream));
    return;
  }
  const auto take_one = [&] {
    const auto taken = consumer.take();
    if (taken && *taken) test::must(lane.heap().release(*taken));
    return taken.has_value();
  };
  while (is_thorough && take_one()) continue;
  if (!producer.push({}, 0, false)) {  // it is full
    if (!take_one()) complaints.push_back(fmt::format("stream {}: full, and nothing can be taken", stream));
    if (!producer.push({}, 0, false))
      complaints.push_back(fmt::format("stream {}: no room after a pop", stream));
  }
  if (!take_one()) complaints.push_back(fmt::format("stream {}: nothing comes out", stream));
  if (is_thorough && consumer.next() != producer.next())
    complaints.push_back(
        fmt::format("stream {}: {} taken of {} pushed", stream, consumer.next(), producer.next()));
  producer.rest();
  consumer.rest();
}

// A FREEING slot is found by its owner through its bit, or by recovery through a cell; one that is neither is lost
// for as long as the owner lives.
void check_freeing_is_known(const Segment& segment, const test::Census& census, Complaints& complaints) {
  for (std::uint32_t unit = 0; unit < segment.units_committed(); ++unit) {
    const auto word = load(segment.unit(unit).word, acquire);
    const auto owner = unit_word::Lane::get(word);
    if (unit_word::state(word) != UnitState::slab || owner >= segment.header().lane_count) continue;
    const auto lane_now = load(segment.lane_row(owner).word, acquire);
    if (lane_word::Incarnation::get(lane_now) != unit_word::Tag::get(word))
      continue;  // who adopts it looks at all
    const auto slots = segment.classes().slots(static_cast<std::uint32_t>(unit_word::Class::get(word)));
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
      const auto low = load(segment.truth_word(unit, slot).low, acquire);
      if (truth::state(low) != BlockState::freeing) continue;
      const auto handle = segment.split().make(truth::Generation::get(low), unit, slot);
      const bool flagged =
          (load(segment.remote_bits(unit).words[slot / 64], acquire) >> (slot % 64) & 1) != 0;
      if (!flagged && !census.references.contains(handle.value))
        complaints.push_back(
            fmt::format("block {}/{} is half freed, and lane {} is not told", unit, slot, owner));
    }
  }
}

// The audit, and the census but for what is on its way to its owner: a cell keeps a FREEING block until then.
void check_sound_with_holders(const Segment& segment, const test::Census& census, Complaints& complaints) {
  for (const auto& violation : audit(segment).violations) complaints.push_back("audit: " + violation.what);
  for (const auto& fault : census.faults) complaints.push_back("census: " + fault);
  for (const auto& [handle, count] : census.live) {
    const auto named = census.references.contains(handle) ? census.references.at(handle) : 0;
    if (named != count)
      complaints.push_back(fmt::format("census: {:#x}: count {}, but {} name it", handle, count, named));
  }
}

std::uint64_t references_to_live(const test::Census& census) {
  std::uint64_t sum = 0;
  for (const auto& [handle, count] : census.live) sum += count;
  return sum;
}

}  // namespace

Complaints check_deserted(const Stage& stage, bool is_thorough) try {
  Complaints complaints;
  auto session = test::must(Session::open(stage.path, "checker"));
  const auto& segment = session.segment();
  recover_all(session, complaints);
  check_tables_empty(session, complaints);
  test::check_sound(segment, complaints);
  if (!complaints.empty()) return complaints;
  {
    const auto lane = test::must(session.claim_lane({.cells = cells_for(segment), .name = "checker"}));
    for (std::uint32_t stream = 0; stream < stage.streams; ++stream)
      check_stream(*lane, stage, stream, is_thorough, complaints);
    check_work(*lane, *stage.witness, is_thorough, complaints);
    check_broadcasts(*lane, *stage.witness, is_thorough, complaints);
    if (is_thorough && complaints.empty()) test::check_all_bytes_usable(*lane, complaints);
  }
  test::check_sound(segment, complaints);
  check_tables_empty(session, complaints);
  return complaints;
} catch (const std::exception& error) {
  return {error.what()};
}

Complaints check_holding(const Stage& stage, std::uint32_t slots) try {
  Complaints complaints;
  auto session = test::must(Session::open(stage.path, "checker"));
  const auto& segment = session.segment();
  recover_all(session, complaints);
  auto census = test::take_census(segment);
  const auto leases_found = count_leases_in(segment, census);
  check_sound_with_holders(segment, census, complaints);
  check_freeing_is_known(segment, census, complaints);
  std::uint64_t held = 0;
  std::uint64_t leases = 0;
  for (std::uint32_t slot = 0; slot < slots; ++slot)
    if (const auto& actor = stage.witness->actors[slot]; actor.phase == Phase::holding) {
      held += actor.held;
      leases += actor.leases;
    }
  const auto in_queues = blocks_in_queues(segment);
  if (const auto found = references_to_live(census); found != held + in_queues)
    complaints.push_back(fmt::format("{} references are counted, but {} are held and {} are in queues", found,
                                     held, in_queues));
  if (leases_found != leases)
    complaints.push_back(fmt::format("{} messages are leased, but {} are worked on", leases_found, leases));
  return complaints;
} catch (const std::exception& error) {
  return {error.what()};
}

}  // namespace sluice::verify
