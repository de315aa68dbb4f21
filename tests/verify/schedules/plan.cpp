#include "tests/verify/schedules/plan.hpp"

#include <initializer_list>
#include <utility>

namespace sluice::verify {

namespace {

void weigh(Plan& plan, std::initializer_list<std::pair<Act, std::uint32_t>> weights) {
  for (const auto& [act, weight] : weights) plan.weights[static_cast<std::size_t>(act)] = weight;
}

// A schedule that does everything meets each pair of operations rarely. So most do few things, and often.
void choose_acts(Plan& plan, Kind kind, Random& random) {
  plan.bytes = {20480, 32768, 4096, 16384};
  switch (kind) {
    case Kind::shared:  // one or two blocks that all of them hold
      weigh(plan,
            {{Act::allocate, 2}, {Act::share, 6}, {Act::look_up, 8}, {Act::clone, 6}, {Act::release, 9}});
      plan.posts = 1;
      plan.acts *= 3;
      break;
    case Kind::slabs:  // slabs that change hands
      weigh(plan, {{Act::allocate, 12},
                   {Act::release, 10},
                   {Act::flush, 3},
                   {Act::resize, 2},
                   {Act::push, 5},
                   {Act::pop, 5},
                   {Act::acknowledge, 2},
                   {Act::second_lane, 1}});
      break;
    case Kind::runs:  // runs against slabs for the last units
      weigh(plan, {{Act::allocate_run, 10}, {Act::allocate, 6}, {Act::release, 14}, {Act::flush, 2}});
      plan.bytes = {32768, 32768, 32768, 4096};
      break;
    case Kind::streams:  // streams
      weigh(plan, {{Act::allocate, 5},
                   {Act::push, 9},
                   {Act::pop, 6},
                   {Act::acknowledge, 5},
                   {Act::clone, 3},
                   {Act::release, 4},
                   {Act::give_role, 1}});
      break;
    case Kind::orphans:  // shared blocks in slabs whose owner goes, while memory is short
      weigh(plan, {{Act::allocate, 8},
                   {Act::allocate_run, 2},
                   {Act::share, 6},
                   {Act::look_up, 8},
                   {Act::release, 10},
                   {Act::second_lane, 4}});
      plan.bytes = {32768, 32768, 32768, 20480};
      plan.units = plan.streams + 2;
      plan.posts = 1;
      plan.acts *= 2;
      break;
    case Kind::work:  // work queues
      weigh(plan, {{Act::allocate, 3},
                   {Act::work_push, 10},
                   {Act::work_take, 10},
                   {Act::work_end, 6},
                   {Act::work_reject, 4},
                   {Act::work_forward, 8},
                   {Act::work_close, 2},
                   {Act::release, 2},
                   {Act::rejoin, 1}});
      plan.acts *= 2;
      break;
    case Kind::broadcast:  // one publisher at a time, and subscribers of all policies
      weigh(plan, {{Act::allocate, 4},
                   {Act::publish, 14},
                   {Act::trim, 1},
                   {Act::subscribe, 3},
                   {Act::read, 12},
                   {Act::leave_broadcast, 2},
                   {Act::release, 5}});
      plan.acts *= 2;
      break;
    case Kind::everything:
    case Kind::by_seed:  // everything
      for (auto& weight : plan.weights) weight = 1 + static_cast<std::uint32_t>(random.below(6));
      weigh(plan, {{Act::second_lane, 1}, {Act::rejoin, 1}, {Act::allocate, 10}});
      plan.bytes[random.below(4)] = 1000;
      break;
  }
  const auto weight_of = [&](Act act) { return plan.weights[static_cast<std::size_t>(act)]; };
  plan.work_queues = weight_of(Act::work_push) != 0 ? work_queues_max : 0;
  plan.broadcasts = weight_of(Act::publish) != 0 ? 1 : 0;
  plan.units += plan.work_queues + plan.broadcasts;
  weigh(plan, {{Act::take_role, weight_of(Act::push) != 0 ? 6 : 0}});
}

}  // namespace

Plan plan_of(std::uint64_t seed, std::uint32_t lanes, Kind kind) noexcept {
  Random random(seed * 2 + 1);
  Plan plan;
  plan.seed = seed;
  const auto chosen = 2 + static_cast<std::uint32_t>(random.below(3));
  plan.lanes = lanes != 0 ? lanes : chosen;
  plan.streams = 1 + static_cast<std::uint32_t>(random.below(streams_max));
  plan.units = plan.streams + 2 + static_cast<std::uint32_t>(random.below(4));
  plan.capacity = 1U << (1 + random.below(2));
  plan.acts = 4 + static_cast<std::uint32_t>(random.below(8));
  const auto by_seed = static_cast<Kind>(random.below(8));
  choose_acts(plan, kind == Kind::by_seed ? by_seed : kind, random);
  plan.events = plan.lanes * plan.acts * (4 + random.below(12));
  plan.after_change = 2U << random.below(4);
  if (random.below(3) != 0) {
    plan.change_points = 1 + static_cast<std::uint32_t>(random.below(8));
    plan.freezes = random.one_in(8);
  } else {
    plan.walk = 1U << (1 + random.below(5));
  }
  plan.kills = random.one_in(3) ? 0 : 1 + static_cast<std::uint32_t>(random.below(3));
  return plan;
}

}  // namespace sluice::verify
