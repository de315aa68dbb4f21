// A model of the ublk driver behind DriverQueue: who owns a tag, when data is copied where, whose pages are lent to the
// ring, what is refused. It follows the driver of Linux 6.12, in zero copy what is documented of 6.15; a protocol
// violation of the server is written down, and answered as the driver would.
#pragma once

#include "runtime/ring.hpp"
#include "ublk/driver_queue.hpp"
#include "ublk/io_memory.hpp"
#include "ublk/queue.hpp"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace sluice::test {

using Operation = ublk_abi::Operation;

struct ModelRequest {
  Operation operation = Operation::read;
  std::uint64_t sector = 0;
  std::uint32_t sectors = 8;
  std::uint32_t flags = 0;
  std::vector<std::byte> data = {};  // of a write; a read's, once it is done
};

struct ModelResult {
  std::uint16_t tag = 0;
  std::int32_t result = 0;
  std::vector<std::byte> data;  // of a read, as the block layer got it
};

class ModelDriver final : public DriverQueue {
 public:
  ModelDriver(std::uint16_t depth, DataPath path);

  // ---- What the test does ------------------------------------------------------------------------------

  /// A request for the lowest tag that the driver has; it arrives with the next wait().
  std::uint16_t ask(ModelRequest request);
  /// The device stops: tags come back with -ENODEV as soon as the driver has them.
  void stop_device() { stopping_ = true; }
  /// What write_data() and read_data() do next: move at most so many bytes, or return an errno.
  void limit_copies(std::size_t bytes_max, int error = 0) {
    copy_bytes_max_ = bytes_max;
    copy_errno_ = error;
  }
  /// The next commit of any tag is answered with -error.
  void refuse_commit(int error) { refuse_errno_ = error; }
  /// The next wait() hands nothing over and fails with that errno.
  void fail_wait(int error) { wait_errno_ = error; }
  /// The next fetch(), commit() or prepare() has no entry.
  void refuse_entry() { refuse_entry_ = true; }
  /// Who does the target's entries, instead of a kernel: returns the result, or nothing for one that is still under
  /// way and asked about again by the next wait().
  using Performer = std::function<std::optional<std::int32_t>(const io_uring_sqe&)>;
  void perform_entries(Performer performer) { performer_ = std::move(performer); }
  /// The server is gone with all that it had prepared; the next one fetches every tag. Requests that it had arrive
  /// again with `reissue`, and else end with EIO.
  void server_died(bool reissue);

  /// The next registration of any tag's pages is answered with -error.
  void refuse_registration(int error) { registration_errno_ = error; }
  /// What each transfer does next: move at most so many bytes.
  void limit_transfers(std::uint32_t bytes_max) { transfer_bytes_max_ = bytes_max; }

  const std::vector<ModelResult>& results() const { return results_; }
  const std::vector<std::string>& violations() const { return violations_; }
  /// How many commits each wait() handed over.
  const std::vector<std::size_t>& batches() const { return batches_; }
  /// Addresses that were given for one tag, in order.
  const std::vector<std::uint64_t>& addresses(std::uint16_t tag) const { return tags_.at(tag).addresses; }
  /// Entries of the target, as they were submitted.
  const std::vector<io_uring_sqe>& entries() const { return entries_; }
  std::size_t with_driver() const;
  /// Whether ask() has a tag.
  bool can_ask() const;
  /// What the last wait() was given.
  std::chrono::nanoseconds timeout() const { return timeout_; }

  // ---- DriverQueue -------------------------------------------------------------------------------------

  bool fetch(std::uint16_t tag, std::uint64_t address) noexcept override;
  bool commit(std::uint16_t tag, std::int32_t result, std::uint64_t address) noexcept override;
  io_uring_sqe* prepare(std::uint32_t cookie) noexcept override;
  Status wait(std::chrono::nanoseconds timeout) noexcept override;
  int errno_value() const noexcept override { return failed_errno_; }
  std::uint64_t enters() const noexcept override { return enters_; }
  std::span<const DriverEvent> events() noexcept override;
  std::optional<ublk_abi::Descriptor> descriptor(std::uint16_t tag) const noexcept override;
  ssize_t read_data(std::uint16_t tag, std::uint32_t offset, std::span<std::byte> to) noexcept override;
  ssize_t write_data(std::uint16_t tag, std::uint32_t offset,
                     std::span<const std::byte> from) noexcept override;
  bool register_data(std::uint16_t tag) noexcept override;
  io_uring_sqe* prepare_transfer(std::uint16_t tag) noexcept override;
  bool unregister_data(std::uint16_t tag) noexcept override;
  void wake() noexcept override { woken_ = true; }

 private:
  enum class Owner : std::uint8_t { nobody, driver, server, gone };

  struct Tag {
    Owner owner = Owner::nobody;
    std::uint64_t address = 0;
    std::vector<std::uint64_t> addresses;
    ublk_abi::Descriptor descriptor{};
    ModelRequest request;
    bool asked = false;  // a request waits for it
    // Zero copy: the pages of the request, which no address leads to.
    std::unique_ptr<IoMemory> pages;
    bool registered = false;
    bool transferring = false;
    bool give_back = false;  // linked behind the transfer
  };
  struct Command {
    enum class Kind : std::uint8_t { fetch, commit, register_data, transfer, unregister_data };
    Kind kind;
    std::uint16_t tag;
    std::int32_t result = 0;
    std::uint64_t address = 0;
    io_uring_sqe* entry = nullptr;
  };

  void post(DriverEvent event) { events_.push_back(event); }
  void run(const Command& command);
  void run_registration(const Command& command);
  void run_transfer(const Command& command);
  void run_give_back(std::uint16_t number);
  void on_completion(const io_uring_cqe& completion);
  void violate(std::uint16_t tag, const char* why);
  void complete(std::uint16_t number, std::int32_t result);
  Status reap_ring();
  void perform();
  void deliver(std::uint16_t number);
  ssize_t copied(std::uint16_t tag, Operation operation, std::uint32_t offset, std::size_t count);

  DataPath path_;
  std::vector<Tag> tags_;
  std::vector<Command> commands_;
  std::deque<DriverEvent> events_;
  std::vector<DriverEvent> batch_;
  std::vector<ModelResult> results_;
  std::vector<std::string> violations_;
  std::vector<std::size_t> batches_;
  std::unique_ptr<Ring> ring_;  // once the target has an entry for it
  Performer performer_;
  std::deque<io_uring_sqe> performed_;  // entries that the performer has
  std::vector<io_uring_sqe*> prepared_;
  std::vector<io_uring_sqe> entries_;
  std::size_t in_ring_ = 0;
  std::size_t copy_bytes_max_ = ~std::size_t{0};
  int copy_errno_ = 0;
  int refuse_errno_ = 0;
  int wait_errno_ = 0, failed_errno_ = 0;
  bool refuse_entry_ = false;
  int registration_errno_ = 0;
  std::uint32_t transfer_bytes_max_ = ~0U;
  std::chrono::nanoseconds timeout_{0};
  std::uint64_t enters_ = 0;
  bool stopping_ = false;
  bool woken_ = false;
};

/// Bytes that depend on `seed`.
std::vector<std::byte> pattern(std::uint64_t seed, std::size_t bytes);

}  // namespace sluice::test
