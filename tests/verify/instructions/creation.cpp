// The creation of a segment. At every instruction the name leads to nothing or to a whole segment, and nothing but
// the lock file lies beside it; and who died there does not hinder the next who creates that name.
#include "tests/verify/instructions/drive.hpp"
#include "tests/verify/support/stepper.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include <sys/stat.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

SegmentOptions options_of_new() {
  auto options = test::small_options(4);
  options.payload_bytes_initial = 2 * unit_bytes;
  return options;
}

std::unique_ptr<Stepper> start_creator(const std::string& path) {
  return std::make_unique<Stepper>([path](const StepMarks& marks) {
    const auto options = options_of_new();
    Segment segment;
    marks.begin();
    segment = must(Segment::create(path, options));
    marks.end();
    for (;;) ::pause();
  });
}

bool is_there(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

// What changes when a name comes or goes.
auto directory_state(const test::TempDirectory& directory) {
  struct stat info{};
  ::stat(directory.path().c_str(), &info);
  return std::pair(info.st_size, info.st_nlink);
}

// It can be joined and used up.
void check_whole(const std::string& path, Complaints& complaints) {
  auto session = must(Session::open(path, "next"));
  test::check_sound(session.segment(), complaints);
  const auto lane = must(session.claim_lane());
  test::check_all_bytes_usable(*lane, complaints);
  test::check_sound(session.segment(), complaints);
}

Complaints judge_names(const test::TempDirectory& directory, const std::string& path) try {
  Complaints complaints;
  for (const auto& entry : directory.entries())
    if (entry != "new" && entry != "new.lock") complaints.push_back(fmt::format("{} lies about", entry));
  if (!is_there(path)) return complaints;
  const test::TempDirectory elsewhere;
  test::copy_sparse(path, elsewhere.file("copy"));
  check_whole(elsewhere.file("copy"), complaints);
  return complaints;
} catch (const std::exception& error) {
  return {error.what()};
}

// After a real death the same name can be created, unless it is there already.
Complaints judge_death(const std::string& path) try {
  Complaints complaints;
  if (!is_there(path)) must(Segment::create(path, options_of_new()));
  check_whole(path, complaints);
  return complaints;
} catch (const std::exception& error) {
  return {error.what()};
}

}  // namespace

void drive_creation(const DriveOptions& options, Progress& progress) {
  stay_on_one_processor();
  ::alarm(600);
  const auto tell = [&](const Complaints& complaints, const Stepper& creator) {
    ++progress.recovered;
    if (complaints.empty()) return;
    ++progress.failures;
    report_failure(creation_name, creator.steps(), creator.last_address(), complaints, "");
  };
  {
    const test::TempDirectory directory;
    directory.path().copy(progress.directory, sizeof progress.directory - 1);
    const auto path = directory.file("new");
    const auto creator = start_creator(path);
    auto seen = directory_state(directory);
    ++progress.states;
    tell(judge_names(directory, path), *creator);
    while (creator->step()) {
      ++progress.instructions;
      const auto now = directory_state(directory);
      if (now == seen) continue;
      seen = now;
      ++progress.states;
      tell(judge_names(directory, path), *creator);
    }
    tell(judge_names(directory, path), *creator);
    if (!is_there(path)) tell({"it returned, and there is no file: " + creator->how_it_ended()}, *creator);
  }
  const std::uint64_t instructions = progress.instructions;
  for (std::uint64_t i = 0; i < options.kills; ++i) {
    const test::TempDirectory directory;
    directory.path().copy(progress.directory, sizeof progress.directory - 1);
    const auto path = directory.file("new");
    const auto creator = start_creator(path);
    const auto steps = instructions * (i + 1) / (options.kills + 1);
    while (creator->steps() < steps && creator->step()) continue;
    creator->kill();
    tell(judge_death(path), *creator);
  }
}

}  // namespace sluice::verify
