#include "tools/sluice/child_side.hpp"

#include <fmt/format.h>

#include <csignal>

#include <sys/prctl.h>
#include <unistd.h>

namespace sluice::tools {

namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void name_process(const std::string& name) { prctl(PR_SET_NAME, name.c_str()); }

std::vector<int> stop_signals() {
  std::vector<int> signals{SIGTERM};
  struct sigaction present{};
  if (sigaction(SIGINT, nullptr, &present) == 0 && present.sa_handler != SIG_IGN) signals.push_back(SIGINT);
  return signals;
}

const std::atomic<bool>& stop_on_signal() {
  struct sigaction action{};
  action.sa_handler = [](int) { stop_requested.store(true, std::memory_order_relaxed); };
  for (const int signal : stop_signals()) sigaction(signal, &action, nullptr);  // no SA_RESTART: waits end
  return stop_requested;
}

std::string join_names(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ","));
}

}  // namespace sluice::tools
