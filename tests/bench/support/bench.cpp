#include "tests/bench/support/bench.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <thread>

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace sluice::bench {

void pin_to_core(unsigned core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core % std::max(1U, std::thread::hardware_concurrency()), &set);
  sched_setaffinity(0, sizeof set, &set);
}

double timer_overhead_ns() {
  std::vector<double> samples;
  for (int i = 0; i < 10001; ++i) {
    const auto begin = now_ns();
    samples.push_back(static_cast<double>(now_ns() - begin));
  }
  return percentile(samples, 50);
}

double percentile(std::vector<double>& samples, double p) {
  if (samples.empty()) return 0;
  std::ranges::sort(samples);
  const auto rank = p / 100 * static_cast<double>(samples.size() - 1);
  return samples[static_cast<std::size_t>(rank + 0.5)];
}

std::string machine() {
  std::string model = "unknown CPU";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);)
    if (line.starts_with("model name")) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  utsname kernel{};
  uname(&kernel);
  const std::string_view release = kernel.release;
  return fmt::format("{} x {}, Linux {}", std::thread::hardware_concurrency(), model,
                     release.substr(0, release.find('-')));
}

Report::Report(std::string bench, int argc, char** argv) : bench_(std::move(bench)) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json" && i + 1 < argc) {
      json_path_ = argv[++i];
      continue;
    }
    fmt::print(stderr, "{}_bench: unexpected \"{}\"; usage: {}_bench [--json FILE]\n", bench_, argv[i],
               bench_);
    std::exit(2);
  }
}

int Report::finish() const {
  fmt::print("{}: {}\n", bench_, machine());
  fmt::print("  {:<44} {:>12} {:<8} {:<26} {:>12} {:>8}\n", "metric", "ours", "unit", "peer", "peer value",
             "ratio");
  auto array = nlohmann::json::array();
  for (const auto& row : rows_) {
    const double ratio = row.peer_value != 0 ? row.ours / row.peer_value : 0;
    fmt::print("  {:<44} {:>12.2f} {:<8} {:<26} {:>12.2f} {:>8.3f}\n", row.metric, row.ours, row.unit,
               row.peer, row.peer_value, ratio);
    array.push_back({{"bench", bench_},
                     {"metric", row.metric},
                     {"unit", row.unit},
                     {"ours", row.ours},
                     {"peer", row.peer},
                     {"peer_value", row.peer_value},
                     {"ratio", ratio},
                     {"machine", machine()}});
  }
  for (const auto& text : notes_) fmt::print("  {}\n", text);
  if (json_path_.empty()) return 0;
  std::ofstream file(json_path_);
  file << array.dump(2) << '\n';
  if (file.good()) return 0;
  fmt::print(stderr, "{}_bench: cannot write {}\n", bench_, json_path_);
  return 1;
}

ScratchPath::ScratchPath(const std::string& name)
    : path_(fmt::format("/dev/shm/sluice-bench-{}-{}", name, getpid())) {}

ScratchPath::~ScratchPath() {
  unlink(path_.c_str());
  unlink((path_ + ".lock").c_str());
}

}  // namespace sluice::bench
