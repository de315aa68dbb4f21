// Queues of ours beside what one would take instead. This program measures, and prints what it found, one JSON object a
// line; tests/bench/queues_bench.sh runs it, and report.py makes tables of it. Where to start reading: pair.hpp.
#include "tests/bench/queues/shared_object.hpp"
#include "tests/bench/queues/transports.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <charconv>
#include <cstdio>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

#include <unistd.h>

namespace {

using namespace sluice::bench;
using Json = nlohmann::ordered_json;

constexpr std::uint64_t payloads[] = {64, 1024, 64 * 1024, 1024 * 1024, 4 * 1024 * 1024};
constexpr unsigned fan_sizes[] = {1, 2, 4, 8, 16, 32};

struct Options {
  unsigned rounds = 9;
  unsigned ms = 100;
  Choice choice;
};

const char* text_of(Waits waits) { return waits == Waits::spins ? "spins" : "sleeps"; }
const char* text_of(Touch touch) { return touch == Touch::line ? "line" : "all"; }
void print(const Json& row) { fmt::print("{}\n", row.dump()); }

struct Figures {
  std::vector<double> one_way_ns;      // all rounds
  std::vector<double> messages_per_s;  // each round's
};

class Comparison {
 public:
  Comparison(const Options& options, const Cores& cores) : options_(options), cores_(cores) {}

  void run() {
    const auto all = transports(options_.choice);
    const auto fans = fan_transports(options_.choice);
    for (unsigned round = 0; round < options_.rounds; ++round) {
      if (isatty(STDERR_FILENO) != 0)
        fmt::print(stderr, "queues_bench: round {} of {}\n", round + 1, options_.rounds);
      for (const auto bytes : payloads)
        for (std::size_t i = 0; i < all.size(); ++i)  // each comes first once
          measure_pair(all[(i + round) % all.size()], bytes);
      for (const auto subscribers : fan_sizes)
        for (const auto& fan : fans) measure_fan(fan, subscribers);
    }
    for (const auto bytes : payloads)
      for (const auto touch : touches)
        for (const auto& transport : all) print_pair(transport, bytes, touch);
    for (const auto subscribers : fan_sizes)
      for (const auto& fan : fans) print_fan(fan, subscribers);
  }

 private:
  using Key = std::tuple<std::string, Waits, std::uint64_t, Touch>;

  // A transport that failed once is left out from there on; what was measured before stays.
  bool failed(const std::string& name, const std::string& what, const std::string& problem) {
    if (problem.empty()) return false;
    absent_.insert(name);
    print({{"row", "absent"}, {"what", fmt::format("{}, {}", name, what)}, {"why", problem}});
    return true;
  }

  unsigned seconds_max(std::uint64_t ms) const { return static_cast<unsigned>(15 + ms / 100); }

  void measure_pair(const Transport& transport, std::uint64_t bytes) {
    const auto name = fmt::format("{} that {}", transport.name, text_of(transport.waits));
    if (bytes > transport.bytes_max || absent_.contains(name)) return;
    const SharedObject<Board> board;
    board->task = {.bytes = bytes,
                   .ms = options_.ms,
                   .core = {cores_.caller, cores_.partner},
                   .holds_messages = transport.holds_messages,
                   .streams = transport.streams};
    const auto pair = transport.open(board->task, transport.waits);
    const auto problem =
        run_processes({[&] { pair->run(Side::caller, *board); }, [&] { pair->run(Side::partner, *board); }},
                      seconds_max(options_.ms));
    if (failed(name, fmt::format("{} bytes", bytes), problem)) return;
    for (const auto touch : touches) {
      const auto index = static_cast<unsigned>(touch);
      if (board->trip_count[index] == 0) continue;
      auto& figures = pairs_[{transport.name, transport.waits, bytes, touch}];
      for (std::uint32_t i = 0; i < board->trip_count[index]; ++i)
        figures.one_way_ns.push_back(board->trip_ns[index][i] / 2.0);
      if (transport.streams) figures.messages_per_s.push_back(board->messages_per_s[index]);
    }
  }

  void measure_fan(const FanTransport& transport, unsigned subscribers) {
    if (absent_.contains(transport.name)) return;
    const SharedObject<FanBoard> board;
    board->task = {.subscribers = subscribers,
                   .batches = std::min(options_.ms, batches_max),
                   .core = {cores_.caller, cores_.partner}};
    const auto fan = transport.open(board->task);
    std::vector<std::function<void()>> bodies(subscribers + 1, [&] { fan->subscribe(*board); });
    bodies[0] = [&] { fan->publish(*board); };
    const auto problem = run_processes(bodies, seconds_max(options_.ms));
    if (failed(transport.name, fmt::format("{} subscribers", subscribers), problem)) return;
    auto& costs = fans_[{transport.name, subscribers}];
    costs.insert(costs.end(), board->publish_ns, board->publish_ns + board->task.batches);
  }

  void print_pair(const Transport& transport, std::uint64_t bytes, Touch touch) {
    const auto found = pairs_.find({transport.name, transport.waits, bytes, touch});
    if (found == pairs_.end()) return;
    auto& [one_way_ns, messages_per_s] = found->second;
    Json row = {{"row", "pair"},
                {"transport", transport.name},
                {"waits", text_of(transport.waits)},
                {"bytes", bytes},
                {"touch", text_of(touch)},
                {"trips", one_way_ns.size()},
                {"p50_ns", percentile(one_way_ns, 50)},
                {"p99_ns", percentile(one_way_ns, 99)},
                {"p999_ns", percentile(one_way_ns, 99.9)}};
    if (!messages_per_s.empty()) row["messages_per_s"] = percentile(messages_per_s, 50);
    print(row);
  }

  void print_fan(const FanTransport& transport, unsigned subscribers) {
    const auto found = fans_.find({transport.name, subscribers});
    if (found == fans_.end()) return;
    print({{"row", "fan"},
           {"transport", transport.name},
           {"subscribers", subscribers},
           {"p50_ns", percentile(found->second, 50)}});
  }

  Options options_;
  Cores cores_;
  std::map<Key, Figures> pairs_;
  std::map<std::pair<std::string, unsigned>, std::vector<double>> fans_;
  std::set<std::string> absent_;
};

unsigned number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value == 0)
    die(fmt::format("\"{}\" is not a number above 0", text));
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--iceoryx")
      options.choice.with_iceoryx = true;
    else if (argument == "--rounds" && i + 1 < argc)
      options.rounds = number(argv[++i]);
    else if (argument == "--ms" && i + 1 < argc)
      options.ms = number(argv[++i]);
    else
      die(fmt::format("unexpected \"{}\"; tests/bench/queues_bench.sh runs this program", argument));
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse(argc, argv);
  const auto cores = choose_cores();
  if (!cores) die(cores.error());
  print({{"row", "machine"}, {"text", machine()}});
  if (options.choice.with_iceoryx && !has_iceoryx())
    print({{"row", "absent"},
           {"what", "iceoryx"},
           {"why", "this build is without it: the package libiceoryx-posh-dev has what it needs"}});
  Comparison(options, *cores).run();
  std::vector<std::string> notes = {fmt::format(
      "rounds: {}, all transports in turns, {} ms for each figure; two processes on cores {} and {} ({}); one way is "
      "half a round trip; a timer call costs {:.0f} ns, two are in each trip",
      options.rounds, options.ms, cores->caller, cores->partner, cores->about, timer_overhead_ns())};
  for (auto& note : transport_notes()) notes.push_back(std::move(note));
  for (const auto& note : notes) print({{"row", "note"}, {"text", note}});
  print({{"row", "end"}});
  return 0;
}
