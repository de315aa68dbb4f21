// A block device and its server: from the first command to the last.
//
//   add  ──────────────┐
//                      ├─> open the character device ─> a thread for each queue, every tag fetched ─┐
//   start recovery ────┘                                                                            │
//        ┌──────────────────────────────────────────────────────────────────────────────────────────┘
//        └─> start / end recovery ─> serve ─> stop ─> threads end, rings closed ─> close ─> delete
//
// The way back is the same whatever step failed: the destructor takes it from wherever it stands. A device that was to
// be recovered and could not be is left as it was found.
//
// Thread safety: one thread; statistics() from any, also while serve() shuts down. Signals are the caller's: block them before, the queue threads
// inherit the mask.
#pragma once

#include "runtime/unique_fd.hpp"
#include "ublk/control.hpp"
#include "ublk/queue.hpp"
#include "ublk/target.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sluice {

/// What becomes of the device when its server dies.
enum class RecoveryMode : std::uint8_t {
  none,     // the device goes too
  wait,     // requests that the server had fail, new ones wait for the next server
  reissue,  // all wait for the next server; a write may be executed twice
  fail_io,  // all fail until there is a new server; Linux 6.13
};

enum class DataPathChoice : std::uint8_t {
  automatic,  // user copy, else copy
  user_copy,
  copy,
  zero_copy,  // Linux 6.15
};

struct UblkOptions {
  std::uint32_t id = ublk_abi::any_device;
  std::uint32_t queues = 1;                // 1 to the number of CPUs
  std::uint32_t depth = 64;                // of each queue, 1 to 4096
  std::uint64_t io_bytes_max = 512 << 10;  // of one request, a multiple of the page, at most 32 MiB
  DataPathChoice data_path = DataPathChoice::automatic;
  RecoveryMode recovery = RecoveryMode::reissue;
  bool lock_memory = false;  // keep the I/O buffers in memory
};

class UblkServer {
 public:
  /// Opens what is to stand behind the device. dead_server: requests of one may still be under way, wait for them.
  using OpenTarget = std::function<Expected<std::unique_ptr<Target>>(bool dead_server)>;

  /// Whether there is a driver, and the options are in range: what add() finds out without doing anything.
  /// errors  bad_argument; not_found, permission, io_error  the driver
  static Expected<void> check(const UblkOptions& options);

  /// Add a device with `target` behind it and start it.
  ///
  /// errors  bad_argument  an option out of range, a feature that the kernel does not have, named; zero copy with a
  ///                       target that needs the data
  ///         exists        the id is in use
  ///         exhausted     RLIMIT_MEMLOCK, memory
  ///         not_found, permission, io_error  the driver; the target's queues
  static Expected<std::unique_ptr<UblkServer>> add(const UblkOptions& options,
                                                   std::unique_ptr<Target> target);

  /// Serve a device that a dead server has left, with the target that it was added with. It is opened once the old
  /// server is gone.
  ///
  /// errors  not_found     there is no such device
  ///         busy          its server is still there
  ///         bad_argument  the device cannot be recovered, or was added with another target; how it differs
  ///         else as above
  static Expected<std::unique_ptr<UblkServer>> recover(std::uint32_t id, bool lock_memory,
                                                       const OpenTarget& open_target);

  /// Serve the device of this target that a dead server has left, whatever options it was added with; if there is none,
  /// add one. `options.id`, unless it is any_device, names the only device that is meant. What dead servers have left
  /// of this target that cannot be recovered is deleted.
  ///
  /// errors  busy          the target has a server that lives
  ///         bad_argument  the device that is left has another size, or other attributes
  ///         else as add and recover
  static Expected<std::unique_ptr<UblkServer>> take_over(const UblkOptions& options,
                                                         const OpenTarget& open_target);
  UblkServer(const UblkServer&) = delete;
  UblkServer& operator=(const UblkServer&) = delete;
  /// Stop and delete the device.
  ~UblkServer();

  const ublk_abi::DeviceInfo& info() const noexcept { return info_; }
  DataPath data_path() const noexcept { return data_path_; }
  std::string block_path() const;

  /// Serve until `stop_fd` is readable or somebody else has stopped the device; then stop and delete it.
  /// errors  io_error  a queue failed, or a step of stopping
  Expected<void> serve(int stop_fd);

  /// Of all queues together.
  UblkStatistics statistics() const noexcept;

 private:
  class QueueThread;

  explicit UblkServer(UblkControl control) noexcept;
  Expected<void> come(const UblkOptions& options);
  Expected<void> come_back(bool lock_memory);
  Expected<void> add_device(const UblkOptions& options);
  Expected<void> await_old_server();
  Expected<void> check_target();
  Expected<void> claim_left_device();
  Expected<void> start_recovery();
  std::optional<ublk_abi::DeviceInfo> find_left_device(std::uint32_t id);
  Expected<void> take(const ublk_abi::DeviceInfo& left, bool lock_memory);
  void delete_left_device(const ublk_abi::DeviceInfo& found);
  Expected<void> open_character_device();
  Expected<void> start_queues(bool lock_memory);
  Expected<void> first_failure() const;
  void await_queues() const noexcept;
  Expected<void> shut_down();

  UblkControl control_;
  std::unique_ptr<Target> target_;
  ublk_abi::DeviceInfo info_{};
  DataPath data_path_ = DataPath::user_copy;
  bool exists_ = false;  // ours to stop and delete
  UniqueFd device_;
  UniqueFd ended_;  // an eventfd: a queue has something to say
  std::vector<std::unique_ptr<QueueThread>> queues_;
};

}  // namespace sluice
