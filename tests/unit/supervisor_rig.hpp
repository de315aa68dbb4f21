// A supervisor over stand-in children: shell scripts that say they are ready, stay, leave or die.
#pragma once

#include "runtime/supervisor.hpp"
#include "tests/support/must.hpp"
#include "tests/support/temp_segment.hpp"

#include <fmt/format.h>

#include <csignal>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace sluice::test {

using namespace std::chrono_literals;

// How a stand-in takes SIGTERM: settled before it says that it is ready, as the signal may follow at once.
inline constexpr const char* until_term = "trap 'exit 0' TERM;";
inline constexpr const char* deaf_to_term = "trap '' TERM;";
inline constexpr const char* stay = "while :; do sleep 0.02; done";

inline void signal_self() {
  ::kill(::getpid(), SIGTERM);
}  // blocked: the supervisor reads it from its descriptor

struct Pipeline {
  Pipeline() : session(must(Session::open(file.path(), "supervisor"))) {
    options.program = "/bin/sh";
    options.drain_grace = 0ms;
    options.drain_patience = 10s;
    options.ingress_arguments = [this](const auto& streams, const std::string& address, int ready_fd) {
      streams_given = streams;
      addresses.push_back(address);
      return script(fmt::format("{} echo 192.0.2.1:7 >/proc/self/fd/{}; {} {}", ingress_trap, ready_fd,
                                ingress_body, stay));
    };
    options.worker_command = [this](const WorkerPlace& place) {
      ++worker_starts;
      if (on_worker_start) on_worker_start();
      // Before the drain a worker stays; then it ends whenever the supervisor looks.
      return command(fmt::format("{} echo >/proc/self/fd/{}; while ! test -e {}; do sleep 0.02; done",
                                 worker_prelude, place.ready_fd, file.directory().file("drain")));
    };
    serve_with(1);
    options.is_refusal = [](int code) { return code == 2; };
    options.log = [this](std::string_view line) {
      log += std::string(line) + "\n";
      if (line != "draining") return;
      write_file(file.directory().file("drain"), {});
      if (on_drain) on_drain();
    };
    options.ready = [this](const PipelineAddresses& found) {
      ready_addresses.push_back(found.ingress);
      ready_devices = found.devices;
      if (on_ready) on_ready();
    };
  }

  /// The ingress, and a stage of so many workers with a stream each; 0: neither.
  void serve_with(std::uint32_t workers) {
    options.plan = {};
    if (workers == 0) return;
    options.plan.queues.push_back({.name = "ingress", .capacity = 4096, .streams = workers});
    options.plan.stages.push_back({.name = "worker", .workers = workers, .from = 0, .into = {}});
    options.plan.ingress_into = 0;
  }

  // A device's server: how it takes SIGTERM, says that it is ready, and what it does then.
  void add_device(const std::string& name, std::string body = stay, std::string trap = until_term) {
    const auto path = "/dev/" + name;
    options.devices.push_back(
        {.child_name = "ublk." + name,
         .arguments =
             [this, path, body = std::move(body), trap = std::move(trap)](int ready_fd) {
               ++device_starts;
               return script(fmt::format("{} echo {} >/proc/self/fd/{}; {}", trap, path, ready_fd, body));
             },
         .into = {},
         .mirror_name = {},
         .mirror_arguments = {}});
  }

  static WorkerCommand command(const std::string& text) {
    return {.program = {}, .arguments = script(text), .environment = {}};
  }
  static std::vector<std::string> script(const std::string& text) { return {"sh", "-c", text}; }
  SupervisorReport run() { return must(Supervisor::create(session, options))->run(); }
  bool logged(std::string_view text) const { return log.find(text) != std::string::npos; }

  TempSegment file;
  Session session;
  SupervisorOptions options;
  std::string ingress_trap = until_term;
  std::string ingress_body;
  std::string worker_prelude;
  std::function<void()> on_ready = signal_self;
  std::function<void()> on_drain;
  std::function<void()> on_worker_start;
  std::string log;
  std::vector<std::string> streams_given, addresses, ready_addresses, ready_devices;
  int worker_starts = 0;
  int device_starts = 0;
};

}  // namespace sluice::test
