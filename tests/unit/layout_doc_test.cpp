// docs/layout.md against the code: every table, both ways. And the code against itself: no byte of a structure
// is without a row.
#include "ipc/broadcast_layout.hpp"
#include "ipc/process_layout.hpp"
#include "ipc/queue_layout.hpp"
#include "ipc/work_layout.hpp"
#include "runtime/pipeline_layout.hpp"
#include "shm/header_layout.hpp"
#include "shm/lane_layout.hpp"
#include "shm/unit_layout.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace sluice::test {

namespace {

/// A row of a table: offset and bytes, bit and width, or value and 0.
struct Row {
  std::string name;
  std::uint64_t first = 0, second = 0;
  bool operator==(const Row&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name << ' ' << row.first << ' ' << row.second;
}

struct Table {
  std::uint64_t bytes = 0;  // of the structure; 0 for bits and values
  std::vector<Row> rows;
};
using Tables = std::map<std::string, Table>;

#define FIELD(type, field) {#field, offsetof(type, field), sizeof(type::field)}
#define BITS(word, field) {#field, word::field::shift, word::field::width}
#define VALUE(type, name) {#name, static_cast<std::uint64_t>(type::name), 0}

Tables header_tables() {
  using H = SegmentHeader;
  using I = SegmentIdentity;
  using C = SegmentControl;
  using K = RegionKind;
  return {
      {"SegmentHeader",
       {sizeof(H),
        {FIELD(H, magic),          FIELD(H, byte_order),   FIELD(H, page_size),       FIELD(H, major),
         FIELD(H, minor),          FIELD(H, header_bytes), FIELD(H, compat),          FIELD(H, ro_compat),
         FIELD(H, incompat),       FIELD(H, uuid),         FIELD(H, created_ns),      FIELD(H, unit_size),
         FIELD(H, units_max),      FIELD(H, lane_count),   FIELD(H, process_count),   FIELD(H, queue_count),
         FIELD(H, cells_per_lane), FIELD(H, unit_bits),    FIELD(H, generation_bits), FIELD(H, epoch_count),
         FIELD(H, class_count),    FIELD(H, class_bytes),  FIELD(H, region_count),    FIELD(H, reserved),
         FIELD(H, regions),        FIELD(H, crc32c),       FIELD(H, reserved_end)}}},
      {"Region",
       {sizeof(Region),
        {FIELD(Region, kind), FIELD(Region, stride), FIELD(Region, offset), FIELD(Region, count)}}},
      {"SegmentIdentity",
       {sizeof(I),
        {FIELD(I, device), FIELD(I, inode), FIELD(I, sidecar_device), FIELD(I, sidecar_inode),
         FIELD(I, boot_id), FIELD(I, clean), FIELD(I, reserved)}}},
      {"SegmentControl",
       {sizeof(C),
        {FIELD(C, units_committed), FIELD(C, free_unit_hint), FIELD(C, run_claimer),
         FIELD(C, orphan_generation), FIELD(C, gate), FIELD(C, quarantined), FIELD(C, quarantine_lifter)}}},
      {"RegionKind",
       {0,
        {VALUE(K, identity), VALUE(K, checkpoints), VALUE(K, control), VALUE(K, runtime), VALUE(K, processes),
         VALUE(K, lanes), VALUE(K, seen), VALUE(K, epochs), VALUE(K, queues), VALUE(K, ledgers),
         VALUE(K, units), VALUE(K, remote_bits), VALUE(K, truth), VALUE(K, payload)}}},
  };
}

Tables unit_tables() {
  using U = UnitDescriptor;
  return {
      {"UnitDescriptor",
       {sizeof(U),
        {FIELD(U, word), FIELD(U, run_units), FIELD(U, run_offset), FIELD(U, bands), FIELD(U, epoch_slot),
         FIELD(U, epoch_era), FIELD(U, reserved)}}},
      {"unit_word",
       {0, {BITS(unit_word, State), BITS(unit_word, Class), BITS(unit_word, Lane), BITS(unit_word, Tag)}}},
      {"UnitState",
       {0,
        {VALUE(UnitState, free_uncommitted), VALUE(UnitState, free), VALUE(UnitState, reserved),
         VALUE(UnitState, slab), VALUE(UnitState, run), VALUE(UnitState, interior), VALUE(UnitState, storage),
         VALUE(UnitState, punching)}}},
      {"TruthWord", {sizeof(TruthWord), {FIELD(TruthWord, low), FIELD(TruthWord, tag)}}},
      {"truth", {0, {BITS(truth, Flags), BITS(truth, State), BITS(truth, Count), BITS(truth, Generation)}}},
      {"truth_tag", {0, {BITS(truth_tag, Lane), BITS(truth_tag, Sequence)}}},
      {"BlockState",
       {0,
        {VALUE(BlockState, free), VALUE(BlockState, live), VALUE(BlockState, freeing),
         VALUE(BlockState, retired), VALUE(BlockState, quarantined)}}},
      {"RemoteBits", {sizeof(RemoteBits), {FIELD(RemoteBits, words)}}},
  };
}

Tables lane_tables() {
  using L = LaneRow;
  using O = OperationLog;
  using C = LaneCounters;
  return {
      {"LaneRow",
       {sizeof(L),
        {FIELD(L, word), FIELD(L, sequence), FIELD(L, cell_count), FIELD(L, thread), FIELD(L, in_operation),
         FIELD(L, reserved), FIELD(L, log), FIELD(L, doorbell), FIELD(L, remote_classes), FIELD(L, counters),
         FIELD(L, name), FIELD(L, reserved_end)}}},
      {"lane_word", {0, {BITS(lane_word, Active), BITS(lane_word, Process), BITS(lane_word, Incarnation)}}},
      {"OperationLog",
       {sizeof(O),
        {FIELD(O, sequence), FIELD(O, operation), FIELD(O, first), FIELD(O, count), FIELD(O, cell),
         FIELD(O, handle), FIELD(O, word), FIELD(O, reserved)}}},
      {"LaneOperation",
       {0,
        {VALUE(LaneOperation, none), VALUE(LaneOperation, take_units), VALUE(LaneOperation, take_run),
         VALUE(LaneOperation, free_run), VALUE(LaneOperation, take_storage), VALUE(LaneOperation, clone),
         VALUE(LaneOperation, drop)}}},
      {"Doorbell",
       {sizeof(Doorbell), {FIELD(Doorbell, sequence), FIELD(Doorbell, waiting), FIELD(Doorbell, interrupt)}}},
      {"LaneCounters",
       {sizeof(C),
        {FIELD(C, allocations), FIELD(C, frees_local), FIELD(C, frees_remote), FIELD(C, harvested),
         FIELD(C, slow_paths), FIELD(C, slabs_cut), FIELD(C, slabs_adopted), FIELD(C, slabs_returned),
         FIELD(C, runs_taken), FIELD(C, exhausted), FIELD(C, messages_in), FIELD(C, messages_out),
         FIELD(C, bytes_in), FIELD(C, bytes_out), FIELD(C, redelivered), FIELD(C, sleeps), FIELD(C, clones),
         FIELD(C, reserved)}}},
      {"Cell", {sizeof(Cell), {FIELD(Cell, handle), FIELD(Cell, aux)}}},
      {"cell_aux",
       {0, {BITS(cell_aux, Kind), BITS(cell_aux, Queue), BITS(cell_aux, Era), BITS(cell_aux, Position)}}},
  };
}

Tables process_tables() {
  using P = ProcessRow;
  return {
      {"ProcessRow",
       {sizeof(P),
        {FIELD(P, word), FIELD(P, pid), FIELD(P, start_ticks), FIELD(P, pid_namespace), FIELD(P, boot_id),
         FIELD(P, joined_ns), FIELD(P, role), FIELD(P, time_namespace), FIELD(P, reserved)}}},
      {"process_word",
       {0,
        {BITS(process_word, State), BITS(process_word, ClaimerRow), BITS(process_word, ClaimerIncarnation),
         BITS(process_word, Incarnation)}}},
      {"ProcessState",
       {0,
        {VALUE(ProcessState, free), VALUE(ProcessState, joining), VALUE(ProcessState, alive),
         VALUE(ProcessState, leaving), VALUE(ProcessState, recovering)}}},
      {"PipelineState",
       {sizeof(PipelineState),
        {FIELD(PipelineState, next_flow), FIELD(PipelineState, short_of_blocks),
         FIELD(PipelineState, reserved)}}},
  };
}

Tables queue_tables() {
  using Q = QueueRow;
  using S = SubscriberRow;
  using M = Message;
  using K = MessageKind;
  return {
      {"QueueRow",
       {sizeof(Q),
        {FIELD(Q, word),
         FIELD(Q, kind),
         FIELD(Q, capacity),
         FIELD(Q, message_bytes),
         FIELD(Q, first_unit),
         FIELD(Q, unit_count),
         FIELD(Q, reserved),
         FIELD(Q, name),
         FIELD(Q, producer),
         FIELD(Q, consumer),
         FIELD(Q, tail),
         FIELD(Q, bytes_in),
         FIELD(Q, closed),
         FIELD(Q, refused),
         FIELD(Q, dropped),
         FIELD(Q, push_waits),
         FIELD(Q, high_water),
         FIELD(Q, head),
         FIELD(Q, delivered),
         FIELD(Q, redelivered),
         FIELD(Q, bytes_out),
         FIELD(Q, take_waits),
         FIELD(Q, dead_lettered),
         FIELD(Q, writer),
         FIELD(Q, change_stream),
         FIELD(Q, change_sequence),
         FIELD(Q, change_first),
         FIELD(Q, change_pages),
         FIELD(Q, change_handle),
         FIELD(Q, reserved_extents),
         FIELD(Q, consumers_waiting),
         FIELD(Q, producers_waiting),
         FIELD(Q, policy),
         FIELD(Q, deliveries_max),
         FIELD(Q, dead_letter),
         FIELD(Q, subscribers_max),
         FIELD(Q, reserved_policy),
         FIELD(Q, reserved_waiting),
         FIELD(Q, floor_next),
         FIELD(Q, reserved_kinds)}}},
      {"SubscriberRow",
       {sizeof(S),
        {FIELD(S, claim), FIELD(S, joins), FIELD(S, cursor), FIELD(S, policy), FIELD(S, reserved),
         FIELD(S, joined), FIELD(S, lost), FIELD(S, received), FIELD(S, bytes), FIELD(S, disconnected),
         FIELD(S, shown), FIELD(S, redelivered), FIELD(S, reserved_end), FIELD(S, name)}}},
      {"subscriber_claim",
       {0, {BITS(lane_claim, Lane), BITS(lane_claim, Incarnation), BITS(subscriber_claim, State)}}},
      {"ClaimState",
       {0,
        {VALUE(ClaimState, held), VALUE(ClaimState, parked), VALUE(ClaimState, naming),
         VALUE(ClaimState, beaten)}}},
      {"SubscriberPolicy",
       {0,
        {VALUE(SubscriberPolicy, block), VALUE(SubscriberPolicy, lose_oldest),
         VALUE(SubscriberPolicy, disconnect), VALUE(SubscriberPolicy, settling)}}},
      {"queue_word",
       {0,
        {BITS(queue_word, State), BITS(queue_word, Lane), BITS(queue_word, Incarnation),
         BITS(queue_word, Era)}}},
      {"QueueState",
       {0,
        {VALUE(QueueState, free), VALUE(QueueState, creating), VALUE(QueueState, named),
         VALUE(QueueState, ready)}}},
      {"QueueKind",
       {0,
        {VALUE(QueueKind, none), VALUE(QueueKind, stream), VALUE(QueueKind, work),
         VALUE(QueueKind, broadcast), VALUE(QueueKind, extents)}}},
      {"work_word",
       {0,
        {BITS(work_word, State), BITS(work_word, Lane), BITS(work_word, Deliveries), BITS(work_word, Base)}}},
      {"WorkState",
       {0,
        {VALUE(WorkState, empty), VALUE(WorkState, writing), VALUE(WorkState, full),
         VALUE(WorkState, leased)}}},
      {"QueuePolicy",
       {0, {VALUE(QueuePolicy, block), VALUE(QueuePolicy, fail), VALUE(QueuePolicy, drop_oldest)}}},
      {"process_claim", {0, {BITS(process_claim, Row), BITS(process_claim, Incarnation)}}},
      {"lane_claim", {0, {BITS(lane_claim, Lane), BITS(lane_claim, Incarnation)}}},
      {"Message",
       {sizeof(M),
        {FIELD(M, handle), FIELD(M, offset), FIELD(M, length), FIELD(M, flow), FIELD(M, position),
         FIELD(M, receive_ns), FIELD(M, kind), FIELD(M, flags), FIELD(M, detail), FIELD(M, reserved),
         FIELD(M, stamp)}}},
      {"MessageKind",
       {0,
        {VALUE(K, none), VALUE(K, data), VALUE(K, open), VALUE(K, close), VALUE(K, abort), VALUE(K, restart),
         VALUE(K, write), VALUE(K, zeroes), VALUE(K, flush), VALUE(K, user)}}},
  };
}

Tables tables_of_code() {
  Tables all;
  for (const auto& part : {header_tables(), unit_tables(), lane_tables(), process_tables(), queue_tables()})
    all.insert(part.begin(), part.end());
  return all;
}

/// A table stands under a heading of four # that is its name. The structure's size begins the text between them;
/// each row begins with the name in backticks and one or two numbers.
Tables tables_of(std::istream& text) {
  Tables found;
  Table* table = nullptr;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("#")) table = line.starts_with("#### ") ? &found[line.substr(5)] : nullptr;
    if (table == nullptr) continue;
    if (const auto bytes = line.find(" bytes.");
        bytes != std::string::npos && table->rows.empty() && std::isdigit(line[0]))
      table->bytes = std::stoull(line);
    if (!line.starts_with("| `")) continue;
    std::istringstream cells(line.substr(3));
    Row row;
    std::string first, second;
    std::getline(cells, row.name, '`');
    cells.ignore(3, '|');
    std::getline(std::getline(cells, first, '|'), second, '|');
    row.first = std::stoull(first);
    // What is no number alone is the text of a table of values.
    if (second.find_first_not_of("0123456789 ") == std::string::npos && second.size() > 2)
      row.second = std::stoull(second);
    table->rows.push_back(row);
  }
  return found;
}

void check_equal(const Tables& code, const Tables& page) {
  for (const auto& [name, table] : code) {
    CAPTURE(name);
    if (!page.contains(name)) {
      FAIL_CHECK("the page has no table for it");
      continue;
    }
    CHECK(page.at(name).bytes == table.bytes);
    CHECK(page.at(name).rows == table.rows);
  }
  for (const auto& [name, table] : page) {
    CAPTURE(name);
    CHECK(code.contains(name));
  }
}

}  // namespace

TEST_CASE("layout: the tables of docs/layout.md are those of the code", "[docs]") {
  const auto path = std::string(SLUICE_SOURCE_DIR) + "/docs/layout.md";
  std::ifstream page(path);
  CAPTURE(path);
  REQUIRE(page);
  check_equal(tables_of_code(), tables_of(page));
}

TEST_CASE("layout: a table that differs is noticed in every way that it can", "[docs]") {
  const auto parsed = [](std::string_view text) {
    std::istringstream page{std::string(text)};
    return tables_of(page);
  };
  const auto sound = parsed(
      "#### Cell\n\n16 bytes. Text.\n\n| field | offset |\n|---|\n| `handle` | 0 | 8 | a |\n| `aux` | 8 | 8 | b |\n");
  REQUIRE(sound.size() == 1);
  CHECK(sound.at("Cell").bytes == 16);
  CHECK(sound.at("Cell").rows == tables_of_code().at("Cell").rows);
  const auto kinds =
      parsed("#### QueueKind\n\n| name | value |\n|---|\n| `none` | 0 | |\n| `stream` | 1 | 64 bytes |\n");
  CHECK(kinds.at("QueueKind").rows == std::vector<Row>{{"none", 0, 0}, {"stream", 1, 0}});
  CHECK(parsed("#### Cell\n\n| `handle` | 0 | 4 | |\n").at("Cell").rows != sound.at("Cell").rows);
  CHECK(parsed("#### Cell\n\n| `handle` | 0 | 8 | |\n").at("Cell").rows != sound.at("Cell").rows);
}

TEST_CASE("layout: no byte of a structure is without a row, but for what alignment skips", "[docs]") {
  for (const auto& [name, table] : tables_of_code()) {
    if (table.bytes == 0) continue;
    std::uint64_t end = 0;
    for (const auto& row : table.rows) {
      CAPTURE(name, row.name, end);
      CHECK(row.first >= end);
      const auto gap = row.first - end;
      CHECK((gap == 0 || (gap < 128 && row.first % 64 == 0)));
      end = row.first + row.second;
    }
    CAPTURE(name, end);
    CHECK(end <= table.bytes);
    CHECK(table.bytes - end < 64);
  }
}

TEST_CASE("layout: the regions' strides are the sizes of what lies in them", "[docs]") {
  const TempSegment file;
  const auto segment = must(Segment::attach_read_only(file.path()));
  const auto stride = [&](RegionKind kind) { return segment.geometry().region(kind).stride; };
  CHECK(stride(RegionKind::processes) == sizeof(ProcessRow));
  CHECK(stride(RegionKind::lanes) == sizeof(LaneRow));
  CHECK(stride(RegionKind::queues) == sizeof(QueueRow));
  CHECK(stride(RegionKind::ledgers) == segment.header().cells_per_lane * sizeof(Cell));
  CHECK(stride(RegionKind::units) == sizeof(UnitDescriptor));
  CHECK(stride(RegionKind::remote_bits) == sizeof(RemoteBits));
  CHECK(stride(RegionKind::truth) == slots_per_band * sizeof(TruthWord));
  CHECK(stride(RegionKind::payload) == unit_bytes);
  CHECK(stride(RegionKind::runtime) >= sizeof(PipelineState));
}

}  // namespace sluice::test
