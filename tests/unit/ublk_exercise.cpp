#include "tests/unit/ublk_exercise.hpp"

#include "tests/support/must.hpp"
#include "tests/unit/ublk_exercise_disk.hpp"
#include "tests/unit/ublk_exercise_store.hpp"
#include "tests/unit/ublk_exercise_targets.hpp"
#include "tests/unit/ublk_model.hpp"
#include "ublk/fault_target.hpp"
#include "ublk/io_memory.hpp"
#include "ublk/null_target.hpp"
#include "ublk/queue.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

namespace sluice::test {

namespace {

constexpr std::uint32_t sector = ublk_abi::sector_bytes;
constexpr std::uint32_t page_sectors = extent_page_bytes / sector;
constexpr int steps_max = 400;
constexpr std::size_t complaints_max = 8;

enum class Kind : std::uint8_t { null, memory, file, store };
constexpr Kind kinds[] = {Kind::null,   Kind::memory, Kind::file,  Kind::store,
                          Kind::memory, Kind::file,   Kind::store, Kind::store};

/// Sectors. A store has two groups, and a request can be a group and some more.
struct Shape {
  std::uint32_t device, request_max, block;
};
constexpr Shape shape_of(Kind kind) {
  if (kind == Kind::store) return {2 * extent_group_pages * page_sectors, 20 * page_sectors, page_sectors};
  return {40, 8, 1};
}

// Bytes of a number, and cheap: with sanitizers most of the time would go into random ones.
std::vector<std::byte> content(std::uint64_t number, std::size_t bytes) {
  std::vector<std::byte> data(bytes);
  std::uint64_t word = number * 0x9e3779b97f4a7c15U;
  for (std::size_t i = 0; i + sizeof word <= bytes; i += sizeof word) {
    word = word * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(data.data() + i, &word, sizeof word);
  }
  return data;
}

/// A request that was asked for and has not ended.
struct InFlight {
  Operation operation;
  std::uint64_t first;  // bytes
  std::uint64_t bytes;
  int refusal;  // what the queue must say to it at once; 0: the target has it
  std::vector<std::byte> data;
};

class Exercise {
 public:
  explicit Exercise(std::span<const std::uint8_t> choices)
      : input_(choices.data(), choices.size()),
        kind_(kinds[input_.below(std::size(kinds))]),
        shape_(shape_of(kind_)),
        path_(input_.below(2) == 0 ? DataPath::user_copy : DataPath::copy),
        depth_(static_cast<std::uint16_t>(1 + input_.below(6))),
        allowed_(depth_),
        in_flight_(depth_),
        store_{.input = input_, .bytes = first_content(kind_, shape_), .allowed = allowed_},
        disk_(store_.bytes),
        driver_(depth_, path_) {
    const auto limits = input_.below(8);
    store_.read_only = limits == 1;
    store_.discard_granularity = limits == 2 ? 0 : sector;
    make_target();
    geometry_ = target_->geometry();
    const bool buffers = path_ == DataPath::copy || target_->uses_buffers();
    memory_ = std::make_unique<IoMemory>(
        must(IoMemory::map(buffers ? std::size_t{depth_} * shape_.request_max * sector : 0, false)));
  }

  UblkExercise run() try {
    start_server();
    for (int step = 0; step < steps_max && !input_.empty() && done_.complaints.size() < complaints_max;
         ++step) {
      act();
      look();
    }
    end();
    return std::move(done_);
  } catch (const std::exception& error) {
    done_.complaints.emplace_back(error.what());
    return std::move(done_);
  }

 private:
  template <class... Args>
  void complain(fmt::format_string<Args...> format, Args&&... args) {
    done_.complaints.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  static std::vector<std::byte> first_content(Kind kind, const Shape& shape) {
    const auto bytes = std::size_t{shape.device} * sector;
    return kind == Kind::null || kind == Kind::store ? std::vector<std::byte>(bytes) : content(0, bytes);
  }

  void make_target() {
    if (kind_ == Kind::null) {
      target_ = must(NullTarget::open(store_.bytes.size()));
    } else if (kind_ == Kind::memory) {
      auto memory = std::make_unique<MemoryStoreTarget>(store_);
      memory_target_ = memory.get();
      target_ = std::move(memory);
    } else {
      driver_.perform_entries([this](const io_uring_sqe& entry) { return perform(store_, entry); });
      if (kind_ == Kind::file)
        target_ = std::make_unique<FileStoreTarget>(store_);
      else
        make_store();
    }
    rules_.resize(input_.below(3));
    for (auto& rule : rules_) {
      rule.operations = input_.take<std::uint8_t>();
      rule.action = static_cast<FaultRule::Action>(input_.below(3));
      rule.errno_value = input_.below(2) == 0 ? EIO : ENOSPC;
      rule.delay = std::chrono::microseconds(input_.below(4));
      rule.every = 1 + input_.below(4);
      rule.after = input_.below(4);
      faults_.push_back(rule.action == FaultRule::Action::error ? rule.errno_value : EIO);
    }
    put_faults_before();
  }

  void put_faults_before() {
    if (!rules_.empty()) target_ = std::make_unique<FaultTarget>(std::move(target_), rules_);
  }

  // A full stream is an error or makes who writes wait until it is taken; a full segment is an error.
  void make_store() {
    const auto how = input_.take<std::uint8_t>();
    StoreDeviceOptions options{.bytes = store_.bytes.size(), .units = 64};
    options.tells = (how & 3) != 0;
    if (options.tells && (how & 12) == 0) {
      options.policy = PublishPolicy::fail;
      faults_.push_back(EIO);
    }
    if ((how & 48) == 0) {
      options.units = 8;
      faults_.push_back(ENOSPC);
    }
    device_ = std::make_unique<StoreDevice>(options);
    target_ = device_->open();
  }

  // ---- The server ----------------------------------------------------------------------------------------

  void start_server() {
    for (int attempt = 0; attempt < 8; ++attempt) {
      ++done_.servers;
      queue_ = must(UblkQueue::open(driver_, *target_,
                                    {.index = 0,
                                     .depth = depth_,
                                     .io_bytes_max = shape_.request_max * sector,
                                     .data_path = path_,
                                     .buffers = memory_->bytes()}));
      if (stopping_) queue_->stop();
      if (queue_->fetch_all()) return;
      bury_server();
    }
    throw std::runtime_error("no server starts, although the driver refuses nothing more");
  }

  void bury_server() {
    look();
    queue_.reset();
    const bool reissue = input_.below(2) == 0;
    if (device_ && input_.below(2) == 0) {
      target_.reset();
      target_ = device_->open();
      put_faults_before();
    }
    driver_.server_died(reissue);
    failed_with_server_ = !reissue;
    look();
    failed_with_server_ = false;
  }

  // A turn that fails ends the server, as it does its thread; the next one recovers the device.
  void turn() {
    if (queue_->turn(std::chrono::milliseconds(1))) return;
    if (refusals_ == 0)
      complain("a turn failed, although the driver refused nothing");
    else
      --refusals_;
    bury_server();
    start_server();
  }

  void act() {
    const auto what = input_.below(64);
    if (what < 20) return ask_sensibly();
    if (what < 24) return ask_anything();
    if (what < 34 && memory_target_ != nullptr) {
      if (what < 26) return memory_target_->keep(input_.below(2) == 0);
      return memory_target_->end_one();
    }
    if (what < 28 && device_) return take();
    switch (what) {
      case 34: return limit_copies();
      case 35: ++refusals_; return driver_.refuse_commit(input_.below(2) == 0 ? EINVAL : EBUSY);
      case 36: ++refusals_; return driver_.fail_wait(EINTR);
      case 37: return refuse_entry();
      case 38: bury_server(); return start_server();
      case 39:
        if (input_.below(8) != 0) return;
        stopping_ = true;
        return queue_->stop();
      case 40:
        if (input_.below(8) == 0) driver_.stop_device();
        return;
      default: return turn();
    }
  }

  void take() { done_.told += device_->take(); }

  // ---- Requests ------------------------------------------------------------------------------------------

  void ask_sensibly() {
    constexpr Operation operations[] = {Operation::read,  Operation::read,    Operation::write,
                                        Operation::write, Operation::discard, Operation::write_zeroes,
                                        Operation::flush, Operation::write};
    const auto operation = operations[input_.below(8)];
    const auto blocks = shape_.device / shape_.block;
    auto first = input_.below(blocks);
    auto count = 1 + input_.below(std::min(shape_.request_max / shape_.block, blocks - first));
    if (kind_ == Kind::store && input_.below(4) == 0) {
      first -= static_cast<std::uint32_t>(first % extent_group_pages);
      count = extent_group_pages;
    }
    ask(operation, first * shape_.block, count * shape_.block,
        input_.below(4) == 0 ? ublk_abi::io_flag_fua : 0);
  }

  void ask_anything() {
    const auto operation =
        static_cast<Operation>(input_.below(2) == 0 ? input_.below(8) : input_.take<std::uint8_t>());
    const auto edge = input_.below(4);
    const std::uint64_t first = edge == 0   ? input_.take<std::uint64_t>()
                                : edge == 1 ? ~std::uint64_t{0} - input_.below(32)
                                            : input_.below(2 * shape_.device);
    const auto sectors =
        input_.below(2) == 0 ? input_.take<std::uint32_t>() : input_.below(2 * shape_.request_max);
    ask(operation, first, sectors, input_.take<std::uint32_t>() & ~std::uint32_t{0xff});
  }

  // What docs/ublk.md says that a device has, in other words than the queue's.
  int refusal_of(Operation operation, std::uint64_t first, std::uint32_t sectors) const {
    switch (operation) {
      case Operation::flush: return 0;
      case Operation::discard:
      case Operation::write_zeroes:
        if (geometry_.discard_granularity == 0) return EOPNOTSUPP;
        break;
      case Operation::read:
      case Operation::write: break;
      default: return EOPNOTSUPP;
    }
    if (geometry_.read_only && operation != Operation::read) return EROFS;
    const bool moves = operation == Operation::read || operation == Operation::write;
    if (sectors == 0 || (moves && sectors > shape_.request_max)) return EINVAL;
    if (first % shape_.block != 0 || sectors % shape_.block != 0) return EINVAL;
    return first < shape_.device && sectors <= shape_.device - first ? 0 : EINVAL;
  }

  bool overlaps(const InFlight& one, const InFlight& other) const {
    if (one.operation == Operation::read && other.operation == Operation::read) return false;
    return one.first < other.first + other.bytes && other.first < one.first + one.bytes;
  }

  void ask(Operation operation, std::uint64_t first, std::uint32_t sectors, std::uint32_t flags) {
    if (!driver_.can_ask()) return;
    InFlight asked{operation, 0, 0, refusal_of(operation, first, sectors), {}};
    if (asked.refusal == 0 && operation != Operation::flush) {
      asked.first = first * sector;
      asked.bytes = std::uint64_t{sectors} * sector;
    }
    // Of two at one place nobody knows which comes first.
    for (const auto& other : in_flight_)
      if (other && overlaps(asked, *other)) return;
    ModelRequest request{.operation = operation, .sector = first, .sectors = sectors, .flags = flags};
    if (operation == Operation::write)
      request.data = content(++writes_, std::min(sectors, shape_.request_max) * std::size_t{sector});
    asked.data = request.data;
    if (operation == Operation::discard || operation == Operation::write_zeroes)
      asked.data.assign(asked.bytes, std::byte{0});
    const auto tag = driver_.ask(std::move(request));
    if (in_flight_[tag]) complain("tag {}: the driver has it, and its request has not ended", tag);
    in_flight_[tag] = std::move(asked);
    allowed_[tag] = faults_;
    if (copy_errno_ != 0) allowed_[tag].push_back(copy_errno_);
    ++asked_;
  }

  void limit_copies() {
    constexpr int errors[] = {0, 0, 0, 0, 0, 0, EFAULT, EIO};
    const int error = errors[input_.below(8)];
    const std::size_t bytes_max = error == EIO ? 0 : 1 + input_.take<std::uint16_t>();  // none moved is EIO
    copy_errno_ = path_ == DataPath::user_copy ? error : 0;
    if (copy_errno_ != 0) allow_for_all(copy_errno_);
    driver_.limit_copies(bytes_max, error == EFAULT ? error : 0);
  }

  void refuse_entry() {
    ++refusals_;
    if (kind_ == Kind::file ||
        kind_ == Kind::store) {  // their own entry; a commit without one ends the server
      faults_.push_back(EBUSY);
      allow_for_all(EBUSY);
    }
    driver_.refuse_entry();
  }

  void allow_for_all(int error) {
    for (auto& errors : allowed_) errors.push_back(error);
  }

  // ---- What has come of it -------------------------------------------------------------------------------

  void look() {
    for (; results_seen_ < driver_.results().size(); ++results_seen_) ended(driver_.results()[results_seen_]);
    for (; violations_seen_ < driver_.violations().size(); ++violations_seen_)
      complain("the driver: {}", driver_.violations()[violations_seen_]);
    for (std::uint16_t tag = 0; tag < depth_; ++tag) {
      const auto address = path_ == DataPath::copy
                               ? reinterpret_cast<std::uint64_t>(memory_->bytes().data()) +
                                     std::uint64_t{tag} * shape_.request_max * sector
                               : 0;
      const auto& given = driver_.addresses(tag);
      for (auto& seen = addresses_seen_[tag]; seen < given.size(); ++seen)
        if (given[seen] != address) complain("tag {}: an address that is not its buffer's", tag);
    }
  }

  void ended(const ModelResult& result) {
    ++done_.requests;
    done_.errors += result.result < 0 ? 1U : 0U;
    done_.bytes_read += result.data.size();
    auto& slot = in_flight_.at(result.tag);
    if (!slot) return complain("tag {}: a result, {}, and no request", result.tag, result.result);
    const InFlight request = *std::exchange(slot, std::nullopt);
    const bool moves = request.operation == Operation::read || request.operation == Operation::write;
    const auto expected = request.refusal != 0 ? -request.refusal
                          : moves              ? static_cast<std::int32_t>(request.bytes)
                                               : 0;
    const auto& errors = allowed_[result.tag];
    if (result.result != expected && !(failed_with_server_ && result.result == -EIO) &&
        std::ranges::find(errors, -result.result) == errors.end())
      complain("tag {}: operation {} of {} bytes at {} ended with {}, expected {}", result.tag,
               static_cast<int>(request.operation), request.bytes, request.first, result.result, expected);
    if (request.refusal != 0) return;
    if (request.operation == Operation::read) {
      if (result.result == expected &&
          (result.data.size() != request.bytes || !disk_.can_be(request.first, result.data)))
        complain("tag {}: {} bytes at {} are not what was written", result.tag, request.bytes, request.first);
    } else if (kind_ != Kind::null && request.operation != Operation::flush) {
      if (result.result == expected)
        disk_.written(request.first, request.data);
      else
        disk_.perhaps_written(request.first, request.data);
    }
  }

  void end() {
    driver_.limit_copies(~std::size_t{0});
    stopping_ = true;
    queue_->stop();
    driver_.stop_device();
    const auto begin = std::chrono::steady_clock::now();
    for (int turns = 0; !queue_->ended() && done_.complaints.size() < complaints_max; ++turns) {
      if (device_) take();
      turn();
      look();
      if (turns > 1000 && std::chrono::steady_clock::now() - begin > std::chrono::seconds(2)) {
        complain("it was stopped, and does not end");
        break;
      }
    }
    look();
    for (std::uint16_t tag = 0; tag < depth_; ++tag)
      if (in_flight_[tag]) complain("tag {}: its request was lost", tag);
    if (driver_.results().size() != asked_)
      complain("{} requests, {} results", asked_, driver_.results().size());
    if (device_) {
      queue_.reset();
      target_.reset();
      take();
      store_.bytes = device_->end(done_.complaints);
    }
    if (!disk_.can_be(0, store_.bytes)) complain("the store is not what was written");
  }

  fuzz::Input input_;
  Kind kind_;
  Shape shape_;
  DataPath path_;
  std::uint16_t depth_;
  AllowedErrors allowed_;
  std::vector<std::optional<InFlight>> in_flight_;  // by tag
  ExerciseStore store_;
  DiskModel disk_;
  ModelDriver driver_;
  std::unique_ptr<StoreDevice> device_;
  std::unique_ptr<Target> target_;
  MemoryStoreTarget* memory_target_ = nullptr;
  std::vector<FaultRule> rules_;
  std::vector<int> faults_;  // what these and a full store may answer
  TargetGeometry geometry_;
  std::unique_ptr<IoMemory> memory_;
  std::unique_ptr<UblkQueue> queue_;
  UblkExercise done_;
  std::vector<std::size_t> addresses_seen_ = std::vector<std::size_t>(depth_);
  std::size_t results_seen_ = 0, violations_seen_ = 0, asked_ = 0;
  std::uint64_t writes_ = 0;
  int refusals_ = 0, copy_errno_ = 0;
  bool stopping_ = false, failed_with_server_ = false;
};

}  // namespace

UblkExercise exercise_ublk_queue(std::span<const std::uint8_t> choices) { return Exercise(choices).run(); }

}  // namespace sluice::test
