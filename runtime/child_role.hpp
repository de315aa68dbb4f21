// What a supervisor does with a child, by its role.
//
//   ingress, source ── queues ──> worker    connections or a program that makes messages, and who handles them
//   device ───────── a stream ──> mirror    a block device, and who follows what is written to it
#pragma once

#include <csignal>
#include <cstdint>

namespace sluice {

enum class ChildRole : std::uint8_t { ingress, source, worker, device, mirror };

struct ChildRules {
  /// A drain begins with SIGTERM to it. Else it ends by itself, once what it takes from is closed and empty.
  bool ends_on_signal;
  /// If it dies in a drain, it is started again until it has ended in order.
  bool restarted_in_drain;
  /// What the kernel sends it when the supervisor dies.
  int death_signal;
};

constexpr ChildRules rules_of(ChildRole role) noexcept {
  switch (role) {
    // Its connections die with it, or it can make more: there is nothing to come back for.
    case ChildRole::ingress:
    case ChildRole::source:
      return {.ends_on_signal = true, .restarted_in_drain = false, .death_signal = SIGTERM};
    // In order it would stop its device, and the device's users would see errors. Killed, it leaves them waiting for
    // the next one, which is why a drain needs one too.
    case ChildRole::device:
      return {.ends_on_signal = true, .restarted_in_drain = true, .death_signal = SIGKILL};
    case ChildRole::worker:
    case ChildRole::mirror: break;
  }
  return {.ends_on_signal = false, .restarted_in_drain = true, .death_signal = SIGTERM};
}

}  // namespace sluice
