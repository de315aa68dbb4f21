// The transports that are compared. Each is a file of its own; the list is in transports.cpp.
#pragma once

#include "tests/bench/queues/fan.hpp"
#include "tests/bench/queues/pair.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sluice::bench {

/// How an end waits: it looks again and again, or it sleeps in the kernel.
enum class Waits { spins, sleeps };

struct Transport {
  std::string name;
  Waits waits = Waits::spins;
  std::unique_ptr<Pair> (*open)(const Task& task, Waits waits) = nullptr;
  bool holds_messages = true;  // see Task
  bool streams = true;
  std::uint64_t bytes_max = ~std::uint64_t{0};
};

/// One publisher, many subscribers.
struct FanTransport {
  std::string name;
  std::unique_ptr<Fan> (*open)(const FanTask& task) = nullptr;
};

struct Choice {
  bool with_iceoryx = false;  // its daemon runs
};
bool has_iceoryx();  // whether this program was built with it
std::vector<Transport> transports(Choice choice);
std::vector<FanTransport> fan_transports(Choice choice);

/// What a reader of the figures must know of how a transport was set up.
std::vector<std::string> transport_notes();

std::unique_ptr<Pair> open_stream(const Task& task, Waits waits);
std::unique_ptr<Pair> open_work_queue(const Task& task, Waits waits);
std::unique_ptr<Pair> open_message_queue(const Task& task, Waits waits);
std::unique_ptr<Pair> open_socket(const Task& task, Waits waits);
std::unique_ptr<Pair> open_pipe(const Task& task, Waits waits);
std::unique_ptr<Pair> open_line(const Task& task, Waits waits);
std::unique_ptr<Pair> open_iceoryx(const Task& task, Waits waits);
std::unique_ptr<Fan> open_broadcast(const FanTask& task);
std::unique_ptr<Fan> open_iceoryx_fan(const FanTask& task);

}  // namespace sluice::bench
