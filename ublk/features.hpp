// The features of the ublk driver by name: what a kernel offers, what a device has, what is missing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Names of the set bits, lowest first; a bit that we know no name for is "bit-N".
std::vector<std::string> ublk_feature_names(std::uint64_t flags);

/// The Linux release that brought one feature, "6.5"; "" for those that every driver has, or that we do not know.
std::string_view ublk_feature_since(std::uint64_t flag) noexcept;

/// "user-copy (Linux 6.5)" for each bit of `wanted` that `offered` lacks, with commas between; "" if none.
std::string missing_ublk_features(std::uint64_t wanted, std::uint64_t offered);

}  // namespace sluice
