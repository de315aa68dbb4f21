#include "tests/unit/ublk_exercise_store.hpp"

#include "tests/support/told_device.hpp"

#include <string>

namespace sluice::test {

namespace {

SegmentOptions segment_of(std::uint64_t units) {
  auto options = small_options(units);
  options.lanes = options.processes = 6;
  options.queues = 4;
  options.cells_per_lane = 1024;
  return options;
}

}  // namespace

StoreDevice::StoreDevice(const StoreDeviceOptions& options)
    : options_(options),
      file_(segment_of(options.units)),
      session_(must(Session::open(file_.path(), "mirror"))),
      lane_(must(session_.claim_lane({.cells = 64}))),
      mirror_(options.bytes) {}

std::unique_ptr<Target> StoreDevice::open() {
  return must(StoreTarget::open({.segment = file_.path(),
                                 .name = std::string(device_name),
                                 .bytes = options_.bytes,
                                 .thin = true,
                                 .publish = std::string(options_.tells ? changes_name : ""),
                                 .policy = options_.policy,
                                 .stream_capacity = options_.stream_capacity}));
}

std::uint64_t StoreDevice::take() {
  if (!options_.tells) return 0;
  const auto& segment = session_.segment();
  const auto taken = replay_changes(*lane_, must(find_queue(segment, device_name)),
                                    must(find_queue(segment, changes_name)), mirror_);
  lane_->heap().flush();
  return taken;
}

std::vector<std::byte> StoreDevice::end(Complaints& complaints) {
  const auto& segment = session_.segment();
  std::optional<QueueId> stream;
  if (options_.tells) stream = must(find_queue(segment, changes_name));
  const auto store = must(ExtentStore::open(session_.membership(), must(find_queue(segment, device_name)),
                                            must(session_.claim_lane({.cells = 64})), stream));
  auto content = content_of(*store);
  if (store->has_untaken()) complaints.emplace_back("who follows a server has a change of it to finish");
  if (options_.tells && mirror_ != content) complaints.emplace_back("the stream has told something else");
  check_sound(segment, complaints);
  return content;
}

}  // namespace sluice::test
