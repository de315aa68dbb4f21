// Devices that a dead server has left: recovering one, and finding the one of a target.
#include "ublk/abandoned_queues.hpp"
#include "ublk/queue_thread.hpp"
#include "ublk/server_internal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace sluice {

namespace {

using namespace ublk_abi;
using namespace ublk_internal;
using Clock = std::chrono::steady_clock;

}  // namespace

// ---- Recovering ------------------------------------------------------------------------------------------

Expected<std::unique_ptr<UblkServer>> UblkServer::recover(std::uint32_t id, bool lock_memory,
                                                          const OpenTarget& open_target) {
  auto control = UblkControl::open();
  if (!control) return std::unexpected(std::move(control.error()));
  auto info = control->info(id);
  if (!info) return std::unexpected(std::move(info.error()));
  std::unique_ptr<UblkServer> server(new UblkServer(std::move(*control)));
  server->info_ = *info;
  if (auto free = server->await_old_server(); !free) return std::unexpected(std::move(free.error()));
  auto target = open_target(true);
  if (!target) return std::unexpected(std::move(target.error()));
  server->target_ = std::move(*target);
  if (auto came = server->come_back(lock_memory); !came) return std::unexpected(std::move(came.error()));
  return server;
}

// The device is info_'s.
Expected<void> UblkServer::come_back(bool lock_memory) {
  auto came = check_target();
  if (came) came = claim_left_device();
  if (came) came = start_queues(lock_memory);
  if (came) came = control_.end_recovery(info_.device_id);
  if (!came) return std::unexpected(first_of(std::move(came.error()), shut_down()));
  exists_ = true;
  if (auto now = control_.info(info_.device_id)) info_ = *now;
  return came;
}

// From the first command of a recovery until the character device is open, two that recover it could do each other harm.
Expected<void> UblkServer::claim_left_device() {
  const auto lock = control_.lock();
  if (!lock) return std::unexpected(lock.error());
  const auto now = control_.info(info_.device_id);
  if (!now) return std::unexpected(now.error());
  if (now->server_flags != info_.server_flags || ublk_server_runs(*now))
    return fail(Status::busy,
                fmt::format("ublk device {}: another process has taken it over", info_.device_id), EBUSY);
  if (expects_every_queue_fetched(control_.features()))
    if (auto whole = fetch_and_abandon(*now, now->queues); !whole) return whole;
  if (auto started = start_recovery(); !started) return started;
  return open_character_device();
}

// The character device can be open once: it is free when the old server, and all that it had in the kernel, is gone.
Expected<void> UblkServer::await_old_server() {
  const auto id = info_.device_id;
  if ((info_.flags & f_recovery) == 0)
    return fail(Status::bad_argument,
                fmt::format("ublk device {}: it was added without recovery, it can only be deleted", id));
  const auto path = fmt::format("/dev/ublkc{}", id);
  const auto begun = Clock::now();
  for (;;) {
    const int probe = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    const int error = errno;
    if (probe >= 0) {
      ::close(probe);
      return {};
    }
    if (error != EBUSY) return fail_errno("open " + path, error);
    if (const auto now = control_.info(id)) info_ = *now;  // who serves it may have changed
    const bool runs = ublk_server_runs(info_);
    if (Clock::now() - begun > (runs ? alive_wait : gone_wait))
      return fail(
          Status::busy,
          runs ? fmt::format("ublk device {}: its server, pid {}, is still there", id, info_.server_pid)
               : fmt::format("ublk device {}: another process has {}, or what its dead server had in flight "
                             "does not end",
                             id, path),
          EBUSY);
    std::this_thread::sleep_for(retry_interval);
  }
}

Expected<void> UblkServer::start_recovery() {
  const auto id = info_.device_id;
  const auto give_up = Clock::now() + gone_wait;
  for (;;) {
    auto started = control_.start_recovery(id);
    if (!started && started.error().errno_value == EINVAL)
      return fail(
          Status::bad_argument,
          fmt::format("ublk device {}: the driver does not let it be recovered, it can only be deleted", id),
          EINVAL);
    // The driver is still taking back what the old server had.
    if (started || started.error().status != Status::busy || Clock::now() > give_up) return started;
    std::this_thread::sleep_for(retry_interval);
  }
}

// ---- Finding ---------------------------------------------------------------------------------------------

namespace {

bool has_ended(const DeviceInfo& info) { return !ublk_server_runs(info); }

// Whether a dead server has left anything: then what it had in flight may be there too.
bool any_left(UblkControl& control) {
  return std::ranges::any_of(UblkControl::ids(), [&](std::uint32_t id) {
    const auto info = control.info(id);
    return info && has_ended(*info);
  });
}

// Whether a server that runs may be dying. One with our parent is not: whoever starts both would not start a second one
// for the first.
bool may_be_dying(const DeviceInfo& info) {
  const auto parent = ublk_server_parent(info);
  return parent && (*parent == 0 || *parent != ::getppid());
}

// The target may be in use by a server that is dying, by what is left of a dead one, or by one that lives.
Expected<std::unique_ptr<Target>> open_patiently(UblkControl& control,
                                                 const UblkServer::OpenTarget& open_target) {
  const auto give_up = Clock::now() + alive_wait;
  for (;;) {
    auto target = open_target(any_left(control));
    if (target || target.error().status != Status::busy || Clock::now() > give_up) return target;
    std::this_thread::sleep_for(retry_interval);
  }
}

}  // namespace

std::optional<DeviceInfo> UblkServer::find_left_device(std::uint32_t wanted_id) {
  const auto give_up = Clock::now() + alive_wait;
  for (;;) {
    bool dying = false;
    for (const auto id : UblkControl::ids()) {
      const auto info = control_.info(id);
      if (!info || static_cast<std::uint32_t>(info->server_flags) != target_->fingerprint()) continue;
      if (wanted_id != any_device && id != wanted_id) continue;
      if (ublk_server_runs(*info))
        dying = dying || may_be_dying(*info);
      else if (info->state != state_dead && (info->flags & f_recovery) != 0)
        return *info;
      else
        delete_left_device(*info);
    }
    if (!dying || Clock::now() > give_up) return std::nullopt;
    std::this_thread::sleep_for(retry_interval);
  }
}

// One that cannot be recovered: it never started, or was added without recovery. If it cannot be deleted either, it only
// keeps its id.
void UblkServer::delete_left_device(const DeviceInfo& found) {
  const auto lock = control_.lock();
  if (!lock) return;
  // Open: its server lives and is about to start it, or has not been cleared away.
  const auto path = fmt::format("/dev/ublkc{}", found.device_id);
  if (!UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC)) && errno == EBUSY) return;
  const auto now = control_.info(found.device_id);
  if (!now || now->server_flags != found.server_flags) return;
  [[maybe_unused]] const auto stopped = control_.stop(found.device_id);
  [[maybe_unused]] const auto removed = control_.remove(found.device_id);
}

Expected<std::unique_ptr<UblkServer>> UblkServer::take_over(const UblkOptions& options,
                                                            const OpenTarget& open_target) {
  if (auto checked = check_options(options); !checked) return std::unexpected(std::move(checked.error()));
  auto control = UblkControl::open();
  if (!control) return std::unexpected(std::move(control.error()));
  auto target = open_patiently(*control, open_target);
  if (!target) return std::unexpected(std::move(target.error()));
  if (options.data_path == DataPathChoice::zero_copy)
    if (auto checked = check_zero_copy(**target); !checked)
      return std::unexpected(std::move(checked.error()));
  std::unique_ptr<UblkServer> server(new UblkServer(std::move(*control)));
  server->target_ = std::move(*target);

  const auto give_up = Clock::now() + gone_wait;
  for (;;) {
    const auto left = server->find_left_device(options.id);
    auto came = left ? server->take(*left, options.lock_memory) : server->come(options);
    if (came) return server;
    // Somebody else took it: then there may be another, or none.
    if (came.error().status != Status::busy || Clock::now() > give_up)
      return std::unexpected(std::move(came.error()));
    server->queues_.clear();
    std::this_thread::sleep_for(retry_interval);
  }
}

Expected<void> UblkServer::take(const DeviceInfo& left, bool lock_memory) {
  info_ = left;
  if (auto gone = await_old_server(); !gone) return gone;
  return come_back(lock_memory);
}

}  // namespace sluice
