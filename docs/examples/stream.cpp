// One producer, one consumer, in order. The consumer may be killed at any message: the next one goes on with it.
//
//   sluice segment create /dev/shm/lines
//   stream read /dev/shm/lines &
//   stream write /dev/shm/lines < some-file
#include "runtime/consumer.hpp"
#include "runtime/session.hpp"

#include <fmt/format.h>

#include <cstring>
#include <iostream>
#include <string>
#include <string_view>

namespace {

int write(sluice::Lane& lane) {
  auto lines = sluice::Producer::open(lane, "lines");
  if (!lines) return fmt::print(stderr, "{}\n", lines.error().message), 1;
  for (std::string line; std::getline(std::cin, line);) {
    line += '\n';
    auto block = lines->allocate(line.size());
    if (!block) return 1;
    std::memcpy(block->bytes().data(), line.data(), line.size());
    if (lines->publish(std::move(*block)) != sluice::Status::ok) return 1;
  }
  lines->close();
  return 0;
}

int read(sluice::Lane& lane) {
  auto lines = sluice::Consumer::open(lane, "lines");
  if (!lines) return fmt::print(stderr, "{}\n", lines.error().message), 1;
  for (auto& line : *lines)
    std::cout.write(reinterpret_cast<const char*>(line.bytes().data()),
                    static_cast<std::streamsize>(line.bytes().size()));
  return lines->ended_with() == sluice::Status::closed && std::cout.flush() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  auto session = sluice::Session::open(argv[2], "lines");
  if (!session) return fmt::print(stderr, "{}\n", session.error().message), 1;
  auto lane = session->claim_lane();
  if (!lane) return fmt::print(stderr, "{}\n", lane.error().message), 1;
  if (auto queue = sluice::find_or_create_stream(**lane, "lines", 256); !queue)
    return fmt::print(stderr, "{}\n", queue.error().message), 1;
  return argv[1] == std::string_view("write") ? write(**lane) : read(**lane);
}
