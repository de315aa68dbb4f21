#include "tests/bench/queues/cores.hpp"

#include <fmt/format.h>

#include <fstream>
#include <vector>

#include <sched.h>

namespace sluice::bench {

namespace {

struct Place {
  int package = -1;
  int core = -1;
};

int topology(unsigned cpu, const char* name) {
  std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/{}", cpu, name));
  int value = -1;
  file >> value;
  return value;
}

Place place_of(unsigned cpu) { return {topology(cpu, "physical_package_id"), topology(cpu, "core_id")}; }

}  // namespace

std::expected<Cores, std::string> choose_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<unsigned> allowed;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) allowed.push_back(cpu);
  if (allowed.size() < 2)
    return std::unexpected("two processes that spin need two cores, this one may use only one");

  const auto first = place_of(allowed[0]);
  Cores best;
  int best_rank = -1;
  for (std::size_t i = 1; i < allowed.size(); ++i) {
    const auto place = place_of(allowed[i]);
    const bool same_package = place.package == first.package;
    const bool same_core = same_package && place.core == first.core;
    const int rank = same_core ? 1 : same_package ? 2 : 0;
    if (rank <= best_rank) continue;
    best_rank = rank;
    best = {allowed[0], allowed[i],
            same_core      ? "two threads of one core"
            : same_package ? "one processor"
                           : "two processors"};
  }
  return best;
}

void keep_on(unsigned core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace sluice::bench
