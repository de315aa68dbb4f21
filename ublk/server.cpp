#include "ublk/server.hpp"

#include "ublk/features.hpp"
#include "ublk/queue_thread.hpp"
#include "ublk/server_internal.hpp"

#include <fmt/format.h>

#include <bit>
#include <cerrno>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

namespace sluice {

namespace {

using namespace ublk_abi;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;
using namespace ublk_internal;

// How long the node of a new device may take to appear: udev may be at work.
constexpr auto node_wait = seconds(5);
// How long queues get to see that their device has stopped before they are ended all the same.
constexpr auto queue_end_wait = seconds(5);

Expected<void> check_range(std::string_view name, std::uint64_t value, std::uint64_t least,
                           std::uint64_t most) {
  if (value >= least && value <= most) return {};
  return fail(Status::bad_argument,
              fmt::format("ublk: {} is {}, expected {} to {}", name, value, least, most));
}

}  // namespace

Expected<void> ublk_internal::check_zero_copy(const Target& target) {
  if (target.supports_zero_copy()) return {};
  return fail(
      Status::bad_argument,
      fmt::format("{}: this target works on the data itself, which zero-copy keeps from it; use user-copy "
                  "or copy",
                  target.describe()));
}

Expected<void> ublk_internal::check_options(const UblkOptions& options) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto cpus = static_cast<std::uint64_t>(::sysconf(_SC_NPROCESSORS_ONLN));
  for (const auto& checked : {check_range("the number of queues", options.queues, 1, cpus),
                              check_range("the depth", options.depth, 1, depth_max),
                              check_range("the largest request", options.io_bytes_max, page, io_bytes_limit)})
    if (!checked) return checked;
  if (options.io_bytes_max % page != 0)
    return fail(Status::bad_argument,
                fmt::format("ublk: the largest request is {} bytes, expected a multiple of {}",
                            options.io_bytes_max, page));
  if (options.id != any_device) return check_range("the id", options.id, 0, device_id_max);
  return {};
}

namespace {

std::uint64_t recovery_flags(RecoveryMode mode) noexcept {
  switch (mode) {
    case RecoveryMode::none: return 0;
    case RecoveryMode::wait: return f_recovery;
    case RecoveryMode::reissue: return f_recovery | f_recovery_reissue;
    case RecoveryMode::fail_io: return f_recovery | f_recovery_fail_io;
  }
  return 0;
}

std::uint8_t shift_of(std::uint32_t power_of_two) noexcept {
  return static_cast<std::uint8_t>(std::countr_zero(power_of_two));
}

Params params_of(const TargetGeometry& geometry, std::uint32_t io_bytes_max) noexcept {
  Params params{};
  params.types = params_basic;
  params.basic.attributes = (geometry.read_only ? attr_read_only : 0) |
                            (geometry.volatile_cache ? attr_volatile_cache | attr_fua : 0);
  params.basic.logical_block_shift = shift_of(geometry.logical_block);
  params.basic.physical_block_shift = shift_of(geometry.physical_block);
  params.basic.io_optimal_shift = params.basic.physical_block_shift;
  params.basic.io_minimum_shift = params.basic.physical_block_shift;
  params.basic.sectors_max = io_bytes_max / sector_bytes;
  params.basic.device_sectors = geometry.bytes / sector_bytes;
  if (geometry.discard_granularity != 0) {
    const auto granule = geometry.discard_granularity / sector_bytes;
    params.types |= params_discard;
    params.discard.granularity = geometry.discard_granularity;
    params.discard.discard_sectors_max = zeroing_sectors_max / granule * granule;
    params.discard.write_zeroes_sectors_max = params.discard.discard_sectors_max;
    params.discard.segments_max = 1;
  }
  return params;
}

// server_flags: instance:32 | the target's fingerprint:32. Nobody else's number can be the same by accident.
std::uint64_t new_identity(std::uint32_t fingerprint) noexcept {
  std::uint32_t instance = 0;
  if (::getrandom(&instance, sizeof instance, 0) != sizeof instance)
    instance = static_cast<std::uint32_t>(::getpid());
  return std::uint64_t{instance} << 32 | fingerprint;
}

}  // namespace

Error ublk_internal::first_of(Error first, const Expected<void>& second) {
  if (!second) first.message += "; then " + second.error().message;
  return first;
}

// ---- Coming ----------------------------------------------------------------------------------------------

UblkServer::UblkServer(UblkControl control) noexcept : control_(std::move(control)) {}

Expected<void> UblkServer::check(const UblkOptions& options) {
  if (auto checked = check_options(options); !checked) return checked;
  const auto control = UblkControl::open();
  return control ? Expected<void>{} : std::unexpected(control.error());
}

Expected<std::unique_ptr<UblkServer>> UblkServer::add(const UblkOptions& options,
                                                      std::unique_ptr<Target> target) {
  if (auto checked = check_options(options); !checked) return std::unexpected(std::move(checked.error()));
  if (options.data_path == DataPathChoice::zero_copy)
    if (auto checked = check_zero_copy(*target); !checked) return std::unexpected(std::move(checked.error()));
  auto control = UblkControl::open();
  if (!control) return std::unexpected(std::move(control.error()));
  std::unique_ptr<UblkServer> server(new UblkServer(std::move(*control)));
  server->target_ = std::move(target);
  if (auto came = server->come(options); !came) return std::unexpected(std::move(came.error()));
  return server;
}

Expected<void> UblkServer::come(const UblkOptions& options) {
  auto came = [&]() -> Expected<void> {
    const auto lock = control_.lock();
    if (!lock) return std::unexpected(lock.error());
    if (auto added = add_device(options); !added) return added;
    return open_character_device();
  }();
  if (came) came = start_queues(options.lock_memory);
  if (came) came = control_.start(info_.device_id);
  if (!came) return std::unexpected(first_of(std::move(came.error()), shut_down()));
  return came;
}

Expected<void> UblkServer::add_device(const UblkOptions& options) {
  DeviceInfo wanted{};
  wanted.device_id = options.id;
  wanted.queues = static_cast<std::uint16_t>(options.queues);
  wanted.depth = static_cast<std::uint16_t>(options.depth);
  wanted.io_bytes_max = static_cast<std::uint32_t>(options.io_bytes_max);
  wanted.server_pid = -1;
  wanted.server_flags = new_identity(target_->fingerprint());
  wanted.flags = recovery_flags(options.recovery);
  if (options.data_path == DataPathChoice::user_copy ||
      (options.data_path == DataPathChoice::automatic && (control_.features() & f_user_copy) != 0))
    wanted.flags |= f_user_copy;
  // User copy with it, for what a target does beyond moving data: later drivers allow that only by its own flag.
  if (options.data_path == DataPathChoice::zero_copy) wanted.flags |= f_zero_copy | f_user_copy;
  const auto lacks = [](std::uint64_t wanted_flags, std::uint64_t offered) -> Expected<void> {
    const auto missing = missing_ublk_features(wanted_flags, offered);
    if (missing.empty()) return {};
    return fail(Status::bad_argument, fmt::format("this kernel's ublk driver does not have: {}", missing));
  };
  if (control_.knows_features())
    if (auto offered = lacks(wanted.flags, control_.features()); !offered) return offered;

  auto added = control_.add(wanted);
  if (!added) return std::unexpected(std::move(added.error()));
  info_ = *added;
  exists_ = true;
  // Flags that it does not know the driver clears, and queues that it has no CPU for it leaves out.
  if (auto offered = lacks(wanted.flags, info_.flags); !offered) return offered;
  if (info_.queues != wanted.queues || info_.depth != wanted.depth ||
      info_.io_bytes_max != wanted.io_bytes_max)
    return fail(
        Status::io_error,
        fmt::format(
            "ublk device {}: the driver made {} queues of depth {} for {} bytes, {} of {} for {} were "
            "asked for",
            info_.device_id, info_.queues, info_.depth, info_.io_bytes_max, wanted.queues, wanted.depth,
            wanted.io_bytes_max));
  auto params = params_of(target_->geometry(), info_.io_bytes_max);
  if ((info_.flags & f_zero_copy) != 0) {
    // The pages of requests go to direct I/O as they are, so they must lie as that wants them.
    params.types |= params_memory_alignment;
    params.memory_alignment_mask = target_->geometry().logical_block - 1;
  }
  return control_.set_params(info_.device_id, params);
}

Expected<void> UblkServer::check_target() {
  const auto id = info_.device_id;
  if (static_cast<std::uint32_t>(info_.server_flags) != target_->fingerprint())
    return fail(Status::bad_argument,
                fmt::format("ublk device {}: it was not added with {}", id, target_->describe()));
  if ((info_.flags & f_zero_copy) != 0)
    if (auto checked = check_zero_copy(*target_); !checked) return checked;
  const auto params = control_.params(id);
  if (!params) return std::unexpected(params.error());
  const auto wanted = params_of(target_->geometry(), info_.io_bytes_max);
  if (params->basic.device_sectors != wanted.basic.device_sectors ||
      params->basic.logical_block_shift != wanted.basic.logical_block_shift ||
      params->basic.attributes != wanted.basic.attributes)
    return fail(
        Status::bad_argument,
        fmt::format(
            "ublk device {}: it has {} sectors in blocks of {}, attributes {:#x}; {} has {} in blocks "
            "of {}, attributes {:#x}",
            id, params->basic.device_sectors, 1U << params->basic.logical_block_shift,
            params->basic.attributes, target_->describe(), wanted.basic.device_sectors,
            1U << wanted.basic.logical_block_shift, wanted.basic.attributes));
  return {};
}

Expected<void> UblkServer::open_character_device() {
  const auto path = fmt::format("/dev/ublkc{}", info_.device_id);
  const auto give_up = Clock::now() + node_wait;
  for (;;) {
    device_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (device_) return {};
    if (errno == EBUSY) return fail(Status::busy, fmt::format("open {}: another server has it", path), EBUSY);
    if ((errno != ENOENT && errno != EACCES) || Clock::now() > give_up) return fail_errno("open " + path);
    std::this_thread::sleep_for(retry_interval);
  }
}

Expected<void> UblkServer::start_queues(bool lock_memory) {
  data_path_ = (info_.flags & f_zero_copy) != 0   ? DataPath::zero_copy
               : (info_.flags & f_user_copy) != 0 ? DataPath::user_copy
                                                  : DataPath::copy;
  const bool buffers =
      data_path_ == DataPath::copy || (data_path_ == DataPath::user_copy && target_->uses_buffers());
  const auto queue_bytes = buffers ? std::size_t{info_.depth} * info_.io_bytes_max : 0;
  if (lock_memory)
    if (auto lockable = ensure_lockable(std::uint64_t{queue_bytes} * info_.queues); !lockable)
      return lockable;
  ended_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ended_) return fail_errno("eventfd");

  for (std::uint16_t index = 0; index < info_.queues; ++index) {
    QueueThreadOptions options;
    options.device_id = info_.device_id;
    options.device_fd = device_.get();
    options.encoded = (info_.flags & f_encoded_opcodes) != 0;
    options.buffer_bytes = queue_bytes;
    options.lock_memory = lock_memory;
    options.queue = {.index = index,
                     .depth = info_.depth,
                     .io_bytes_max = info_.io_bytes_max,
                     .data_path = data_path_,
                     .buffers = {}};
    auto cpus = control_.affinity(info_.device_id, index);
    if (!cpus) return std::unexpected(std::move(cpus.error()));
    options.cpus = *cpus;
    queues_.push_back(std::make_unique<QueueThread>(options, *target_, ended_.get()));
  }
  for (const auto& queue : queues_)
    if (auto ready = queue->wait_ready(); !ready) return ready;
  return {};
}

// ---- Serving and going -----------------------------------------------------------------------------------

std::string UblkServer::block_path() const { return fmt::format("/dev/ublkb{}", info_.device_id); }

Expected<void> UblkServer::first_failure() const {
  for (const auto& queue : queues_)
    if (auto result = queue->result(); !result) return result;
  return {};
}

Expected<void> UblkServer::serve(int stop_fd) {
  for (;;) {
    pollfd waiting[2] = {{.fd = stop_fd, .events = POLLIN, .revents = 0},
                         {.fd = ended_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(waiting, 2, -1) > 0) break;
    if (errno != EINTR) return fail_errno("poll");
  }
  auto failed = first_failure();
  auto shut = shut_down();
  if (!failed) return std::unexpected(first_of(std::move(failed.error()), shut));
  return shut;
}

// The driver gives every tag back to queues whose device has stopped.
void UblkServer::await_queues() const noexcept {
  const auto give_up = Clock::now() + queue_end_wait;
  for (const auto& queue : queues_)
    while (!queue->has_ended() && Clock::now() < give_up) std::this_thread::sleep_for(milliseconds(1));
}

// In this order from wherever it stands: targets let go, the block device stops, its queues end and close their
// rings, the character device is closed, and deleted.
Expected<void> UblkServer::shut_down() {
  Expected<void> result;
  for (const auto& queue : queues_) queue->stop();
  if (exists_) result = control_.stop(info_.device_id);
  if (exists_) await_queues();
  for (const auto& queue : queues_) queue->join();
  device_.reset();
  if (std::exchange(exists_, false)) {
    // Somebody else may have deleted it, and a third one may have added another with its id.
    const auto now = control_.info(info_.device_id);
    const bool ours = now && now->server_flags == info_.server_flags;
    auto removed = ours ? control_.remove(info_.device_id) : Expected<void>{};
    if (!removed && removed.error().status != Status::not_found && result) result = std::move(removed);
    target_->device_ended();
  }
  if (!result && result.error().status == Status::not_found) return {};
  return result;
}

UblkServer::~UblkServer() { [[maybe_unused]] const auto nobody_to_tell = shut_down(); }

UblkStatistics UblkServer::statistics() const noexcept {
  UblkStatistics sum;
  for (const auto& queue : queues_) sum += queue->statistics();
  return sum;
}

}  // namespace sluice
