// Stages over one block: it is filled once, changed where it lies by the next process, and read by the last. Nothing
// is copied, and whoever is killed, each message is in exactly one of the queues.
//
//   sluice segment create /dev/shm/stages
//   stages count /dev/shm/stages & stages upper /dev/shm/stages & stages fill /dev/shm/stages 1000
#include "runtime/consumer.hpp"
#include "runtime/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>

namespace {

constexpr std::string_view alphabet = "abcdefghijklmnopqrstuvwxyz";

int fill(sluice::Lane& lane, int count) {
  auto raw = sluice::Producer::open(lane, "raw");
  for (int i = 0; i < count; ++i) {
    auto block = raw->allocate(alphabet.size());
    if (!block) return 1;
    std::ranges::transform(alphabet, block->bytes().begin(),
                           [](char c) { return static_cast<std::byte>(c); });
    if (raw->publish(std::move(*block)) != sluice::Status::ok) return 1;
  }
  raw->close();
  return 0;
}

int upper(sluice::Lane& lane) {
  auto raw = sluice::Consumer::open(lane, "raw");
  auto done = sluice::Producer::open(lane, "upper");
  for (auto& message : *raw) {
    for (auto& byte : message.writable()) byte = static_cast<std::byte>(std::toupper(static_cast<int>(byte)));
    if (message.forward(*done, message.message()) != sluice::Status::ok) return 1;
  }
  done->close();
  return raw->ended_with() == sluice::Status::closed ? 0 : 1;
}

int count(sluice::Lane& lane) {
  auto done = sluice::Consumer::open(lane, "upper");
  std::uint64_t messages = 0, letters = 0;
  for (auto& message : *done) {
    ++messages;
    letters += static_cast<std::uint64_t>(std::ranges::count_if(
        message.bytes(), [](std::byte b) { return std::isupper(static_cast<int>(b)) != 0; }));
  }
  fmt::print("{} messages, {} letters\n", messages, letters);
  return done->ended_with() == sluice::Status::closed ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto session = sluice::Session::open(argv[2], argv[1]);
  if (!session) return fmt::print(stderr, "{}\n", session.error().message), 1;
  auto lane = session->claim_lane();
  if (!lane) return fmt::print(stderr, "{}\n", lane.error().message), 1;
  for (const auto* name : {"raw", "upper"})
    if (auto queue = sluice::find_or_create_work_queue(**lane, name, {.capacity = 64}); !queue)
      return fmt::print(stderr, "{}\n", queue.error().message), 1;
  const std::string_view role = argv[1];
  return role == "fill"    ? fill(**lane, argc > 3 ? std::atoi(argv[3]) : 10)
         : role == "upper" ? upper(**lane)
                           : count(**lane);
}
