// A stage for tests.
//   stage_probe note DIRECTORY   writes a line for each message into DIRECTORY/NAME, then passes it on if it can:
//                                kind flow position length deliveries sum-of-bytes
//   stage_probe make COUNT BYTES publishes COUNT messages with a block of BYTES, then ends
#include "runtime/stage.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <string_view>

namespace {

using namespace sluice;

std::uint64_t sum_of(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}, [](std::uint64_t sum, std::byte byte) {
    return sum * 31 + std::to_integer<std::uint64_t>(byte);
  });
}

Expected<void> note(Stage& stage, const std::string& directory) {
  std::FILE* file = std::fopen((directory + "/" + stage.options().name).c_str(), "ae");
  if (file == nullptr) return fail_errno("open " + directory);
  const auto served = stage.serve([&](Delivery& delivery) {
    const auto& message = delivery.message;
    fmt::print(file, "{} {} {} {} {} {}\n", static_cast<int>(message.kind), message.flow, message.position,
               message.length, delivery.deliveries, sum_of(delivery.bytes));
    std::fflush(file);
    return Verdict::pass();
  });
  std::fclose(file);
  if (!served) return std::unexpected(served.error());
  return {};
}

Expected<void> make(Stage& stage, std::uint64_t count, std::size_t bytes) {
  std::uint64_t made = 0;
  return stage.produce([&](Producer& into) {
    if (made == count) return Status::closed;
    auto block = into.allocate(bytes);
    if (!block) return block.error();
    Message message{};
    message.flow = message.position = made;
    const auto status = into.publish(std::move(*block), message);
    if (status == Status::ok) ++made;
    return status;
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view mode = argc > 1 ? argv[1] : "";
  auto stage = Stage::from_environment();
  if (!stage) return fmt::print(stderr, "stage_probe: {}\n", stage.error().message), 1;
  Expected<void> done;
  if (mode == "note" && argc == 3) {
    done = note(*stage, argv[2]);
  } else if (mode == "make" && argc == 4) {
    done = make(*stage, std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
  } else {
    return 2;
  }
  if (!done) return fmt::print(stderr, "stage_probe: {}\n", done.error().message), 1;
  return 0;
}
