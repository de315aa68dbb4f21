// Jobs for any number of workers; each is done by one of them, at least once, whoever is killed.
//
//   sluice segment create /dev/shm/jobs
//   work_queue work /dev/shm/jobs &             # as many as you like; kill -9 some of them
//   work_queue submit /dev/shm/jobs 100
#include "runtime/consumer.hpp"
#include "runtime/session.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

// Three tries each; who fails them all is put aside.
sluice::Expected<sluice::QueueId> find_jobs(sluice::Lane& lane) {
  if (auto failed = sluice::find_or_create_work_queue(lane, "failed"); !failed) return failed;
  return sluice::find_or_create_work_queue(lane, "jobs",
                                           {.capacity = 256, .deliveries_max = 3, .dead_letter = "failed"});
}

int submit(sluice::Lane& lane, int count) {
  auto jobs = sluice::Producer::open(lane, "jobs");
  for (int i = 0; i < count; ++i) {
    const auto text = fmt::format("job {}", i);
    auto block = jobs->allocate(text.size());
    if (!block) return 1;  // the segment is full
    std::memcpy(block->bytes().data(), text.data(), text.size());
    if (jobs->publish(std::move(*block)) != sluice::Status::ok) return 1;  // waits while the queue is full
  }
  jobs->close();
  return 0;
}

int work(sluice::Lane& lane) {
  auto jobs = sluice::Consumer::open(lane, "jobs");
  for (auto& job : *jobs) {
    const std::string_view text(reinterpret_cast<const char*>(job.bytes().data()), job.bytes().size());
    fmt::print("{}{}\n", text, job.deliveries() == 0 ? "" : " (once more)");
  }
  return jobs->ended_with() == sluice::Status::closed ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto session = sluice::Session::open(argv[2], "jobs");
  if (!session) return fmt::print(stderr, "{}\n", session.error().message), 1;
  auto lane = session->claim_lane();
  if (auto jobs = lane ? find_jobs(**lane) : sluice::fail(lane.error().status, lane.error().message); !jobs)
    return fmt::print(stderr, "{}\n", jobs.error().message), 1;
  return argv[1] == std::string_view("submit") ? submit(**lane, argc > 3 ? std::atoi(argv[3]) : 10)
                                               : work(**lane);
}
