#include "tests/verify/support/stepper.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::verify {

namespace {

[[noreturn]] void run_tracee(pid_t parent, const std::function<void()>& body) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(test::exit_threw);
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(test::exit_skipped);
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tracee: %s\n", error.what());
    ::_exit(test::exit_threw);
  }
  for (;;) ::pause();
}

// What addr2line says of an offset in this program, a line per inlined frame.
std::vector<std::string> source_frames(std::uint64_t offset) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto command = fmt::format("addr2line -Cfpi -e '{}' {:#x} 2>/dev/null", program, offset);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe{::popen(command.c_str(), "re"), ::pclose};
  std::vector<std::string> frames;
  std::array<char, 2048> line{};
  while (pipe && std::fgets(line.data(), line.size(), pipe.get()) != nullptr) {
    std::string_view text(line.data());
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (constexpr std::string_view inlined = " (inlined by) "; text.starts_with(inlined))
      text.remove_prefix(inlined.size());
    std::string frame(text);
    const std::string root = std::string(SLUICE_SOURCE_DIR) + "/";
    if (const auto at = frame.find(root); at != std::string::npos) frame.erase(at, root.size());
    if (!frame.starts_with("??")) frames.push_back(std::move(frame));
  }
  return frames;
}

}  // namespace

void StepMarks::begin() const noexcept {
#if defined(__x86_64__)
  asm volatile("int3" ::: "memory");
#else
  ::raise(SIGTRAP);
#endif
}

Stepper::Stepper(const std::function<void(const StepMarks&)>& body) {
  const pid_t parent = ::getpid();
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error(fmt::format("fork: {}", std::strerror(errno)));
  if (pid_ == 0) run_tracee(parent, [&] { body(StepMarks(&*done_)); });
  wait_for_stop();
  if (pid_ < 0 || stopped_by_ != SIGTRAP) {
    const auto how = pid_ < 0 ? how_ : fmt::format("stopped by signal {}", stopped_by_);
    kill();
    if (how == fmt::format("exit code {}", test::exit_skipped))
      throw TracingForbidden("ptrace(PTRACE_TRACEME) is refused here");
    throw std::runtime_error(fmt::format("the tracee did not come to its mark: {}", how));
  }
  if (::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_EXITKILL) != 0) {
    const auto reason = fmt::format("ptrace(PTRACE_SETOPTIONS): {}", std::strerror(errno));
    kill();
    throw TracingForbidden(reason);
  }
}

Stepper::~Stepper() { kill(); }

void Stepper::wait_for_stop() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0)
    if (errno != EINTR) throw std::runtime_error(fmt::format("waitpid: {}", std::strerror(errno)));
  if (WIFSTOPPED(status)) {
    stopped_by_ = WSTOPSIG(status);
    return;
  }
  how_ = WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status))
                             : fmt::format("exit code {}", WEXITSTATUS(status));
  pid_ = -1;
}

std::uint64_t Stepper::next_address() const noexcept {
#if defined(__x86_64__)
  if (pid_ > 0)
    return static_cast<std::uint64_t>(
        ::ptrace(PTRACE_PEEKUSER, pid_, offsetof(user_regs_struct, rip), nullptr));
#endif
  return killed_at_;
}

bool Stepper::step() {
  if (pid_ < 0 || done_->load(std::memory_order_acquire) != 0) return false;
  // A signal that is not the step's own is the tracee's: it is handed on, and ends the tracee.
  const auto signal = stopped_by_ == SIGTRAP ? 0 : stopped_by_;
  if (::ptrace(PTRACE_SINGLESTEP, pid_, nullptr, signal) != 0)
    throw TracingForbidden(fmt::format("ptrace(PTRACE_SINGLESTEP): {}", std::strerror(errno)));
  wait_for_stop();
  if (pid_ < 0) return false;
  ++steps_;
  return true;
}

bool Stepper::run_to_mark() {
  if (pid_ < 0) return false;
  if (::ptrace(PTRACE_CONT, pid_, nullptr, stopped_by_ == SIGTRAP ? 0 : stopped_by_) != 0)
    throw TracingForbidden(fmt::format("ptrace(PTRACE_CONT): {}", std::strerror(errno)));
  wait_for_stop();
  return pid_ > 0 && (stopped_by_ == SIGTRAP || run_to_mark());  // another signal is handed on
}

void Stepper::move_to(std::uint64_t address) {
#if defined(__x86_64__)
  if (::ptrace(PTRACE_POKEUSER, pid_, offsetof(user_regs_struct, rip), address) != 0)
    throw TracingForbidden(fmt::format("ptrace(PTRACE_POKEUSER): {}", std::strerror(errno)));
#else
  (void)address;
#endif
}

#if defined(__x86_64__)
user_regs_struct Stepper::registers() const {
  user_regs_struct registers{};
  if (::ptrace(PTRACE_GETREGS, pid_, nullptr, &registers) != 0)
    throw TracingForbidden(fmt::format("ptrace(PTRACE_GETREGS): {}", std::strerror(errno)));
  return registers;
}
#endif

void Stepper::kill() {
  if (pid_ < 0) return;
  killed_at_ = next_address();
  ::kill(pid_, SIGKILL);
  for (int status = 0;;) {
    const auto reaped = ::waitpid(pid_, &status, 0);
    if (reaped < 0 ? errno != EINTR : !WIFSTOPPED(status)) break;
  }
  pid_ = -1;
  killed_ = true;
}

void stay_on_one_processor() noexcept {
  const int processor = ::sched_getcpu();
  if (processor < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(processor), &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

std::string describe_address(std::uint64_t address) {
  Dl_info info{};
  void* map = nullptr;
  const auto* pointer = reinterpret_cast<const void*>(address);  // NOLINT(performance-no-int-to-ptr)
  if (::dladdr1(pointer, &info, &map, RTLD_DL_LINKMAP) == 0 || map == nullptr) return "unknown code";
  const auto* module = static_cast<const link_map*>(map);
  const auto offset = address - module->l_addr;
  if (module->l_name != nullptr && *module->l_name != '\0') {  // a library, by its exported symbols
    const auto file = std::filesystem::path(module->l_name).filename().string();
    if (info.dli_sname == nullptr) return fmt::format("{}+{:#x}", file, offset);
    return fmt::format("{}+{:#x} in {}", info.dli_sname,
                       address - reinterpret_cast<std::uint64_t>(info.dli_saddr), file);
  }
  const auto frames = source_frames(offset);
  for (const auto& frame : frames)  // inlined ones first: the innermost that is not just a load or a store
    if (frame.find("atomic") == std::string::npos) return frame;
  return frames.empty() ? fmt::format("program+{:#x}", offset) : frames.front();
}

}  // namespace sluice::verify
