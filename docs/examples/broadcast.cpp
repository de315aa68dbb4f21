// Ticks for whoever listens. A listener that comes late gets the last ones; one that is slow loses the oldest, and
// is told how many.
//
//   sluice segment create /dev/shm/ticks
//   broadcast listen /dev/shm/ticks &           # as many as you like
//   broadcast publish /dev/shm/ticks 1000
//
// One that has a name loses nothing: the publisher waits for it, also while it is not there.
//
//   broadcast listen /dev/shm/ticks audit       # kill it, start it again: it goes on where it was
#include "runtime/consumer.hpp"
#include "runtime/session.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace {

struct Tick {
  std::uint64_t number;
  double price;
};

int publish(sluice::Lane& lane, std::uint64_t count) {
  auto ticks = sluice::Producer::open(lane, "ticks");
  if (!ticks) return fmt::print(stderr, "{}\n", ticks.error().message), 1;
  for (std::uint64_t i = 0; i < count; ++i)
    if (ticks->publish_value(Tick{i, 100.0 + static_cast<double>(i % 7)}) != sluice::Status::ok) return 1;
  ticks->close();
  return 0;
}

int listen(sluice::Lane& lane, std::string_view name) {
  using enum sluice::SubscriberPolicy;
  auto ticks = sluice::Consumer::open(
      lane, "ticks",
      {.policy = name.empty() ? lose_oldest : block, .start = sluice::Start::last(10), .name = name});
  if (!ticks) return fmt::print(stderr, "{}\n", ticks.error().message), 1;
  std::uint64_t count = 0, again = 0;
  double sum = 0;
  for (auto& message : *ticks) {
    const auto* tick = message.as<Tick>();
    if (tick == nullptr) continue;  // somebody else's
    ++(message.deliveries() == 0 ? count : again);
    sum += tick->price;
  }
  const auto all = count + again;
  fmt::print("{} ticks, {} lost, {} again, mean {:.2f}\n", count, ticks->lost(), again,
             all == 0 ? 0 : sum / static_cast<double>(all));
  return ticks->ended_with() == sluice::Status::closed ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto session = sluice::Session::open(argv[2], "ticks");
  if (!session) return fmt::print(stderr, "{}\n", session.error().message), 1;
  auto lane = session->claim_lane();
  if (!lane) return fmt::print(stderr, "{}\n", lane.error().message), 1;
  if (auto queue = sluice::find_or_create_broadcast(**lane, "ticks", {.capacity = 1024}); !queue)
    return fmt::print(stderr, "{}\n", queue.error().message), 1;
  return argv[1] == std::string_view("publish")
             ? publish(**lane, argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 100)
             : listen(**lane, argc > 3 ? argv[3] : "");
}
