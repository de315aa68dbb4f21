// The program of a stage: `sluice run` starts it, tells it in its environment where its messages come from and go to,
// and starts it again if it dies. It makes letters big where they lie; a message that begins with "bad" it cannot take.
//
//   [[stage]]
//   name = "upper"
//   run = ["build/release/bin/examples/stage"]
//   from = "raw"
//   into = "upper"
//   workers = 2
#include "runtime/stage.hpp"

#include <fmt/format.h>

#include <cctype>
#include <string_view>

namespace {

sluice::Verdict upper(sluice::Delivery& message) {
  const std::string_view text(reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size());
  if (text.starts_with("bad")) return sluice::Verdict::again();  // until it is a dead letter
  for (auto& letter : message.writable())
    letter = static_cast<std::byte>(std::toupper(static_cast<unsigned char>(letter)));
  return sluice::Verdict::pass();
}

}  // namespace

int main() {
  auto stage = sluice::Stage::from_environment();
  if (!stage) return fmt::print(stderr, "stage: {}\n", stage.error().message), 1;
  const auto served = stage->serve(upper);
  if (!served) return fmt::print(stderr, "{}: {}\n", stage->options().name, served.error().message), 1;
  return 0;
}
