#include "ublk/features.hpp"

#include "ublk/ublk_abi.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

namespace sluice {

namespace {

struct Feature {
  std::uint64_t flag;
  std::string_view name;
  std::string_view since;
};

using namespace ublk_abi;

constexpr std::array known = {
    Feature{f_zero_copy, "zero-copy", "6.15"},
    Feature{f_complete_in_task, "complete-in-task", ""},
    Feature{f_need_get_data, "need-get-data", ""},
    Feature{f_recovery, "recovery", "6.1"},
    Feature{f_recovery_reissue, "recovery-reissue", "6.1"},
    Feature{f_unprivileged, "unprivileged", "6.3"},
    Feature{f_encoded_opcodes, "encoded-opcodes", "6.4"},
    Feature{f_user_copy, "user-copy", "6.5"},
    Feature{f_zoned, "zoned", "6.6"},
    Feature{f_recovery_fail_io, "recovery-fail-io", "6.13"},
    Feature{f_update_size, "update-size", "6.16"},
    Feature{f_auto_buffer_registration, "auto-buffer-registration", "6.16"},
    Feature{f_quiesce, "quiesce", "6.16"},
    Feature{f_per_io_daemon, "per-io-daemon", "6.16"},
    Feature{f_buffer_off_daemon, "buffer-off-daemon", "6.17"},
    Feature{f_batch_io, "batch-io", ""},
    Feature{f_integrity, "integrity", ""},
    Feature{f_safe_stop, "safe-stop", ""},
    Feature{f_no_partition_scan, "no-partition-scan", ""},
    Feature{f_shared_memory_zero_copy, "shared-memory-zero-copy", "7.1"},
};

const Feature* find(std::uint64_t flag) noexcept {
  const auto* found = std::ranges::find(known, flag, &Feature::flag);
  return found == known.end() ? nullptr : found;
}

template <class Use>
void for_each_bit(std::uint64_t flags, Use use) {
  for (; flags != 0; flags &= flags - 1) use(flags & (~flags + 1));
}

std::string name_of(std::uint64_t flag) {
  const Feature* feature = find(flag);
  return feature != nullptr ? std::string(feature->name) : fmt::format("bit-{}", std::countr_zero(flag));
}

}  // namespace

std::vector<std::string> ublk_feature_names(std::uint64_t flags) {
  std::vector<std::string> names;
  for_each_bit(flags, [&](std::uint64_t flag) { names.push_back(name_of(flag)); });
  return names;
}

std::string_view ublk_feature_since(std::uint64_t flag) noexcept {
  const Feature* feature = find(flag);
  return feature != nullptr ? feature->since : std::string_view();
}

std::string missing_ublk_features(std::uint64_t wanted, std::uint64_t offered) {
  std::string missing;
  for_each_bit(wanted & ~offered, [&](std::uint64_t flag) {
    if (!missing.empty()) missing += ", ";
    missing += name_of(flag);
    if (const auto since = ublk_feature_since(flag); !since.empty())
      missing += fmt::format(" (Linux {})", since);
  });
  return missing;
}

}  // namespace sluice
