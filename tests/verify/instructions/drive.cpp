#include "tests/verify/instructions/drive.hpp"

#include "tests/verify/instructions/image.hpp"
#include "tests/verify/instructions/judge.hpp"
#include "tests/verify/support/stepper.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include <unistd.h>

namespace sluice::verify {

namespace {

constexpr std::uint64_t instructions_max = 50'000'000;
constexpr std::uint64_t failures_told_max = 3;  // per operation; all are counted
constexpr unsigned patience_s = 60;             // for one state, or 2^18 instructions

test::SurvivorOptions survivor_options(const Operation& operation) {
  auto segment = test::small_options(operation.units);
  segment.lanes = segment.processes = 6;
  segment.queues = 4;
  segment.cells_per_lane = 256;
  return {.segment = segment, .cells = 256, .kept_bytes = operation.kept_bytes};
}

// An actor that stands before the first instruction of the operation.
std::unique_ptr<Stepper> start_actor(const std::string& path, const Operation& operation) {
  return std::make_unique<Stepper>([&](const StepMarks& marks) {
    Actor self(path);
    operation.set_up(self);
    marks.begin();
    operation.act(self);
    marks.end();
    for (;;) ::pause();
  });
}

struct Scene {
  explicit Scene(const Operation& operation, Progress* progress = nullptr)
      : survivor(survivor_options(operation)) {
    if (progress != nullptr)
      survivor.file.directory().path().copy(progress->directory, sizeof progress->directory - 1);
    operation.prepare(survivor);
    actor = start_actor(survivor.path(), operation);
  }

  test::Survivor survivor;
  std::unique_ptr<Stepper> actor;
};

void keep_patience(std::uint64_t steps) {
  if (steps % (1U << 18) == 0) ::alarm(patience_s);
}

// Steps to state number `index`; false if there are not so many.
bool step_to_state(Stepper& actor, Image& image, std::uint64_t index) {
  std::uint64_t state = 0;
  while (state != index) {
    keep_patience(actor.steps());
    if (!actor.step()) return false;
    if (image.changed()) ++state;
  }
  return true;
}

class Driver {
 public:
  Driver(const Operation& operation, const DriveOptions& options, Progress& progress)
      : operation_(operation), options_(options), progress_(progress) {}

  void step_through() {
    Scene scene(operation_, &progress_);
    step_through(scene.survivor, *scene.actor, operation_, std::string(operation_.name));
  }

  // The real thing, at some of the states: a process that is killed there, and a survivor that goes on.
  void kill_at_some() {
    const std::uint64_t states = progress_.states;
    const auto kills = std::min(options_.kills, states);
    for (std::uint64_t i = 0; i < kills; ++i) {
      ::alarm(patience_s);
      Scene scene(operation_, &progress_);
      Image image(scene.survivor.segment(), operation_.writes_blocks);
      Judge judge(operation_, scene.survivor);
      step_to_state(*scene.actor, image, kills == 1 ? states / 2 : i * (states - 1) / (kills - 1));
      scene.actor->kill();
      told(std::string(operation_.name), judge.judge_alive(), *scene.actor, &image);
      ++progress_.recovered;
    }
  }

  // A real death at every state, and then the death of who recovers it, at each of its instructions.
  void step_through_recoveries() {
    Operation recovery = operation_;
    recovery.set_up = get_ready_to_recover;
    recovery.act = recover_the_dead;
    recovery.pushes = recovery.pops = recovery.happens = 0;
    for (std::uint64_t state = options_.is_short ? middle_state() : 0;; ++state) {
      Scene scene(operation_, &progress_);
      Image image(scene.survivor.segment(), operation_.writes_blocks);
      if (!step_to_state(*scene.actor, image, state)) return;
      scene.actor->kill();
      const auto recoverer = start_actor(scene.survivor.path(), recovery);
      step_through(scene.survivor, *recoverer, recovery,
                   fmt::format("{} {}, death at state {}", recovery_prefix, operation_.name, state));
      if (options_.is_short) return;
    }
  }

 private:
  bool is_judged(std::uint64_t state) const { return !options_.is_short || state < 48 || state % 8 == 0; }

  void step_through(test::Survivor& survivor, Stepper& actor, const Operation& operation,
                    const std::string& label) {
    Image image(survivor.segment(), operation.writes_blocks);
    Copy copy(survivor.file.directory().file("copy"), survivor.segment().geometry().mapped_bytes);
    Judge judge(operation, survivor);
    const std::vector<std::uint64_t> dead{static_cast<std::uint64_t>(actor.pid()),
                                          static_cast<std::uint64_t>(::getpid())};
    const auto look = [&](bool judged) {
      ::alarm(patience_s);
      progress_.address = actor.last_address();
      if (!judged) return;
      copy.become(image, dead);
      told(label, judge.judge_copy(copy.path()), actor, &image);
      ++progress_.recovered;
    };
    ++progress_.states;
    look(true);
    bool judged = true;
    while (actor.step()) {
      ++progress_.instructions;
      keep_patience(actor.steps());
      if (actor.steps() == instructions_max) return told(label, {"it does not end"}, actor, &image);
      if (image.changed()) look(judged = is_judged(progress_.states++));
    }
    if (actor.ended())
      return told(label, {"the process ended by itself: " + actor.how_it_ended()}, actor, nullptr);
    if (!judged) look(true);  // the last one always
    told(label, judge.judge_completed(), actor, &image);
    if (image.unseen_change()) told(label, {"bytes changed that are not watched: see Image"}, actor, &image);
  }

  // Of the first instructions: a sample is to be quick.
  std::uint64_t middle_state() const {
    Scene scene(operation_, &progress_);
    Image image(scene.survivor.segment(), operation_.writes_blocks);
    std::uint64_t states = 0;
    while (scene.actor->steps() < 20'000 && scene.actor->step())
      if (image.changed()) ++states;
    return (states + 1) / 2;
  }

  void told(const std::string& label, const Complaints& complaints, const Stepper& actor,
            const Image* image) {
    if (complaints.empty()) return;
    if (progress_.failures++ >= failures_told_max) return;
    std::string kept;
    if (image != nullptr) image->save(kept = kept_path(options_, label, actor.steps()));
    report_failure(label, actor.steps(), actor.last_address(), complaints, kept);
  }

  const Operation& operation_;
  const DriveOptions& options_;
  Progress& progress_;
};

}  // namespace

void drive(const Operation& operation, const DriveOptions& options, Progress& progress) {
  stay_on_one_processor();
  Driver driver(operation, options, progress);
  driver.step_through();
  driver.kill_at_some();
}

void drive_recoveries(const Operation& operation, const DriveOptions& options, Progress& progress) {
  stay_on_one_processor();
  Driver(operation, options, progress).step_through_recoveries();
}

void keep_state(const Operation& operation, std::uint64_t index, const std::string& path) {
  Scene scene(operation);
  Image image(scene.survivor.segment(), operation.writes_blocks);
  step_to_state(*scene.actor, image, index);
  image.save(path);
}

std::unique_ptr<Stepper> stop_during(test::Survivor& survivor, const Operation& operation,
                                     const std::function<bool(const Segment&)>& here) {
  operation.prepare(survivor);
  auto victim = start_actor(survivor.path(), operation);
  Image image(survivor.segment(), operation.writes_blocks);
  while (!here(survivor.segment())) do
      if (!victim->step()) throw std::runtime_error(fmt::format("{}: no such state", operation.name));
    while (!image.changed());
  return victim;
}

std::string kept_path(const DriveOptions& options, std::string_view operation, std::uint64_t step) {
  std::string name(operation);
  std::ranges::replace_if(name, [](char c) { return c == ' ' || c == ':' || c == '\'' || c == '/'; }, '-');
  return fmt::format("{}/instructions-{}-{}.segment", options.keep_in, name, step);
}

void report_failure(std::string_view operation, std::uint64_t step, std::uint64_t address,
                    const Complaints& complaints, const std::string& kept) {
  std::string text = fmt::format("FAILED {}: killed after instruction {}, {:#x} {}\n", operation, step,
                                 address, step == 0 ? "before the operation" : describe_address(address));
  for (const auto& line : complaints) text += fmt::format("    {}\n", line);
  if (!kept.empty()) text += fmt::format("    the state is kept in {}\n", kept);
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace sluice::verify
