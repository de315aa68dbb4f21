// A broadcast with durable subscribers.
#pragma once

#include "ipc/subscription.hpp"
#include "tests/unit/broadcast_rig.hpp"

namespace sluice::test {

inline constexpr std::string_view durable_name = "stage-2";

struct DurableRig : BroadcastRig {
  using BroadcastRig::BroadcastRig;

  std::expected<Subscriber, Status> try_join(SubscriberPolicy policy = SubscriberPolicy::block,
                                             Start start = {}, std::string_view name = durable_name) {
    return Subscriber::join(*other, queue, {policy, start, name});
  }
  Subscriber join(SubscriberPolicy policy = SubscriberPolicy::block, Start start = {},
                  std::string_view name = durable_name) {
    return must(try_join(policy, start, name));
  }
  ClaimState state(std::size_t i) const { return subscriber_claim::state(subscriber_row(i).claim); }
  bool has_violation(std::string_view what) const {
    for (const auto& violation : audit(segment()).violations)
      if (violation.what.find(what) != std::string::npos) return true;
    return false;
  }
};

}  // namespace sluice::test
