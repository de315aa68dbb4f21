// Every command of shm-dump, as text and as JSON, over a segment in which any words were changed.
#include "tests/verify/fuzz/targets/arena.hpp"
#include "tools/shm-dump/commands.hpp"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

using namespace sluice;

namespace {

// A command line and its program: parsed anew for every execution, built once.
struct Command {
  std::unique_ptr<CLI::App> app;
  std::vector<std::string> arguments;

  void run() {
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    tools::run_program(*app, static_cast<int>(argv.size()), argv.data());
  }
};

std::vector<Command> make_commands(const std::string& path) {
  const std::vector<std::string> options[] = {{"info"},
                                              {"processes"},
                                              {"lanes"},
                                              {"lanes", "--all"},
                                              {"queues"},
                                              {"blocks"},
                                              {"blocks", "--all"},
                                              {"blocks", "--unheld"},
                                              {"check"},
                                              {"check", "--all"},
                                              {"blocks", "--freeing", "--all"}};
  std::vector<Command> commands;
  for (const auto& arguments : options)
    for (const bool json : {false, true}) {
      auto app = std::make_unique<CLI::App>();
      tools::set_up_program(*app, "shm-dump");
      for (auto* add : {&tools::add_info_command, &tools::add_processes_command, &tools::add_lanes_command,
                        &tools::add_queues_command, &tools::add_blocks_command, &tools::add_check_command})
        add(*app);
      Command command{std::move(app), {"shm-dump"}};
      command.arguments.insert(command.arguments.end(), arguments.begin(), arguments.end());
      command.arguments.push_back(path);
      if (json) command.arguments.emplace_back("--json");
      commands.push_back(std::move(command));
    }
  return commands;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  fuzz::arena();
  return std::freopen("/dev/null", "w", stdout) == nullptr ? 1 : 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  static auto commands = make_commands(fuzz::arena().path());
  fuzz::Input input(data, bytes);
  auto& command = commands[input.below(static_cast<std::uint32_t>(commands.size()))];
  auto& arena = fuzz::arena();
  arena.restore();
  arena.edit(input);
  command.run();
  return 0;
}
