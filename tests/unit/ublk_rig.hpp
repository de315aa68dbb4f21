// A queue with the model of the driver before it and a target behind it.
#pragma once

#include "tests/support/must.hpp"
#include "tests/unit/ublk_model.hpp"
#include "ublk/io_memory.hpp"
#include "ublk/queue.hpp"

#include <chrono>
#include <memory>
#include <utility>

namespace sluice::test {

inline constexpr std::uint32_t rig_io_bytes = 64 * 1024;

struct QueueRig {
  explicit QueueRig(Target& target, DataPath path = DataPath::user_copy, std::uint16_t depth = 4)
      : driver(depth, path) {
    const bool buffers = path == DataPath::copy || (path == DataPath::user_copy && target.uses_buffers());
    memory = std::make_unique<IoMemory>(
        must(IoMemory::map(buffers ? std::size_t{depth} * rig_io_bytes : 0, false)));
    queue = must(UblkQueue::open(driver, target,
                                 {.index = 0,
                                  .depth = depth,
                                  .io_bytes_max = rig_io_bytes,
                                  .data_path = path,
                                  .buffers = memory->bytes()}));
    must(queue->fetch_all());
  }

  void turn() { must(queue->turn(std::chrono::milliseconds(100))); }
  /// Turns until `count` requests are done.
  void settle(std::size_t count) {
    for (int i = 0; i < 1000 && driver.results().size() < count; ++i) turn();
    must_hold(driver.results().size() >= count, "all requests end");
  }
  /// One request from beginning to end.
  ModelResult io(ModelRequest request) {
    const auto before = driver.results().size();
    driver.ask(std::move(request));
    settle(before + 1);
    return driver.results().back();
  }

  std::unique_ptr<IoMemory> memory;
  ModelDriver driver;
  std::unique_ptr<UblkQueue> queue;
};

}  // namespace sluice::test
