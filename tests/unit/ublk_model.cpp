#include "tests/unit/ublk_model.hpp"

#include "tests/support/must.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

namespace sluice::test {

using namespace ublk_abi;

std::vector<std::byte> pattern(std::uint64_t seed, std::size_t bytes) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> content(bytes);
  for (auto& byte : content) byte = static_cast<std::byte>(random());
  return content;
}

ModelDriver::ModelDriver(std::uint16_t depth, bool copies) : copies_(copies), tags_(depth) {}

bool ModelDriver::can_ask() const {
  return std::ranges::any_of(tags_, [](const Tag& tag) { return tag.owner == Owner::driver && !tag.asked; });
}

std::uint16_t ModelDriver::ask(ModelRequest request) {
  const auto free =
      std::ranges::find_if(tags_, [](const Tag& tag) { return tag.owner == Owner::driver && !tag.asked; });
  must_hold(free != tags_.end(), "the driver has a free tag");
  if (request.operation == Operation::write && request.data.empty())
    request.data = pattern(request.sector, std::size_t{request.sectors} * sector_bytes);
  free->request = std::move(request);
  free->asked = true;
  return static_cast<std::uint16_t>(free - tags_.begin());
}

std::size_t ModelDriver::with_driver() const {
  return static_cast<std::size_t>(std::ranges::count(tags_, Owner::driver, &Tag::owner));
}

void ModelDriver::server_died(bool reissue) {
  commands_.clear();
  events_.clear();
  prepared_.clear();
  performed_.clear();
  for (std::uint16_t number = 0; number < tags_.size(); ++number) {
    Tag& tag = tags_[number];
    if (tag.owner == Owner::server) {
      if (reissue)
        tag.asked = true;
      else
        results_.push_back({.tag = number, .result = -EIO, .data = {}});
      if (reissue && tag.request.operation == Operation::read) tag.request.data.clear();
    }
    tag.owner = Owner::nobody;
  }
}

bool ModelDriver::fetch(std::uint16_t tag, std::uint64_t address) noexcept {
  if (std::exchange(refuse_entry_, false)) return false;
  commands_.push_back({true, tag, 0, address});
  return true;
}

bool ModelDriver::commit(std::uint16_t tag, std::int32_t result, std::uint64_t address) noexcept {
  if (std::exchange(refuse_entry_, false)) return false;
  commands_.push_back({false, tag, result, address});
  return true;
}

io_uring_sqe* ModelDriver::prepare(std::uint32_t cookie) noexcept {
  if (std::exchange(refuse_entry_, false)) return nullptr;
  if (performer_) {
    auto& entry = performed_.emplace_back();
    std::memset(&entry, 0, sizeof entry);
    io_uring_sqe_set_data64(&entry, cookie);
    return &entry;
  }
  if (!ring_) ring_ = must(Ring::open(64, 128));
  io_uring_sqe* entry = ring_->next(cookie);
  if (entry != nullptr) prepared_.push_back(entry);
  return entry;
}

void ModelDriver::run(const Command& command) {
  const auto refuse = [&](int error, const char* why) {
    violations_.push_back(fmt::format("tag {}: {}", command.tag, why));
    post({.number = command.tag, .result = -error});
  };
  if (command.tag >= tags_.size()) return refuse(EINVAL, "there is no such tag");
  Tag& tag = tags_[command.tag];
  if (tag.owner == Owner::driver) return refuse(EBUSY, "the driver has it already");
  if (command.fetch != (tag.owner == Owner::nobody))
    return refuse(EINVAL, "fetched twice, or committed first");
  if (copies_ != (command.address != 0)) return refuse(EINVAL, "an address exactly in copy mode");
  if (const int error = std::exchange(refuse_errno_, 0); error != 0 && !command.fetch)
    return post({.number = command.tag, .result = -error});

  // The address first: what completes below copies from this one.
  tag.address = command.address;
  tag.addresses.push_back(command.address);
  tag.owner = Owner::driver;
  if (!command.fetch) complete(command.tag, command.result);
}

void ModelDriver::complete(std::uint16_t number, std::int32_t result) {
  Tag& tag = tags_[number];
  ModelResult done{.tag = number, .result = result, .data = {}};
  if (tag.request.operation == Operation::read && result > 0) {
    if (copies_) {
      tag.request.data.resize(static_cast<std::size_t>(result));
      std::memcpy(tag.request.data.data(), reinterpret_cast<const void*>(tag.address),
                  tag.request.data.size());
    }
    done.data = tag.request.data;
  }
  results_.push_back(std::move(done));
}

void ModelDriver::deliver(std::uint16_t number) {
  Tag& tag = tags_[number];
  tag.asked = false;
  tag.owner = Owner::server;
  const ModelRequest& request = tag.request;
  tag.descriptor = {.operation_and_flags = static_cast<std::uint32_t>(request.operation) | request.flags,
                    .sectors = request.sectors,
                    .first_sector = request.sector,
                    .address = tag.address};
  if (copies_ && request.operation == Operation::write)
    std::ranges::copy(request.data, reinterpret_cast<std::byte*>(tag.address));
  post({.number = number, .result = 0});
}

Status ModelDriver::wait(std::chrono::nanoseconds timeout) noexcept {
  timeout_ = timeout;
  ++enters_;
  failed_errno_ = std::exchange(wait_errno_, 0);
  if (failed_errno_ != 0) return Status::io_error;
  const auto commits = static_cast<std::size_t>(std::ranges::count(commands_, false, &Command::fetch));
  if (commits != 0) batches_.push_back(commits);
  for (const Command& command : std::exchange(commands_, {})) run(command);
  for (std::uint16_t tag = 0; tag < tags_.size(); ++tag) {
    if (tags_[tag].owner != Owner::driver) continue;
    if (tags_[tag].asked) {
      deliver(tag);
    } else if (stopping_) {
      tags_[tag].owner = Owner::gone;
      post({.number = tag, .result = -ENODEV});
    }
  }
  if (std::exchange(woken_, false)) post({.kind = DriverEvent::Kind::wake});
  perform();
  return ring_ ? reap_ring() : Status::ok;
}

void ModelDriver::perform() {
  for (auto entry = performed_.begin(); entry != performed_.end();) {
    const auto result = performer_(*entry);
    if (!result) {
      ++entry;
      continue;
    }
    post({.kind = DriverEvent::Kind::target,
          .number = static_cast<std::uint32_t>(entry->user_data),
          .result = *result});
    entry = performed_.erase(entry);
  }
}

Status ModelDriver::reap_ring() {
  for (const io_uring_sqe* entry : prepared_) entries_.push_back(*entry);
  in_ring_ += std::exchange(prepared_, {}).size();
  // Nothing else can happen: wait for the target's own I/O, if it has any.
  const bool quiet = events_.empty() && in_ring_ != 0;
  const Status waited =
      ring_->wait(quiet ? std::chrono::nanoseconds(std::chrono::seconds(10)) : std::chrono::nanoseconds(1));
  if (waited == Status::io_error) return waited;
  for (auto batch = ring_->completions(); !batch.empty(); batch = ring_->completions()) {
    for (const io_uring_cqe* completion : batch)
      post({.kind = DriverEvent::Kind::target,
            .number = static_cast<std::uint32_t>(completion->user_data),
            .result = completion->res,
            .flags = completion->flags});
    in_ring_ -= batch.size();
    ring_->advance(batch.size());
  }
  return Status::ok;
}

std::span<const DriverEvent> ModelDriver::events() noexcept {
  batch_.assign(events_.begin(), events_.end());
  events_.clear();
  return batch_;
}

std::optional<Descriptor> ModelDriver::descriptor(std::uint16_t tag) const noexcept {
  if (tag >= tags_.size()) return std::nullopt;
  return tags_[tag].descriptor;
}

// How much of a copy the driver makes, or why it makes none.
ssize_t ModelDriver::copied(std::uint16_t tag, Operation operation, std::uint32_t offset, std::size_t count) {
  if (copies_) violations_.emplace_back("user copy of a device that has none");
  if (tag >= tags_.size() || tags_[tag].owner != Owner::server) return -EINVAL;
  if (tags_[tag].request.operation != operation) return -EACCES;
  const auto bytes = std::size_t{tags_[tag].request.sectors} * sector_bytes;
  if (offset > bytes) return -EINVAL;
  if (copy_errno_ != 0) return -copy_errno_;
  return static_cast<ssize_t>(std::min({count, bytes - offset, copy_bytes_max_}));
}

ssize_t ModelDriver::read_data(std::uint16_t tag, std::uint32_t offset, std::span<std::byte> to) noexcept {
  const auto count = copied(tag, Operation::write, offset, to.size());
  if (count > 0)
    std::memcpy(to.data(), tags_[tag].request.data.data() + offset, static_cast<std::size_t>(count));
  return count;
}

ssize_t ModelDriver::write_data(std::uint16_t tag, std::uint32_t offset,
                                std::span<const std::byte> from) noexcept {
  const auto count = copied(tag, Operation::read, offset, from.size());
  if (count <= 0) return count;
  auto& data = tags_[tag].request.data;
  data.resize(std::size_t{tags_[tag].request.sectors} * sector_bytes);
  std::memcpy(data.data() + offset, from.data(), static_cast<std::size_t>(count));
  return count;
}

}  // namespace sluice::test
