// What can be said about ublk without its driver: features by name, limits, scripts, and the sentence that says what is
// missing.
#include "ublk/control.hpp"

#include "tests/support/child.hpp"
#include "tests/support/must.hpp"
#include "tools/sluice/fault_script.hpp"
#include "ublk/features.hpp"
#include "ublk/io_memory.hpp"

#include <catch2/catch.hpp>

#include <cerrno>

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice::test {

using namespace ublk_abi;
using sluice::tools::parse_fault_script;

namespace {

// The sanitizers bring an mlock() that does nothing.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool mlock_locks = false;
#else
constexpr bool mlock_locks = true;
#endif

void drop_capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const __user_cap_data_struct none[2]{};
  must_hold(::syscall(SYS_capset, &header, none) == 0, "capset");
}

std::string script_error(const std::string& text) {
  const auto rules = parse_fault_script(text, "script");
  return rules ? "" : rules.error().message;
}

}  // namespace

TEST_CASE("ublk features: by name, and the missing ones with the Linux that has them", "[ublk]") {
  CHECK(ublk_feature_names(f_user_copy | f_recovery) == std::vector<std::string>{"recovery", "user-copy"});
  CHECK(ublk_feature_names(1ULL << 63) == std::vector<std::string>{"bit-63"});
  CHECK(ublk_feature_names(0).empty());
  CHECK(missing_ublk_features(f_user_copy, f_user_copy | f_zoned).empty());
  CHECK(missing_ublk_features(f_user_copy | f_recovery_fail_io | f_recovery, f_recovery) ==
        "user-copy (Linux 6.5), recovery-fail-io (Linux 6.13)");
}

TEST_CASE("ublk control: without the driver, the module and the kernel option are named", "[ublk]") {
  const auto control = UblkControl::open("/dev/no-such-node");
  REQUIRE_FALSE(control);
  CHECK(control.error().status == Status::not_found);
  CHECK(control.error().message.find("/dev/no-such-node is missing") == 0);
  const bool loaded = ::access("/sys/module/ublk_drv", F_OK) == 0;
  CHECK((control.error().message.find("modprobe ublk_drv") != std::string::npos) != loaded);
  CHECK((control.error().message.find("CONFIG_BLK_DEV_UBLK") != std::string::npos) != loaded);
}

TEST_CASE("ublk control: a server runs if its process does and is no zombie", "[ublk]") {
  DeviceInfo info{};
  info.server_pid = ::getpid();
  CHECK(ublk_server_runs(info));
  CHECK(ublk_server_parent(info) == ::getppid());
  info.server_pid = -1;
  CHECK_FALSE(ublk_server_runs(info));
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t ended{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT) == 0);
  info.server_pid = child;
  CHECK_FALSE(ublk_server_runs(info));  // a zombie
  CHECK_FALSE(ublk_server_parent(info));
  ::waitpid(child, nullptr, 0);
  CHECK_FALSE(ublk_server_runs(info));
}

TEST_CASE("ublk memory: a limit on locking is raised where permitted, else both values are told", "[ublk]") {
  constexpr std::uint64_t wanted = 1 << 20;
  const auto limited = [](rlim_t soft, rlim_t hard) {
    const rlimit limit{.rlim_cur = soft, .rlim_max = hard};
    must_hold(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "setrlimit");
    drop_capabilities();
  };
  CHECK(run_child([&] {
          limited(64 << 10, 4 << 20);
          must(ensure_lockable(wanted));
          rlimit now{};
          must_hold(::getrlimit(RLIMIT_MEMLOCK, &now) == 0 && now.rlim_cur == wanted,
                    "raised to what is needed");
          must(IoMemory::map(wanted, true));
        }).code == 0);
  CHECK(run_child([&] {
          limited(64 << 10, 512 << 10);
          const auto refused = ensure_lockable(wanted);
          must_hold(!refused && refused.error().status == Status::exhausted, "refused");
          must_hold(refused.error().message.find(
                        "1024 KiB of I/O memory are to be locked, RLIMIT_MEMLOCK is 64 KiB "
                        "(at most 512 KiB)") == 0,
                    "needed and present values");
          must_hold(!mlock_locks || !IoMemory::map(wanted, true), "and the kernel agrees");
        }).code == 0);
}

TEST_CASE("ublk memory: it is page-aligned, zeroed, and nothing if nothing is wanted", "[ublk]") {
  const auto memory = must(IoMemory::map(3 * 4096, false));
  CHECK(memory.bytes().size() == 3 * 4096);
  CHECK(reinterpret_cast<std::uint64_t>(memory.bytes().data()) % 4096 == 0);
  CHECK(memory.bytes()[4096] == std::byte{0});
  CHECK(must(IoMemory::map(0, true)).bytes().empty());
}

TEST_CASE("fault script: rules, comments, empty lines", "[ublk]") {
  const auto rules =
      must(parse_fault_script("# what a bad disk does\n\n"
                              "read,write error ENOSPC every 3 after 10\n"
                              "any delay 50ms   # slow\n"
                              "flush stall after 1\n",
                              "script"));
  REQUIRE(rules.size() == 3);
  CHECK(rules[0].operations == 3);
  CHECK(rules[0].action == FaultRule::Action::error);
  CHECK(rules[0].errno_value == ENOSPC);
  CHECK(rules[0].every == 3);
  CHECK(rules[0].after == 10);
  CHECK(rules[1].operations == ~0U);
  CHECK(rules[1].delay == std::chrono::milliseconds(50));
  CHECK(rules[2].operations == 1U << 2);
  CHECK(rules[2].action == FaultRule::Action::stall);
}

TEST_CASE("fault script: what is wrong is named with its line", "[ublk]") {
  CHECK(script_error("\nreed stall").find("script:2: 'reed' is no operation, expected any, read") == 0);
  CHECK(script_error("read").find("script:1: '' is no action") == 0);
  CHECK(
      script_error("read explode").find("script:1: 'explode' is no action, expected error, delay or stall") ==
      0);
  CHECK(script_error("read error EWHAT").find("script:1: 'EWHAT' is no error") == 0);
  CHECK(script_error("read delay soon").find("script:1: ") == 0);
  CHECK(script_error("read stall every 0") == "script:1: every 0: expected at least 1");
  CHECK(script_error("read stall every x") == "script:1: 'x' is not a number");
  CHECK(script_error("read stall often 3") == "script:1: 'often' is no condition, expected every or after");
}

}  // namespace sluice::test
