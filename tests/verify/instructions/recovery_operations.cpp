// Recoveries with more than one death behind them. That of every single death in every other operation is driven
// without an entry here: see drive_recoveries().
#include "tests/verify/instructions/operation.hpp"

#include <stdexcept>

namespace sluice::verify {

namespace {

using Here = std::function<bool(const Segment&)>;

Operation operation_named(std::string_view name) {
  for (auto& operation : plain_operations())
    if (operation.name == name) return operation;
  throw std::logic_error("no operation " + std::string(name));
}

// Some cell moves as `kind` says, and still holds its reference or does not.
Here cell_moves(std::uint64_t kind, bool holds) {
  return [=](const Segment& segment) {
    for (LaneId id = 1; id < segment.lane_count(); ++id) {
      const auto lane = lane_view(segment, id);
      for (std::uint32_t i = 0; i < lane.cell_count; ++i)
        if (cell_aux::Kind::get(lane.cells[i].aux) == kind && lane.cells[i].handle != 0 &&
            moving_cell_holds(segment, {lane.cells[i].handle}, lane.cells[i].aux) == holds)
          return true;
    }
    return false;
  };
}

// A lane's log is open for `operation`, and `count` units are in `state`.
Here log_open(LaneOperation operation, UnitState state, std::int64_t count) {
  return [=](const Segment& segment) {
    for (LaneId id = 1; id < segment.lane_count(); ++id) {
      const auto& row = segment.lane_row(id);
      if (row.log.sequence != row.sequence || row.log.operation != static_cast<std::uint64_t>(operation))
        continue;
      std::int64_t found = 0;
      for (auto unit = row.log.first; unit < row.log.first + row.log.count; ++unit)
        if (unit_word::state(segment.unit(unit).word) == state) ++found;
      if (found == count) return true;
    }
    return false;
  };
}

Here process_in(ProcessState state) {
  return [=](const Segment& segment) {
    for (std::uint64_t row = 0; row < segment.header().process_count; ++row)
      if (process_word::state(process_row(segment, row).word) == state) return true;
    return false;
  };
}

bool at_once(const Segment&) { return true; }

Operation recovery() { return {.name = "recover", .set_up = get_ready_to_recover, .act = recover_the_dead}; }

void kill_a_recoverer(test::Survivor& survivor) {
  stop_during(survivor, operation_named("release a lane with its hands full"), at_once);
  stop_during(survivor, recovery(), process_in(ProcessState::recovering));
}

// They die together: one that joined later would have recovered the others.
void kill_two(test::Survivor& survivor) {
  const auto freeing = stop_during(survivor, operation_named("free a run"),
                                   log_open(LaneOperation::free_run, UnitState::interior, 1));
  const auto pushing = stop_during(survivor, operation_named("push"), cell_moves(cell_aux::push, false));
}

void kill_three(test::Survivor& survivor) {
  const auto taking = stop_during(survivor, operation_named("allocate a run"),
                                  log_open(LaneOperation::take_run, UnitState::reserved, 2));
  const auto pushing = stop_during(survivor, operation_named("push"), cell_moves(cell_aux::push, true));
  const auto joining = stop_during(survivor, operation_named("join"), process_in(ProcessState::joining));
}

}  // namespace

std::vector<Operation> recovery_operations() {
  const auto recovery_after = [](std::string_view name, std::function<void(test::Survivor&)> deaths) {
    auto operation = recovery();
    operation.name = name;
    operation.prepare = std::move(deaths);
    operation.units = 12;
    return operation;
  };
  return {recovery_after("recover two processes", kill_two),
          recovery_after("recover three processes", kill_three),
          recovery_after("recover a recoverer", kill_a_recoverer)};
}

}  // namespace sluice::verify
