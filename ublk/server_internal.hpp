// What server.cpp and server_recovery.cpp share.
#pragma once

#include "ublk/server.hpp"

#include <chrono>

namespace sluice::ublk_internal {

/// How long a server that runs may take to be gone: it may be dying. The longer one is for what a dead one had in flight:
/// if that was every tag, the driver sees it after the block layer's time-out, 30 s unless somebody shortened it. The server
/// cannot: to store that attribute is to wait for all requests, and one that is killed there would wait for itself.
inline constexpr auto alive_wait = std::chrono::seconds(2);
inline constexpr auto gone_wait = std::chrono::seconds(45);
inline constexpr auto retry_interval = std::chrono::milliseconds(20);

Expected<void> check_options(const UblkOptions& options);

/// Zero copy is for targets that do without the data.
Expected<void> check_zero_copy(const Target& target);

/// `first`, and what failed on the way back from it.
Error first_of(Error first, const Expected<void>& second);

}  // namespace sluice::ublk_internal
