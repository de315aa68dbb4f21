// The bytes and numbers that the ublk driver and a server exchange: include/uapi/linux/ublk_cmd.h of Linux, as far
// as we use it. Ours, because Debian 12's header is of 6.1: it has neither user copy nor GET_FEATURES nor the encoded
// opcodes. Names are ours, values and offsets the kernel's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <sys/ioctl.h>

namespace sluice::ublk_abi {

// ---- Control commands: SQE128, a ControlCommand at byte 48 of the entry ------------------------------------

struct ControlCommand {
  std::uint32_t device_id;    // any_device with add_device: the driver picks one
  std::uint16_t queue_id;     // no_queue: not about a queue
  std::uint16_t length;       // of what `address` points to
  std::uint64_t address;      // read or filled by the driver
  std::uint64_t data;         // e.g. the server's pid
  std::uint16_t path_length;  // unprivileged devices only
  std::uint16_t padding;
  std::uint32_t reserved;
};
static_assert(sizeof(ControlCommand) == 32 && alignof(ControlCommand) == 8);
static_assert(offsetof(ControlCommand, queue_id) == 4 && offsetof(ControlCommand, length) == 6);
static_assert(offsetof(ControlCommand, address) == 8 && offsetof(ControlCommand, data) == 16);
static_assert(offsetof(ControlCommand, path_length) == 24);

inline constexpr std::size_t command_offset = 48;  // io_uring_sqe::cmd, of both kinds of commands
inline constexpr std::uint32_t any_device = ~std::uint32_t{0};
inline constexpr std::uint32_t device_id_max = (1U << 20) - 1;  // a minor number
inline constexpr std::uint16_t no_queue = 0xffff;

enum class Control : std::uint8_t {
  get_queue_affinity = 0x01,
  get_device_info = 0x02,
  add_device = 0x04,
  delete_device = 0x05,
  start_device = 0x06,
  stop_device = 0x07,
  set_params = 0x08,
  get_params = 0x09,
  start_recovery = 0x10,
  end_recovery = 0x11,
  get_features = 0x13,
};

/// Whether the direction in the encoded opcode is "read" alone.
constexpr bool only_reads(Control command) noexcept {
  return command == Control::get_queue_affinity || command == Control::get_device_info ||
         command == Control::get_params || command == Control::get_features;
}

/// The opcode since Linux 6.4. Older kernels know only the bare number, newer ones may be built without it.
constexpr std::uint32_t encoded(Control command) noexcept {
  const auto number = static_cast<unsigned>(command);
  return static_cast<std::uint32_t>(only_reads(command) ? _IOR('u', number, ControlCommand)
                                                        : _IOWR('u', number, ControlCommand));
}
static_assert(encoded(Control::get_device_info) == 0x80207502);
static_assert(encoded(Control::add_device) == 0xc0207504);
static_assert(encoded(Control::end_recovery) == 0xc0207511);
static_assert(encoded(Control::get_features) == 0x80207513);

// ---- Feature flags -----------------------------------------------------------------------------------------

inline constexpr std::uint64_t f_zero_copy = 1ULL << 0;
inline constexpr std::uint64_t f_complete_in_task = 1ULL << 1;
inline constexpr std::uint64_t f_need_get_data = 1ULL << 2;
inline constexpr std::uint64_t f_recovery = 1ULL << 3;
inline constexpr std::uint64_t f_recovery_reissue = 1ULL << 4;
inline constexpr std::uint64_t f_unprivileged = 1ULL << 5;
inline constexpr std::uint64_t f_encoded_opcodes = 1ULL << 6;
inline constexpr std::uint64_t f_user_copy = 1ULL << 7;
inline constexpr std::uint64_t f_zoned = 1ULL << 8;
inline constexpr std::uint64_t f_recovery_fail_io = 1ULL << 9;
inline constexpr std::uint64_t f_update_size = 1ULL << 10;
inline constexpr std::uint64_t f_auto_buffer_registration = 1ULL << 11;
inline constexpr std::uint64_t f_quiesce = 1ULL << 12;
inline constexpr std::uint64_t f_per_io_daemon = 1ULL << 13;
inline constexpr std::uint64_t f_buffer_off_daemon = 1ULL << 14;
inline constexpr std::uint64_t f_batch_io = 1ULL << 15;
inline constexpr std::uint64_t f_integrity = 1ULL << 16;
inline constexpr std::uint64_t f_safe_stop = 1ULL << 17;
inline constexpr std::uint64_t f_no_partition_scan = 1ULL << 18;
inline constexpr std::uint64_t f_shared_memory_zero_copy = 1ULL << 19;

inline constexpr std::uint16_t features_bytes = 8;  // of what get_features fills

// ---- Device information and parameters ---------------------------------------------------------------------

inline constexpr std::uint16_t state_dead = 0;      // not started, or stopped
inline constexpr std::uint16_t state_live = 1;      // started; its server may have died a moment ago
inline constexpr std::uint16_t state_quiesced = 2;  // its server is gone, I/O waits for recovery
inline constexpr std::uint16_t state_fail_io = 3;   // its server is gone, I/O fails until recovery

struct DeviceInfo {
  std::uint16_t queues;
  std::uint16_t depth;
  std::uint16_t state;
  std::uint16_t padding0;
  std::uint32_t io_bytes_max;  // of one request
  std::uint32_t device_id;
  std::int32_t server_pid;
  std::uint32_t padding1;
  std::uint64_t flags;         // features asked for; what comes back is what the device has
  std::uint64_t server_flags;  // the server's own, kept by the driver
  std::uint32_t owner_uid;
  std::uint32_t owner_gid;
  std::uint64_t reserved[2];
};
static_assert(sizeof(DeviceInfo) == 64 && offsetof(DeviceInfo, io_bytes_max) == 8);
static_assert(offsetof(DeviceInfo, server_pid) == 16 && offsetof(DeviceInfo, flags) == 24);
static_assert(offsetof(DeviceInfo, server_flags) == 32 && offsetof(DeviceInfo, owner_uid) == 40);

inline constexpr std::uint32_t attr_read_only = 1U << 0;
inline constexpr std::uint32_t attr_volatile_cache = 1U << 2;  // FLUSH comes
inline constexpr std::uint32_t attr_fua = 1U << 3;             // counts only together with the volatile cache

struct BasicParams {
  std::uint32_t attributes;
  std::uint8_t logical_block_shift;
  std::uint8_t physical_block_shift;
  std::uint8_t io_optimal_shift;
  std::uint8_t io_minimum_shift;
  std::uint32_t sectors_max;    // of one request
  std::uint32_t chunk_sectors;  // requests do not cross multiples; 0: none
  std::uint64_t device_sectors;
  std::uint64_t virtual_boundary_mask;
};
static_assert(sizeof(BasicParams) == 32 && offsetof(BasicParams, device_sectors) == 16);

struct DiscardParams {
  std::uint32_t alignment;
  std::uint32_t granularity;  // bytes, not 0
  std::uint32_t discard_sectors_max;
  std::uint32_t write_zeroes_sectors_max;
  std::uint16_t segments_max;  // 1, if anything can be discarded
  std::uint16_t reserved;
};
static_assert(sizeof(DiscardParams) == 20);

struct DeviceNumbers {  // filled by the driver
  std::uint32_t char_major, char_minor;
  std::uint32_t disk_major, disk_minor;
};

inline constexpr std::uint32_t params_basic = 1U << 0;
inline constexpr std::uint32_t params_discard = 1U << 1;
inline constexpr std::uint32_t params_numbers = 1U << 2;
inline constexpr std::uint32_t params_memory_alignment = 1U << 4;  // Linux 6.15

/// The first members of the kernel's structure, which grows at its end: `length` says how much of it this is.
struct Params {
  std::uint32_t length;
  std::uint32_t types;  // which members count
  BasicParams basic;
  DiscardParams discard;
  DeviceNumbers numbers;
  std::uint32_t zoned[8];  // of zoned devices, not ours
  std::uint32_t memory_alignment_mask;
  std::uint32_t memory_alignment_padding;
  std::uint32_t padding;
};
static_assert(offsetof(Params, basic) == 8 && offsetof(Params, discard) == 40);
static_assert(offsetof(Params, numbers) == 60 && offsetof(Params, zoned) == 76);
static_assert(offsetof(Params, memory_alignment_mask) == 108 && sizeof(Params) == 120);

/// One discard or write-zeroes stays below 4 GiB: somewhere below its byte count has 32 bits.
inline constexpr std::uint32_t zeroing_sectors_max = ~std::uint32_t{0} >> 9;

// ---- Queues: descriptors and data commands -----------------------------------------------------------------

inline constexpr std::uint32_t depth_max = 4096;
inline constexpr std::uint32_t sector_bytes = 512;  // of all sector numbers here, whatever the block size

enum class Operation : std::uint8_t {
  read = 0,
  write = 1,
  flush = 2,
  discard = 3,
  write_zeroes = 5,
};

inline constexpr std::uint32_t io_flag_fua = 1U << 13;
inline constexpr std::uint32_t io_flag_no_unmap = 1U << 15;  // of write-zeroes: keep the blocks allocated

/// What the device wants of the server, one per tag, in memory that the driver writes and the server maps.
struct Descriptor {
  std::uint32_t operation_and_flags;  // operation:8, flags:24 in place
  std::uint32_t sectors;
  std::uint64_t first_sector;
  std::uint64_t address;  // copy mode: where the data of a WRITE lies
};
static_assert(sizeof(Descriptor) == 24 && offsetof(Descriptor, first_sector) == 8);

/// A queue's descriptors are mapped at this multiple of its number, whatever its depth.
inline constexpr std::uint64_t descriptor_stride = 98304;
static_assert(descriptor_stride == depth_max * sizeof(Descriptor) && descriptor_stride % 4096 == 0);

enum class Data : std::uint8_t {
  fetch = 0x20,             // once for each tag
  commit_and_fetch = 0x21,  // the result of one request, and ready for the next
  // Zero copy, Linux 6.15. Only by the thread that fetched the tag, between its event and its commit.
  register_buffer = 0x23,    // the request's pages become an entry of the ring's table of registered buffers
  unregister_buffer = 0x24,  // and are taken out of it; the driver ends no request whose pages are in use
};

/// In the last 16 bytes of a plain entry.
struct DataCommand {
  std::uint16_t queue_id;
  std::uint16_t tag;
  std::int32_t result;    // bytes, or -errno
  std::uint64_t address;  // copy mode: the tag's buffer; user copy: 0; of registering: the entry of the table
};
static_assert(sizeof(DataCommand) == 16 && offsetof(DataCommand, address) == 8);

constexpr std::uint32_t encoded(Data command) noexcept {
  return static_cast<std::uint32_t>(_IOWR('u', static_cast<unsigned>(command), DataCommand));
}
static_assert(encoded(Data::fetch) == 0xc0107520 && encoded(Data::commit_and_fetch) == 0xc0107521);
static_assert(encoded(Data::register_buffer) == 0xc0107523 && encoded(Data::unregister_buffer) == 0xc0107524);

/// User copy: where the data of a request lies in the character device.
inline constexpr std::uint64_t data_base = 0x80000000;
inline constexpr unsigned data_tag_shift = 25;  // so a request is at most 32 MiB
inline constexpr unsigned data_queue_shift = 41;
inline constexpr std::uint32_t io_bytes_limit = 1U << data_tag_shift;

constexpr std::uint64_t data_position(std::uint32_t queue, std::uint32_t tag, std::uint32_t offset) noexcept {
  return data_base + (std::uint64_t{queue} << data_queue_shift) + (std::uint64_t{tag} << data_tag_shift) +
         offset;
}
static_assert(data_position(1, 2, 3) == 0x80000000 + (1ULL << 41) + (2ULL << 25) + 3);

static_assert(std::is_trivially_copyable_v<DeviceInfo> && std::is_trivially_copyable_v<Params>);

}  // namespace sluice::ublk_abi
