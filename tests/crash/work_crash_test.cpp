// Deaths while messages move into a work queue, are worked on, and move out or on.
#include "ipc/work_queue.hpp"
#include "tests/crash/scenario.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <csignal>

namespace sluice::test {

namespace {

constexpr std::string_view queue_name_of_work = "work";
constexpr std::string_view queue_name_of_next = "next";
constexpr std::uint64_t stocked = 5;
constexpr std::size_t sizes[] = {100, 0, 5000, 2 * unit_bytes, 64};  // by number

bool is_one_of(std::string_view point, std::initializer_list<std::string_view> points) {
  return std::find(points.begin(), points.end(), point) != points.end();
}

WorkQueue open(Lane& lane, std::string_view name) {
  return must(WorkQueue::open(lane, must(find_queue(lane.segment(), name))));
}

Status push_numbered(Lane& lane, WorkQueue& queue, std::uint64_t number) {
  Message message{};
  message.kind = MessageKind::user;
  message.position = number;
  const auto bytes = sizes[number % std::size(sizes)];
  message.length = static_cast<std::uint32_t>(bytes);
  if (bytes == 0) return queue.push(message);
  const auto block = must(lane.heap().allocate(bytes));
  fill_pattern(lane.heap().bytes(block).first(bytes), number);
  const auto status = queue.push(message, block);
  if (status != Status::ok) must(lane.heap().release(block));
  return status;
}

/// Take everything out of a queue: each number once, with its bytes; in order.
std::vector<std::pair<std::uint64_t, std::uint32_t>> drain(Lane& lane, std::string_view name) {
  auto queue = open(lane, name);
  std::vector<std::pair<std::uint64_t, std::uint32_t>> found;  // with the times that it was delivered before
  while (const auto lease = queue.take()) {
    const auto number = queue.message(*lease)->position;
    CHECK(queue.bytes(*lease).size() == sizes[number % std::size(sizes)]);
    CHECK(has_pattern(queue.bytes(*lease), number));
    CHECK((found.empty() || found.back().first < number));
    found.emplace_back(number, lease->deliveries);
    must(queue.acknowledge(*lease));
  }
  return found;
}

void check_numbers(const std::vector<std::pair<std::uint64_t, std::uint32_t>>& found, std::uint64_t first,
                   std::uint64_t end) {
  REQUIRE(found.size() == end - first);
  for (std::uint64_t i = 0; i < found.size(); ++i) CHECK(found[i].first == first + i);
}

// The ring's end comes soon.
void make_queues(Stage& stage, const WorkOptions& options = {.capacity = 8}) {
  must(create_work_queue(*stage.lane, queue_name_of_next, {.capacity = 4}));
  must(create_work_queue(*stage.lane, queue_name_of_work, options));
  auto queue = open(*stage.lane, queue_name_of_work);
  for (std::uint64_t i = 0; i + 2 < options.capacity; ++i) {
    must(push_numbered(*stage.lane, queue, i));
    must(queue.acknowledge(must(queue.take())));
  }
}

void stock(Stage& stage, const WorkOptions& options = {.capacity = 8}) {
  make_queues(stage, options);
  auto queue = open(*stage.lane, queue_name_of_work);
  for (std::uint64_t i = 0; i < stocked; ++i) must(push_numbered(*stage.lane, queue, i));
}

// ---- Pushing

void produce(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto queue = open(*self.lane, queue_name_of_work);
  for (std::uint64_t i = 0; i < stocked; ++i) {
    must(push_numbered(*self.lane, queue, i));
    ++journal.done;
  }
}

bool was_published(std::string_view point) {
  return is_one_of(point, {"work.push.published", "work.push.emptied", "work.push.cleared"});
}

void check_produced(Stage& stage, std::string_view point) {
  check_numbers(drain(*stage.lane, queue_name_of_work), 0,
                stage.journal->done + (was_published(point) ? 1 : 0));
}

// What is there is the latest, two of them; one less where it died between a drop and its push.
void check_dropped(Stage& stage, std::string_view point) {
  const auto pushed = stage.journal->done + (was_published(point) ? 1 : 0);
  const auto found = drain(*stage.lane, queue_name_of_work);
  CHECK(found.size() <= 2);
  CHECK(found.size() + 1 >= std::min<std::uint64_t>(pushed, 2));
  if (!found.empty()) CHECK(found.back().first == pushed - 1);
}

// Somebody closes the queue while a push is under way.
void push_into_closed(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto queue = open(*self.lane, queue_name_of_work);
  for (std::uint64_t i = 0; i < 2; ++i) {
    act_at("work.push.claimed", [&] { queue.close(); });
    must_hold(push_numbered(*self.lane, queue, 0) == Status::closed, "the push is refused");
    must_hold(push_numbered(*self.lane, queue, 2) == Status::closed, "the next one too");
    queue.reopen();
    must(push_numbered(*self.lane, queue, i));
    ++journal.done;
  }
}

// ---- Working

bool was_done(std::string_view point) { return is_one_of(point, {"work.done.emptied", "work.done.cleared"}); }

void work_off(const std::string& path, Journal& journal) {
  const Victim self(path);
  auto queue = open(*self.lane, queue_name_of_work);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto lease = must(queue.take());
    must_hold(queue.message(lease)->position == i, "it is the next");
    const auto block = must(queue.keep(lease));
    ++journal.done;
    if (block) must(self.lane->heap().release(block));
  }
  self.lane->heap().flush();
}

void check_worked_off(Stage& stage, std::string_view point) {
  const auto done = stage.journal->done + (was_done(point) ? 1 : 0);
  const auto found = drain(*stage.lane, queue_name_of_work);
  check_numbers(found, done, stocked);
  const bool was_leased = is_one_of(point, {"work.take.leased", "work.done.announced", "work.done.filled"});
  if (!found.empty()) CHECK((found.front().second == 1) == was_leased);
  for (std::size_t i = 1; i < found.size(); ++i) CHECK(found[i].second == 0);
}

// It dies with leases in hand, and while it gives them back.
void work_and_reject(const std::string& path, Journal&) {
  const Victim self(path);
  auto queue = open(*self.lane, queue_name_of_work);
  const auto first = must(queue.take());
  const auto second = must(queue.take());
  const auto third = must(queue.take());
  must(queue.reject(second));
  must(queue.reject(first));
  const auto again = must(queue.take());
  must_hold(queue.message(again)->position == 0, "the oldest comes first");
  (void)third;
}

void check_all_there(Stage& stage, std::string_view) {
  const auto found = drain(*stage.lane, queue_name_of_work);
  check_numbers(found, 0, stocked);
  for (const auto& [number, deliveries] : found) CHECK(deliveries <= (number < 3 ? 2 : 0));
}

// ---- Giving up

constexpr WorkOptions one_try = {.capacity = 8, .deliveries_max = 1, .dead_letter = queue_name_of_next};

void reject_for_good(const std::string& path, Journal&) {
  const Victim self(path);
  auto queue = open(*self.lane, queue_name_of_work);
  for (int i = 0; i < 3; ++i) must(queue.reject(must(queue.take())));
  const auto lease = must(queue.take());  // buries the others first
  must(queue.reject(lease));
}

// Each is in one of the two; whoever looks next sends away what was tried once.
void check_buried(Stage& stage, std::string_view) {
  const auto left = drain(*stage.lane, queue_name_of_work);
  const auto buried = drain(*stage.lane, queue_name_of_next);
  CHECK(left.size() + buried.size() == stocked);
  check_numbers(buried, 0, buried.size());
  check_numbers(left, buried.size(), stocked);
  for (const auto& [number, deliveries] : left) CHECK(deliveries == 0);
}

// ---- Recovering

void die(Stage& stage, std::string_view point, const std::function<void(Victim&, Lane&)>& act) {
  const auto ended = run_child([&] {
    Victim self(stage.path());
    const auto other = must(self.session.claim_lane());
    kill_self_at(point);
    act(self, *other);
  });
  REQUIRE(ended.signal == SIGKILL);
}

void die_forwarding(Stage& stage) {
  stock(stage);
  die(stage, "queue.forward.announced", [](Victim& self, Lane& other) {
    auto by_other = open(other, queue_name_of_work);
    must(by_other.take());  // 0
    auto queue = open(*self.lane, queue_name_of_work);
    auto next = open(*self.lane, queue_name_of_next);
    pass_unharmed();
    const auto first = must(queue.take());
    must(queue.forward(first, next, *queue.message(first)));  // 1
    must(by_other.take());                                    // 2
    kill_self_at("work.push.published");
    const auto second = must(queue.take());
    must(queue.forward(second, next, *queue.message(second)));  // 3
  });
}

void die_filling(Stage& stage) {
  stock(stage);
  die(stage, "work.push.filled", [](Victim& self, Lane& other) {
    auto by_other = open(other, queue_name_of_work);
    must(by_other.take());
    auto queue = open(*self.lane, queue_name_of_work);
    must(push_numbered(*self.lane, queue, stocked));
  });
}

void open_and_leave(const std::string& path, Journal&) { must(Session::open(path, "recoverer")); }

void check_two_forwarded(Stage& stage, std::string_view) {
  const auto next = drain(*stage.lane, queue_name_of_next);
  REQUIRE(next.size() == 2);
  CHECK(next[0].first == 1);
  CHECK(next[1].first == 3);
  const auto left = drain(*stage.lane, queue_name_of_work);
  REQUIRE(left.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(left[i].first == 2 * i);
    CHECK(left[i].second == (i < 2 ? 1 : 0));
  }
}

}  // namespace

std::vector<Scenario> work_scenarios() {
  const auto small = [](Stage& stage) { make_queues(stage); };
  const auto full = [](Stage& stage) { stock(stage); };
  return {
      {.name = "work: produce",
       .act = produce,
       .prepare = small,
       .check = check_produced,
       .units = 16,
       .own_stream = false},
      {.name = "work: produce, dropping",
       .act = produce,
       .prepare =
           [](Stage& stage) { make_queues(stage, {.capacity = 2, .policy = QueuePolicy::drop_oldest}); },
       .check = check_dropped,
       .units = 20,
       .own_stream = false},
      {.name = "work: push into a closed queue",
       .act = push_into_closed,
       .prepare = small,
       .check = check_produced,
       .units = 16,
       .own_stream = false},
      {.name = "work: work off", .act = work_off, .prepare = full, .check = check_worked_off, .units = 16},
      {.name = "work: reject",
       .act = work_and_reject,
       .prepare = full,
       .check = check_all_there,
       .units = 16},
      {.name = "work: dead letters",
       .act = reject_for_good,
       .prepare = [](Stage& stage) { stock(stage, one_try); },
       .check = check_buried,
       .units = 16},
      {.name = "recover a forwarder",
       .act = open_and_leave,
       .prepare = die_forwarding,
       .check = check_two_forwarded,
       .units = 16},
      {.name = "recover a producer",
       .act = open_and_leave,
       .prepare = die_filling,
       .check = [](Stage& stage,
                   std::string_view) { check_numbers(drain(*stage.lane, queue_name_of_work), 0, stocked); },
       .units = 16},
  };
}

TEST_CASE("work: a death at any crash point leaves each message once, in one place", "[ipc][crash][work]") {
  const auto scenarios = work_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_crash(scenarios[index]);
}

TEST_CASE("work: a recoverer killed at any crash point is continued by the next", "[ipc][crash][work]") {
  const auto scenarios = work_scenarios();
  const auto index = GENERATE_REF(range(std::size_t{0}, scenarios.size()));
  survive_every_pair_of_crashes(scenarios[index]);
}

}  // namespace sluice::test
