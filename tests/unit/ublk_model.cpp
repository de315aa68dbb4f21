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

namespace {

// user_data of an entry in the model's own ring: of a transfer, this and the tag; else the target's cookie.
constexpr std::uint64_t transfer_mark = 1ULL << 32;

}  // namespace

ModelDriver::ModelDriver(std::uint16_t depth, DataPath path) : path_(path), tags_(depth) {}

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
    tag.registered = tag.transferring = tag.give_back = false;
  }
}

bool ModelDriver::fetch(std::uint16_t tag, std::uint64_t address) noexcept {
  if (std::exchange(refuse_entry_, false)) return false;
  commands_.push_back({.kind = Command::Kind::fetch, .tag = tag, .address = address});
  return true;
}

bool ModelDriver::commit(std::uint16_t tag, std::int32_t result, std::uint64_t address) noexcept {
  if (std::exchange(refuse_entry_, false)) return false;
  commands_.push_back({.kind = Command::Kind::commit, .tag = tag, .result = result, .address = address});
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

bool ModelDriver::register_data(std::uint16_t tag) noexcept {
  commands_.push_back({.kind = Command::Kind::register_data, .tag = tag});
  return path_ == DataPath::zero_copy;
}

io_uring_sqe* ModelDriver::prepare_transfer(std::uint16_t tag) noexcept {
  if (!ring_) ring_ = must(Ring::open(64, 128));
  io_uring_sqe* entry = ring_->next(transfer_mark | tag);
  if (entry != nullptr) commands_.push_back({.kind = Command::Kind::transfer, .tag = tag, .entry = entry});
  return entry;
}

bool ModelDriver::unregister_data(std::uint16_t tag) noexcept {
  commands_.push_back({.kind = Command::Kind::unregister_data, .tag = tag});
  return true;
}

void ModelDriver::violate(std::uint16_t tag, const char* why) {
  violations_.push_back(fmt::format("tag {}: {}", tag, why));
}

void ModelDriver::run(const Command& command) {
  const auto refuse = [&](int error, const char* why) {
    violate(command.tag, why);
    post({.number = command.tag, .result = -error});
  };
  if (command.tag >= tags_.size()) return refuse(EINVAL, "there is no such tag");
  Tag& tag = tags_[command.tag];
  const bool fetch = command.kind == Command::Kind::fetch;
  switch (command.kind) {
    case Command::Kind::register_data: return run_registration(command);
    case Command::Kind::transfer: return run_transfer(command);
    case Command::Kind::unregister_data:
      tag.give_back = true;
      if (!tag.transferring) run_give_back(command.tag);
      return;
    case Command::Kind::fetch:
    case Command::Kind::commit: break;
  }
  if (tag.owner == Owner::driver) return refuse(EBUSY, "the driver has it already");
  if (fetch != (tag.owner == Owner::nobody)) return refuse(EINVAL, "fetched twice, or committed first");
  if ((path_ == DataPath::copy) != (command.address != 0))
    return refuse(EINVAL, "an address exactly in copy mode");
  if (tag.registered || tag.transferring) return refuse(EBUSY, "committed while its pages are registered");
  if (const int error = std::exchange(refuse_errno_, 0); error != 0 && !fetch)
    return post({.number = command.tag, .result = -error});

  // The address first: what completes below copies from this one.
  tag.address = command.address;
  tag.addresses.push_back(command.address);
  tag.owner = Owner::driver;
  if (!fetch) complete(command.tag, command.result);
}

// ---- Zero copy -------------------------------------------------------------------------------------------

void ModelDriver::run_registration(const Command& command) {
  Tag& tag = tags_[command.tag];
  const auto refuse = [&](int error) {
    post({.kind = DriverEvent::Kind::registered, .number = command.tag, .result = -error});
  };
  if (const int error = std::exchange(registration_errno_, 0); error != 0) return refuse(error);
  if (tag.owner != Owner::server || tag.pages == nullptr || tag.pages->bytes().empty()) {
    violate(command.tag, "registered without a request that has data");
    return refuse(EINVAL);
  }
  if (tag.registered) {
    violate(command.tag, "registered twice");
    return refuse(EBUSY);
  }
  tag.registered = true;
}

// The entry was made for pages without an address; in the model's ring it becomes one for memory of the model.
void ModelDriver::run_transfer(const Command& command) {
  Tag& tag = tags_[command.tag];
  io_uring_sqe& entry = *command.entry;
  entries_.push_back(entry);
  const bool reads = entry.opcode == IORING_OP_READ_FIXED;
  const auto pages = tag.pages != nullptr ? tag.pages->bytes() : std::span<std::byte>{};
  int error = 0;
  if (!tag.registered || entry.buf_index != command.tag) {
    error = EFAULT;
  } else if (entry.addr > pages.size() || entry.len > pages.size() - entry.addr) {
    violate(command.tag, "a transfer beyond the request");
    error = EFAULT;
  } else if (reads != (tag.request.operation == Operation::read)) {
    violate(command.tag, "a transfer against the direction of the request");
    error = EFAULT;
  }
  if ((entry.flags & IOSQE_IO_HARDLINK) == 0)
    violate(command.tag, "a transfer that giving back does not wait for");
  const auto own = entry.user_data;
  if (error != 0) {
    io_uring_prep_nop(&entry);
    entry.user_data = transfer_mark << 1;  // nobody's
    post({.kind = DriverEvent::Kind::transfer, .number = command.tag, .result = -error});
  } else {
    entry.opcode = reads ? IORING_OP_READ : IORING_OP_WRITE;
    entry.flags = 0;
    entry.buf_index = 0;
    entry.addr = reinterpret_cast<std::uint64_t>(pages.data() + entry.addr);
    entry.len = std::min(entry.len, transfer_bytes_max_);
    entry.user_data = own;
    tag.transferring = true;
  }
  ++in_ring_;
}

void ModelDriver::run_give_back(std::uint16_t number) {
  Tag& tag = tags_[number];
  tag.give_back = false;
  const bool was = std::exchange(tag.registered, false);
  post({.kind = DriverEvent::Kind::unregistered, .number = number, .result = was ? 0 : -EINVAL});
}

void ModelDriver::on_completion(const io_uring_cqe& completion) {
  if ((completion.user_data & transfer_mark << 1) != 0) return;
  const auto number = static_cast<std::uint32_t>(completion.user_data);
  const bool transfer = (completion.user_data & transfer_mark) != 0;
  post({.kind = transfer ? DriverEvent::Kind::transfer : DriverEvent::Kind::target,
        .number = number,
        .result = completion.res,
        .flags = completion.flags});
  if (!transfer) return;
  tags_[number].transferring = false;
  if (tags_[number].give_back) run_give_back(static_cast<std::uint16_t>(number));
}

// ---- Requests --------------------------------------------------------------------------------------------

void ModelDriver::complete(std::uint16_t number, std::int32_t result) {
  Tag& tag = tags_[number];
  ModelResult done{.tag = number, .result = result, .data = {}};
  if (tag.request.operation == Operation::read && result > 0) {
    if (path_ == DataPath::copy) {
      tag.request.data.resize(static_cast<std::size_t>(result));
      std::memcpy(tag.request.data.data(), reinterpret_cast<const void*>(tag.address),
                  tag.request.data.size());
    }
    if (path_ == DataPath::zero_copy) {
      const auto pages = tag.pages->bytes();
      tag.request.data.assign(pages.begin(), pages.end());
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
  const bool write = request.operation == Operation::write;
  if (path_ == DataPath::copy && write)
    std::ranges::copy(request.data, reinterpret_cast<std::byte*>(tag.address));
  if (path_ == DataPath::zero_copy) {
    const bool moves = write || request.operation == Operation::read;
    tag.pages = std::make_unique<IoMemory>(
        must(IoMemory::map(moves ? std::size_t{request.sectors} * sector_bytes : 0, false)));
    if (write) std::ranges::copy(request.data, tag.pages->bytes().begin());
    // What others had in memory: a READ that does not fill it all shows it.
    if (!write) std::ranges::fill(tag.pages->bytes(), std::byte{0xee});
  }
  post({.number = number, .result = 0});
}

Status ModelDriver::wait(std::chrono::nanoseconds timeout) noexcept {
  timeout_ = timeout;
  ++enters_;
  failed_errno_ = std::exchange(wait_errno_, 0);
  if (failed_errno_ != 0) return Status::io_error;
  const auto commits =
      static_cast<std::size_t>(std::ranges::count(commands_, Command::Kind::commit, &Command::kind));
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
    for (const io_uring_cqe* completion : batch) on_completion(*completion);
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
  if (path_ == DataPath::copy) violations_.emplace_back("user copy of a device that has none");
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
  std::byte* to = path_ == DataPath::zero_copy ? tags_[tag].pages->bytes().data() : data.data();
  std::memcpy(to + offset, from.data(), static_cast<std::size_t>(count));
  return count;
}

}  // namespace sluice::test
