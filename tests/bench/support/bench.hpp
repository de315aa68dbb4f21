// What benchmarks share: pinning, the timer and its cost, percentiles, and the report as a table and as JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::bench {

/// Keep the calling thread on one core (modulo the cores there are).
void pin_to_core(unsigned core);

/// Nanoseconds of CLOCK_MONOTONIC.
inline std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

/// Median cost of now_ns() itself, in ns.
double timer_overhead_ns();

/// The p-th percentile (0 to 100) of the samples; sorts them.
double percentile(std::vector<double>& samples, double p);

/// One measurement beside its peer. Ratio is ours / peer.
struct Row {
  std::string metric;
  std::string unit;
  double ours = 0;
  std::string peer;
  double peer_value = 0;
};

class Report {
 public:
  /// argv may hold `--json FILE`; anything else ends the program with a usage line and exit code 2.
  Report(std::string bench, int argc, char** argv);
  void add(Row row) { rows_.push_back(std::move(row)); }
  void note(std::string text) { notes_.push_back(std::move(text)); }
  /// Print the table, write the file. Returns the exit code.
  int finish() const;

 private:
  std::string bench_;
  std::string json_path_;
  std::vector<Row> rows_;
  std::vector<std::string> notes_;
};

/// "4 x Intel(R) Xeon(R) ..., Linux 6.18": where the figures are from.
std::string machine();

/// A segment of its own on /dev/shm, gone at the end.
class ScratchPath {
 public:
  explicit ScratchPath(const std::string& name);
  ~ScratchPath();
  ScratchPath(const ScratchPath&) = delete;
  ScratchPath& operator=(const ScratchPath&) = delete;
  const std::string& str() const { return path_; }

 private:
  std::string path_;
};

}  // namespace sluice::bench
