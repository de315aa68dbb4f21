// `sluice ublk`: block devices served by this process, and care for those that others serve or have left.
#include "tools/common/command_line.hpp"
#include "tools/common/format.hpp"
#include "tools/common/json.hpp"
#include "tools/sluice/child_side.hpp"
#include "tools/sluice/commands.hpp"
#include "tools/sluice/ublk_served.hpp"
#include "tools/sluice/ublk_show.hpp"
#include "tools/sluice/ublk_target.hpp"
#include "ublk/server.hpp"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <sys/signalfd.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

constexpr const char* server_name = "ublk";  // as ps and top show it

// ---- add, recover: the server -----------------------------------------------------------------------------

struct ServeFlags {
  UblkOptions options;
  TargetFlags target;
  std::uint32_t id = 0;  // of recover
  bool take_over = false;
  int ready_fd = -1;
  bool json = false;
};

// Readable once somebody asks to stop. The signals are blocked in this thread and those that it starts.
UniqueFd stop_signal_fd() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : stop_signals()) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC));
}

std::string data_path_name(DataPath path) {
  switch (path) {
    case DataPath::user_copy: return "user-copy";
    case DataPath::copy: return "copy";
    case DataPath::zero_copy: return "zero-copy";
  }
  return "";
}

void print_ready(const UblkServer& server, const std::string& target, bool json) {
  const auto& info = server.info();
  if (json) {
    auto document = json_document("sluice.ublk.ready/1");
    document["id"] = info.device_id;
    document["device"] = server.block_path();
    document["target"] = target;
    document["queues"] = info.queues;
    document["depth"] = info.depth;
    document["io_bytes_max"] = info.io_bytes_max;
    document["data_path"] = data_path_name(server.data_path());
    print_json(document);
  } else {
    fmt::print("ready: {}, {}, {} queue{} of depth {}, requests up to {}, {}\n", server.block_path(),
               escape_controls(target), info.queues, info.queues == 1 ? "" : "s", info.depth,
               format_size(info.io_bytes_max), data_path_name(server.data_path()));
  }
  std::fflush(stdout);
}

// Says on a terminal that the start takes long: after 2 s, and after each doubling. A supervisor says that itself.
class StartProgress {
 public:
  StartProgress()
      : thread_([this](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          const auto begun = std::chrono::steady_clock::now();
          for (auto due = std::chrono::seconds(2);; due *= 2) {
            over_.wait_until(lock, stop, begun + due, [] { return false; });
            if (stop.stop_requested()) return;
            fmt::print(stderr, "sluice: ublk: starting, waiting for the driver ({} s)\n", due.count());
          }
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any over_;
  std::jthread thread_;  // last: it uses the others
};

ExitCode serve(const ServeFlags& flags, bool recover) {
  const auto stop = stop_signal_fd();
  StatusAnswers::block_signal();
  if (!stop) return report(Status::io_error, "signalfd");
  name_process(server_name);
  std::string description;
  const auto open = [&](bool dead_server) {
    auto target = open_target(flags.target, dead_server);
    if (target) description = (*target)->describe();
    return target;
  };
  const auto begin = [&]() -> Expected<std::unique_ptr<UblkServer>> {
    if (recover) return UblkServer::recover(flags.id, flags.options.lock_memory, open);
    // Before the target is opened: a store would be made in its segment for a device that cannot be.
    if (auto able = UblkServer::check(flags.options); !able) return std::unexpected(std::move(able.error()));
    if (flags.take_over) return UblkServer::take_over(flags.options, open);
    auto target = open(false);
    if (!target) return std::unexpected(std::move(target.error()));
    return UblkServer::add(flags.options, std::move(*target));
  };
  std::optional<StartProgress> progress;
  if (flags.ready_fd < 0 && ::isatty(STDERR_FILENO) != 0) progress.emplace();
  const auto server = begin();
  progress.reset();
  if (!server) return report(server.error());
  auto answers = StatusAnswers::begin(**server);
  if (!answers) return report(answers.error());
  const bool supervised = flags.ready_fd >= 0;
  if (supervised)
    say_ready(flags.ready_fd, (*server)->block_path());
  else
    print_ready(**server, description, flags.json);
  const auto served = (*server)->serve(stop.get());
  answers->reset();
  print_served((*server)->statistics(), flags.json, supervised ? (*server)->block_path() + " " : "");
  return served ? ExitCode::ok : report(served.error());
}

void add_add(CLI::App& ublk) {
  auto* command = ublk.add_subcommand("add", "Make a block device and serve it until SIGTERM or SIGINT");
  auto flags = std::make_shared<ServeFlags>();
  auto& options = flags->options;
  add_target_options(*command, flags->target);
  command->add_option("--id", options.id, "Its number, N in /dev/ublkbN; a free one unless given");
  command->add_option("--queues", options.queues, "Queues, each with a thread; 1 to the number of CPUs")
      ->capture_default_str();
  command->add_option("--depth", options.depth, "Requests that each queue has at a time, 1 to 4096")
      ->capture_default_str();
  add_size_option(*command, "--max-io", options.io_bytes_max, "Largest request, 4KiB to 32MiB [512KiB]");
  command
      ->add_option(
          "--data", options.data_path,
          "How data travels: user-copy (Linux 6.5), copy; auto takes the first that there is; zero-copy "
          "(Linux 6.15, untried) only by name [auto]")
      ->transform(
          CLI::Transformer(std::map<std::string, DataPathChoice>{{"auto", DataPathChoice::automatic},
                                                                 {"user-copy", DataPathChoice::user_copy},
                                                                 {"copy", DataPathChoice::copy},
                                                                 {"zero-copy", DataPathChoice::zero_copy}}))
      ->type_name("PATH");
  command
      ->add_option(
          "--recovery", options.recovery,
          "When the server dies: none, the device goes; wait, its requests fail and new ones wait for the "
          "next server; reissue, all wait; fail-io, all fail until then [reissue]")
      ->transform(CLI::Transformer(std::map<std::string, RecoveryMode>{{"none", RecoveryMode::none},
                                                                       {"wait", RecoveryMode::wait},
                                                                       {"reissue", RecoveryMode::reissue},
                                                                       {"fail-io", RecoveryMode::fail_io}}))
      ->type_name("MODE");
  command->add_flag("--lock-memory", options.lock_memory, "Keep the I/O buffers in memory (RLIMIT_MEMLOCK)");
  command->add_flag("--take-over", flags->take_over,
                    "If a dead server has left a device of this target, serve that one as it is");
  command->add_option("--ready-fd", flags->ready_fd,
                      "Descriptor to write the device's path to, once it serves");
  command->add_flag("--json", flags->json, "One JSON document when ready, one at the end");
  on_run(*command, [flags] { return serve(*flags, false); });
}

void add_recover(CLI::App& ublk) {
  auto* command = ublk.add_subcommand("recover", "Serve a device whose server has died, as `add` does");
  auto flags = std::make_shared<ServeFlags>();
  command->add_option("ID", flags->id, "The device's number")->required();
  add_target_options(*command, flags->target);
  command->add_flag("--lock-memory", flags->options.lock_memory,
                    "Keep the I/O buffers in memory (RLIMIT_MEMLOCK)");
  command->add_flag("--json", flags->json, "One JSON document when ready, one at the end");
  on_run(*command, [flags] { return serve(*flags, true); });
}

// ---- stop, delete -----------------------------------------------------------------------------------------

struct DeviceFlags {
  std::uint32_t id = 0;
  bool json = false;
};

// How long a server may take to let go of what waits, and to delete its device.
constexpr auto server_end_wait = std::chrono::seconds(30);

// Whether the device's server is a `sluice ublk` that runs.
bool is_served_by_us(const ublk_abi::DeviceInfo& info) {
  if (!ublk_server_runs(info)) return false;
  std::ifstream file(fmt::format("/proc/{}/comm", info.server_pid));
  std::string name;
  std::getline(file, name);
  return name == server_name;
}

// Ask the server to end: it lets go of requests that wait for something, which the driver alone would wait for too.
// returns  whether there was one, and the device is gone
Expected<bool> end_by_server(UblkControl& control, std::uint32_t id) {
  const auto info = control.info(id);
  if (!info) return std::unexpected(info.error());
  if (!is_served_by_us(*info) || ::kill(info->server_pid, SIGTERM) != 0) return false;
  const auto give_up = std::chrono::steady_clock::now() + server_end_wait;
  // By its pid: to ask the driver now would be to wait for the server, without end if that hangs.
  while (ublk_server_runs(*info)) {
    if (std::chrono::steady_clock::now() > give_up)
      return fail(Status::busy,
                  fmt::format("ublk device {}: its server, pid {}, does not end", id, info->server_pid),
                  EBUSY);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const auto now = control.info(id);
  return !now || now->server_flags != info->server_flags;
}

ExitCode end_by_driver(UblkControl& control, std::uint32_t id, bool remove) {
  if (auto stopped = control.stop(id); !stopped) return report(stopped.error());
  if (!remove) return ExitCode::ok;
  auto removed = control.remove(id);
  return removed || removed.error().status == Status::not_found ? ExitCode::ok : report(removed.error());
}

ExitCode end_device(const DeviceFlags& flags, bool remove) {
  auto control = UblkControl::open();
  if (!control) return report(control.error());
  const auto ended = end_by_server(*control, flags.id);
  if (!ended) return report(ended.error());
  if (!*ended) {
    if (const auto code = end_by_driver(*control, flags.id, remove); code != ExitCode::ok) return code;
  }
  if (flags.json) {
    auto document = json_document(remove ? "sluice.ublk.delete/1" : "sluice.ublk.stop/1");
    document["id"] = flags.id;
    print_json(document);
  } else {
    fmt::print("{} ublk device {}\n", remove ? "deleted" : "stopped", flags.id);
  }
  return ExitCode::ok;
}

void add_end(CLI::App& ublk, const char* name, const char* description, bool remove) {
  auto* command = ublk.add_subcommand(name, description);
  auto flags = std::make_shared<DeviceFlags>();
  command->add_option("ID", flags->id, "The device's number")->required();
  command->add_flag("--json", flags->json, "One JSON document on stdout");
  on_run(*command, [flags, remove] { return end_device(*flags, remove); });
}

// ---- list, info, features ---------------------------------------------------------------------------------

void add_show(CLI::App& ublk) {
  auto json = std::make_shared<bool>(false);
  auto* list = ublk.add_subcommand("list", "All ublk devices, whoever serves them");
  list->add_flag("--json", *json, "One JSON document on stdout");
  on_run(*list, [json] { return list_ublk_devices(*json); });

  auto flags = std::make_shared<DeviceFlags>();
  auto* info = ublk.add_subcommand("info", "One device: state, server, parameters, features");
  info->add_option("ID", flags->id, "The device's number")->required();
  info->add_flag("--json", flags->json, "One JSON document on stdout");
  on_run(*info, [flags] { return show_ublk_device(flags->id, flags->json); });

  auto* features = ublk.add_subcommand("features", "What this kernel's driver offers");
  features->add_flag("--json", *json, "One JSON document on stdout");
  on_run(*features, [json] { return show_ublk_features(*json); });
}

}  // namespace

void add_ublk_command(CLI::App& app) {
  auto* command = app.add_subcommand("ublk", "Serve block devices, and care for those that are there");
  command->require_subcommand(1);
  add_add(*command);
  add_show(*command);
  add_recover(*command);
  add_end(*command, "stop", "Take a block device away; its server, if it has one, then deletes it and ends",
          false);
  add_end(*command, "delete", "Stop a device and delete it, also one that a dead server has left", true);
}

}  // namespace sluice::tools
