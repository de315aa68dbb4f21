// The driver's control node: one function for each command, each an Error with a sentence when it fails.
//
// Commands are io_uring entries of 128 bytes on /dev/ublk-control; a worker thread of the kernel runs them, because
// they may sleep. This waits for each.
// Thread safety: the thread that opened it.
#pragma once

#include "runtime/ring.hpp"
#include "runtime/unique_fd.hpp"
#include "ublk/ublk_abi.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sched.h>
#include <sys/types.h>

namespace sluice {

class UblkControl {
 public:
  /// errors  not_found   there is no driver here; which module or kernel option is missing
  ///         permission  the node may not be opened
  ///         io_error    io_uring, or the node's driver is not ublk
  static Expected<UblkControl> open(const std::string& node = "/dev/ublk-control");

  /// What the driver offers, f_…; nothing to go by (0) before Linux 6.5, see knows_features().
  std::uint64_t features() const noexcept { return features_; }
  /// False: the driver is older than the command that tells. What a device then has, add() returns.
  bool knows_features() const noexcept { return knows_features_; }

  /// Make the character device. `wanted.device_id` names it, or any_device.
  /// returns  what the device is: it may have fewer features or queues than wanted
  /// errors   exists  the id is in use
  Expected<ublk_abi::DeviceInfo> add(const ublk_abi::DeviceInfo& wanted);
  /// errors of all below  not_found  there is no such device
  Expected<void> set_params(std::uint32_t id, ublk_abi::Params params);
  Expected<ublk_abi::Params> params(std::uint32_t id);
  Expected<ublk_abi::DeviceInfo> info(std::uint32_t id);
  /// The CPUs whose requests come to `queue`.
  Expected<cpu_set_t> affinity(std::uint32_t id, std::uint16_t queue);
  /// Make the block device. Every tag must have been fetched, and the server must be serving already: the kernel
  /// reads the partition table before this returns.
  Expected<void> start(std::uint32_t id);
  /// Take the block device away; waits for the requests that its server has.
  Expected<void> stop(std::uint32_t id);
  /// Delete it all; waits until its server has closed the character device.
  Expected<void> remove(std::uint32_t id);
  /// Ready for a new server. errors  busy  the old one is still there
  Expected<void> start_recovery(std::uint32_t id);
  /// The new server has fetched every tag: requests go on.
  Expected<void> end_recovery(std::uint32_t id);

  /// Held by who makes a device until its character device is open, and by who takes one over or clears one away: what
  /// lies between two of those commands looks like something that a dead server has left.
  class Lock {
   public:
    explicit Lock(int fd) noexcept : fd_(fd) {}
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    Lock(Lock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock();

   private:
    int fd_;
  };
  /// errors  busy  another process has it for too long
  Expected<Lock> lock() const;

  /// The ids of all devices, whoever made them, ascending.
  static std::vector<std::uint32_t> ids();

 private:
  struct Arguments {
    std::uint32_t id = ublk_abi::any_device;
    void* memory = nullptr;
    std::uint16_t bytes = 0;
    std::uint64_t data = 0;
  };

  UblkControl() = default;
  Expected<int> run(ublk_abi::Control command, const Arguments& arguments);
  Expected<void> run_on(std::uint32_t id, ublk_abi::Control command, std::string_view what,
                        Arguments arguments);

  std::unique_ptr<Ring> ring_;
  UniqueFd node_;
  std::uint64_t features_ = 0;
  bool knows_features_ = false;
};

/// Whether the process that serves the device, as the driver knows it, is there and neither ending nor a zombie.
bool ublk_server_runs(const ublk_abi::DeviceInfo& info);

/// The parent of the process that serves the device, if that runs; 0 if it is in another pid namespace.
std::optional<pid_t> ublk_server_parent(const ublk_abi::DeviceInfo& info);

/// "dead", "live", "quiesced", "fail-io"
std::string_view ublk_state_name(std::uint16_t state) noexcept;

}  // namespace sluice
